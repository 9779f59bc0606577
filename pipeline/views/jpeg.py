"""Whether a JPEG is whole: one that was cut short and given an end marker decodes without a word, half gray.

Neither Pillow nor OpenCV passes libjpeg's warnings on. But a decoder of a whole file has all its blocks when it comes to
the end marker, and leaves alone what stands before it: filler there changes nothing. In a cut file it is read as the
missing blocks, and the pixels differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

RGB = npt.NDArray[np.uint8]  # (H, W, 3)

_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2  # frames of Huffman codes; an arithmetic decoder may read on at an end
_RESTART_INTERVAL, _SCAN, _END = 0xDD, 0xDA, 0xD9
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that is no stuffed byte, restart or padding
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_NUM_RESTARTS = 16  # fillers with restart markers between them: the decoder looks for the one that it expects
_FILLER = bytes(np.random.Generator(np.random.PCG64(0)).integers(0, 255, 512, dtype=np.uint8))  # no 0xff


@dataclass(kw_only=True)
class _Frame:
    """What the headers say, and where the end marker of the picture stands."""

    kind: int = 0  # of the SOF marker
    height: int = 0
    width: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)  # component -> horizontal, vertical factor
    missing_bits: dict[int, list[int]] = field(default_factory=dict)  # component -> of each coefficient; -1: all
    has_restarts: bool = False
    last_scan: int = 0  # where its coded data begin
    end: int = -1  # of the end marker; -1 where none was reached

    @property
    def is_complete(self) -> bool:
        """Whether scans send every coefficient of every component to its last bit."""
        return not any(any(bits) for bits in self.missing_bits.values())


def is_cut(data: bytes, pixels: RGB, decode: Callable[[bytes], RGB]) -> bool:
    """Whether blocks of a JPEG are missing before its end marker. pixels: of `data`, as they are stored.

    A file of one scan is decoded once more only where its last block is flat, as missing ones are: whole photographs pay
    next to nothing. A cut within that last block is not seen. A progressive file is always decoded once more, since what
    it lacks may be the details anywhere, and every coefficient must have been sent to its last bit.
    """
    frame = _read_frame(data, until_scan=True)
    if frame.kind in _SEQUENTIAL and frame.is_complete and not _ends_flat(frame, pixels):
        return False  # the coded data themselves need not be searched
    frame = _read_frame(data)
    if frame.kind not in (*_SEQUENTIAL, _PROGRESSIVE):
        return False
    if frame.end < 0 or not frame.is_complete:
        return True
    again = decode(data[: frame.end] + _filler(frame, data) + data[frame.end :])
    # Where they differ, two libraries may have decoded; one and the same is asked before a file is called cut.
    return not np.array_equal(again, pixels) and not np.array_equal(again, decode(data))


def _ends_flat(frame: _Frame, pixels: RGB) -> bool:
    """Whether the last coded unit is of one colour, but for the pixels into which its neighbours' colour is smoothed."""
    height, width = pixels.shape[:2]
    across = 8 * max(horizontal for horizontal, _ in frame.sampling.values())
    down = 8 * max(vertical for _, vertical in frame.sampling.values())
    rows, columns = max(1, (height - 1) % down - 1), max(1, (width - 1) % across - 1)
    corner = pixels[-rows:, -columns:].reshape(-1, 3)
    return bool((corner == corner[0]).all())


def _filler(frame: _Frame, data: bytes) -> bytes:
    if not frame.has_restarts:
        return _FILLER
    numbers = _RESTART.findall(data, frame.last_scan, frame.end)
    following = numbers[-1][0] - 0xD0 + 1 if numbers else 0
    parts = (bytes((0xFF, 0xD0 + (following + n) % 8)) + _FILLER for n in range(_NUM_RESTARTS))
    return _FILLER + b"".join(parts)


def _read_frame(data: bytes, *, until_scan: bool = False) -> _Frame:
    """Walk the markers, as far as the header of the first scan on request.

    A segment that runs over the end of the file leaves `end` at -1.
    """
    frame, at = _Frame(), 2
    while at + 4 <= len(data) or data[at : at + 2] == b"\xff\xd9":
        if data[at] != 0xFF:  # bytes that belong to nothing: decoders skip them
            at += 1
            continue
        kind = data[at + 1]
        if kind == _END:
            while at > frame.last_scan and data[at - 1] == 0xFF:  # padding is part of the marker
                at -= 1
            frame.end = at
            return frame
        if kind in (0x00, 0x01, 0xFF) or 0xD0 <= kind <= 0xD8:
            at += 1 if kind == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if length < 2 or at > len(data):
            return frame
        if kind in (*_SEQUENTIAL, _PROGRESSIVE) or (0xC3 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            _read_components(frame, kind, body)
        elif kind == _RESTART_INTERVAL:
            frame.has_restarts = any(body)
        elif kind == _SCAN:
            _read_scan(frame, body)
            frame.last_scan = at
            if until_scan:
                return frame
            found = _END_OF_SCAN.search(data, at)
            if found is None:
                return frame
            at = found.start()
    return frame


def _read_components(frame: _Frame, kind: int, body: bytes) -> None:
    frame.kind = kind
    frame.height, frame.width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    for at in range(6, len(body) - 2, 3):
        frame.sampling[body[at]] = (body[at + 1] >> 4, body[at + 1] & 15)
        frame.missing_bits[body[at]] = [-1] * 64


def _read_scan(frame: _Frame, body: bytes) -> None:
    """What a scan sends: some coefficients of some components, down to a bit."""
    count = body[0] if body else 0
    if len(body) < 4 + 2 * count:
        return
    first, last, low = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] & 15
    if frame.kind != _PROGRESSIVE:
        first, last, low = 0, 63, 0
    for component in body[1 : 1 + 2 * count : 2]:
        if component in frame.missing_bits:
            frame.missing_bits[component][first : last + 1] = [low] * (min(last, 63) + 1 - first)
