"""Reading one column: tars are memory-mapped, members found by the sidecar's offsets, bytes checked before first use."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from ..shards.documents import check_sidecar
from ..shards.names import sidecar_name, tar_name
from ..shards.tars import HEADER_BYTES, DamagedShardError, Sidecar
from ..store.documents import DocumentError, parse_json
from ..store.reading import check_no_link, check_regular, read_within
from ..views.codec import npy_header
from ..views.column import ViewPlan

CHECKS = ("never", "first", "always")
_checked: set[tuple[str, str]] = set()  # (tar path, xxh3) of every shard this process has checked
_checked_lock = threading.Lock()

Bytes = npt.NDArray[np.uint8]


class ColumnReader:
    """Gathers samples of one array view from all shards of a set.

    sums: relative path -> sha256 (SHA256SUMS), against which sidecars are checked.
    """

    def __init__(
        self, root: Path, plan: ViewPlan, shards: Sequence[str], *, sums: Mapping[str, str], check: str
    ) -> None:
        self._root, self._plan, self._shards, self._sums, self._check = root, plan, shards, sums, check
        self._open: dict[int, _Shard] = {}
        self._locks = [threading.Lock() for _ in shards]  # threads check different shards at the same time
        array = plan.array
        self.dtype = np.dtype(array["dtype"]).newbyteorder("<")
        self.shape: tuple[int, ...] = tuple(array["shape"])

    def gather(
        self, out: npt.NDArray[Any], shards: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], keys: Sequence[str]
    ) -> None:
        """Fill `out` (B, *shape) with the samples at (shard, row), whose keys must be `keys`. Raises DamagedShardError."""
        targets = out.reshape(len(keys), -1).view(np.uint8)  # (B, bytes of a sample)
        for target, number, row, key in zip(targets, shards.tolist(), rows.tolist(), keys, strict=True):
            shard = self._open.get(number) or self._opened(number, key)
            if row >= len(shard.keys) or shard.keys[row] != key:
                found = shard.keys[row] if row < len(shard.keys) else "nothing"
                raise DamagedShardError(f"{shard.path}: row {row} should be {key}, its sidecar has {found}")
            target[:] = shard.sample(row)

    def _opened(self, number: int, key: str) -> _Shard:
        with self._locks[number]:
            shard = self._open.get(number)
            if shard is None:
                name = (self._plan.name, self._shards[number])
                kind = _RawShard if self._plan.suffix.endswith("npy") else _CodedShard
                try:
                    shard = kind(self._root, self._plan, name, self._sums.get(sidecar_name(*name), ""))
                    shard.check_bytes(self._check)
                except DamagedShardError as error:
                    raise DamagedShardError(f"{error} (found when sample {key} was to be read)") from error.__cause__
                self._open[number] = shard
        return shard


class _Shard(ABC):
    """One mapped tar with its sidecar; the tar's member names are compared with the sidecar's keys."""

    def __init__(self, root: Path, plan: ViewPlan, name: tuple[str, str], sidecar_sha256: str) -> None:
        self.path = root / tar_name(*name)
        self._plan = plan
        sidecar = _checked_sidecar(root, name, plan, sidecar_sha256)
        self.keys = [sys.intern(key) for key in sidecar["keys"]]  # one string for all views
        self._xxh3: str = sidecar["xxh3_128"]
        members = np.array(sidecar["members"].get(plan.suffix, []), dtype=np.int64).reshape(-1, 2)
        if len(members) != len(self.keys):
            raise DamagedShardError(
                f"{root / sidecar_name(*name)} has {len(members)} members .{plan.suffix} of {len(self.keys)}"
            )
        self._offsets, self._sizes = members.T
        self._data = self._map(root, tar_name(*name), sidecar["bytes"])
        for key, start in zip(self.keys, (self._offsets - HEADER_BYTES).tolist(), strict=True):
            if not self._holds(start, f"{key}.{plan.suffix}\0".encode()):
                raise DamagedShardError(f"{self.path}: the member at byte {start} is not {key}.{plan.suffix}")

    @abstractmethod
    def sample(self, row: int) -> Bytes:
        """The bytes of one array, C order."""

    def check_bytes(self, check: str) -> None:
        mark = (str(self.path.resolve()), self._xxh3)
        with _checked_lock:
            if check == "never" or (check == "first" and mark in _checked):
                return
        digest = xxhash.xxh3_128(self._data.data).hexdigest()  # releases the GIL
        if digest != self._xxh3:
            raise DamagedShardError(f"{self.path} is damaged: xxh3 {digest}, its sidecar says {self._xxh3}")
        with _checked_lock:
            _checked.add(mark)

    def _map(self, root: Path, name: str, num_bytes: int) -> Bytes:
        """A private mapping. torch's, as it keeps no file descriptor: a set may have more shards than a process files."""
        try:
            check_no_link(root, name)
            found = check_regular(self.path)
            if found != num_bytes:
                raise DamagedShardError(f"{self.path} has {found} bytes, its sidecar says {num_bytes}")
            return torch.from_file(str(self.path), shared=False, size=num_bytes, dtype=torch.uint8).numpy()
        except OSError as error:
            raise DamagedShardError(f"{self.path} cannot be read: {error.strerror}") from error
        except RuntimeError as error:
            if isinstance(error, DamagedShardError):
                raise
            raise DamagedShardError(f"{self.path} cannot be mapped: {error}") from error

    def _holds(self, start: int, expected: bytes) -> bool:
        return self._data[start : start + len(expected)].tobytes() == expected


class _RawShard(_Shard):
    """Members are .npy files of one size, so the arrays lie at even steps: one strided view serves all rows."""

    def __init__(self, root: Path, plan: ViewPlan, name: tuple[str, str], sidecar_sha256: str) -> None:
        super().__init__(root, plan, name, sidecar_sha256)
        array = plan.array
        dtype, shape = np.dtype(array["dtype"]).newbyteorder("<"), tuple(array["shape"])
        header = npy_header(dtype, shape)
        count = int(np.prod(shape)) * dtype.itemsize
        size = len(header) + count
        step = HEADER_BYTES + -(-size // HEADER_BYTES) * HEADER_BYTES
        expected = HEADER_BYTES + step * np.arange(len(self.keys))
        for key, offset, wanted, found in zip(self.keys, self._offsets, expected, self._sizes, strict=True):
            if offset != wanted or found != size or not self._holds(wanted, header):
                raise DamagedShardError(f"{self.path}: {key} is not an array {shape} of {dtype}")
        first = HEADER_BYTES + len(header)
        self._rows = np.ndarray((len(self.keys), count), np.uint8, self._data, offset=first, strides=(step, 1))

    def sample(self, row: int) -> Bytes:
        return self._rows[row]


class _CodedShard(_Shard):
    """Members that a codec must decode."""

    def sample(self, row: int) -> Bytes:
        data = self._data[self._offsets[row] : self._offsets[row] + self._sizes[row]]
        array = self._plan.array
        try:
            decoded = self._plan.decode(data.tobytes())
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken file
            raise DamagedShardError(f"{self.path}: {self.keys[row]} cannot be decoded: {error}") from error
        if decoded.shape != tuple(array["shape"]) or decoded.dtype != np.dtype(array["dtype"]):
            raise DamagedShardError(
                f"{self.path}: {self.keys[row]} is {decoded.dtype} {decoded.shape}, "
                f"expected {array['dtype']} {tuple(array['shape'])}"
            )
        return np.ascontiguousarray(decoded).reshape(-1).view(np.uint8)


def _checked_sidecar(root: Path, name: tuple[str, str], plan: ViewPlan, sha256: str) -> Sidecar:
    path = root / sidecar_name(*name)
    try:
        data = read_within(root, sidecar_name(*name))
    except OSError as error:
        raise DamagedShardError(f"{path} cannot be read: {error.strerror}; run `bmrl-prep verify`") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        try:
            digest = str(json.loads(data)["digest"])
        except (ValueError, KeyError, TypeError, RecursionError):
            digest = plan.digest
        what = "damaged" if digest == plan.digest else f"of another build (digest {digest[:12]})"
        raise DamagedShardError(f"{path} is not the one that SHA256SUMS lists, it is {what}; run `bmrl-prep verify`")
    try:
        sidecar: Sidecar = parse_json(data)
        check_sidecar(sidecar, plan.name)
    except DocumentError as error:
        raise DamagedShardError(f"{path} is damaged: {error}; run `bmrl-prep verify`") from error
    if (sidecar["view"], sidecar["shard"]) != name:
        raise DamagedShardError(f"{path} is that of {sidecar['view']}/{sidecar['shard']}; run `bmrl-prep verify`")
    if sidecar["digest"] != plan.digest:
        raise DamagedShardError(f"{path} is of another build (digest {sidecar['digest'][:12]})")
    return sidecar


__all__ = ["CHECKS", "ColumnReader", "DamagedShardError"]
