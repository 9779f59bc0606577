"""A JPEG that was cut short and given an end marker is refused; a whole one is kept, whatever its last block is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import picture

from bmrl.pipeline.views import image as module
from bmrl.pipeline.views.errors import UnreadableImageError
from bmrl.pipeline.views.image import read_source

KINDS = {
    "4:2:0": ("RGB", {"subsampling": 2}),
    "4:2:2": ("RGB", {"subsampling": 1}),
    "4:4:4": ("RGB", {"subsampling": 0}),
    "gray": ("L", {}),
    "restart markers": ("RGB", {"restart_marker_blocks": 4}),
    "gray with restart markers": ("L", {"restart_marker_rows": 1}),
    "CMYK": ("CMYK", {}),
}
SIZES = [(192, 160), (201, 167)]


def encode(rgb: np.ndarray, kind: str, *, progressive: bool, **more: object) -> bytes:
    mode, options = KINDS[kind]
    stream = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(stream, "JPEG", quality=85, progressive=progressive, **options, **more)
    return stream.getvalue()


def scene(size: tuple[int, int], flat: int = 0) -> np.ndarray:
    """(H, W, 3); flat: pixels a side of a bottom-right corner of mid gray, as missing blocks are."""
    rgb = picture(7, 256)[: size[1], : size[0]].copy()
    if flat:
        rgb[-flat:, -flat:] = 128
    return rgb


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_several_places(kind: str, progressive: bool) -> None:
    for size in SIZES:
        data = encode(scene(size), kind, progressive=progressive)
        first = data.index(b"\xff\xda") + 16
        for share in (0.0, 0.1, 0.35, 0.5, 0.75, 0.9):
            cut = data[: first + int(share * (len(data) - 2 - first))]
            with pytest.raises(UnreadableImageError, match="cannot be decoded"):
                read_source(cut.rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("kind", ["restart markers", "gray with restart markers"])
def test_cut_before_a_restart_marker(kind: str) -> None:
    data = encode(scene(SIZES[0]), kind, progressive=False)
    marker = data.index(b"\xff\xd3", data.index(b"\xff\xda"))
    for cut in (data[:marker], data[: marker + 2]):
        with pytest.raises(UnreadableImageError, match="cut short"):
            read_source(cut + b"\xff\xd9")


def test_a_progressive_file_without_its_last_scans() -> None:
    data = encode(scene(SIZES[0]), "4:2:0", progressive=True)
    first = data.index(b"\xff\xda")
    scans = [at for at in range(first, len(data) - 1) if data[at : at + 2] == b"\xff\xc4"]  # a scan brings its tables
    assert len(scans) > 5
    for scan in scans:
        with pytest.raises(UnreadableImageError, match="cut short"):
            read_source(data[:scan] + b"\xff\xd9")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_ones_are_kept_to_the_bit(kind: str, progressive: bool) -> None:
    for size in SIZES:
        for flat in (0, 1, 8, 17, 64, 256):
            data = encode(scene(size, flat), kind, progressive=progressive)
            with Image.open(io.BytesIO(data)) as image:
                expected = module.center_crop(np.asarray(image.convert("RGB")))
            assert np.array_equal(read_source(data).rgb, expected)


def test_a_turned_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for flat in (0, 64):
        data = encode(scene(SIZES[1], flat), "4:2:0", progressive=False, exif=exif)
        assert (read_source(data).width, read_source(data).height) == SIZES[1][::-1]
        with pytest.raises(UnreadableImageError, match="cut short"):
            read_source(data[: len(data) // 2] + b"\xff\xd9")


def test_bytes_after_the_end_marker_and_fill_bytes() -> None:
    data = encode(scene(SIZES[0], 64), "4:2:0", progressive=False)
    for other in (data + b"\0" * 9, data[:-2] + b"\xff\xff\xff\xd9", data + data):
        assert np.array_equal(read_source(other).rgb, read_source(data).rgb)


def test_only_where_it_may_matter_a_file_is_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    again = module._decode_with_pillow
    monkeypatch.setattr(module, "_decode_with_pillow", lambda data: (decoded.append(1), again(data))[1])
    read_source(encode(scene(SIZES[0]), "4:2:0", progressive=False))
    assert len(decoded) == 0
    read_source(encode(scene(SIZES[0], 64), "4:2:0", progressive=False))
    assert len(decoded) == 1
    read_source(encode(scene(SIZES[0]), "4:2:0", progressive=True))
    assert len(decoded) == 2


def test_no_word_of_a_library_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for progressive in (False, True):
        read_source(encode(scene(SIZES[0], 64), "restart markers", progressive=progressive))
    assert capfd.readouterr().err == ""
