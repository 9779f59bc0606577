"""Reading one column: tars are memory-mapped, members found by the sidecar's offsets, bytes checked before first use."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from .columns import ARRAYS, ViewPlan
from .tars import HEADER_BYTES, Sidecar, keys_sha256, read_sidecar

CHECKS = ("never", "first", "always")
_checked: set[tuple[str, str]] = set()  # (tar path, xxh3) of every shard this process has checked
_checked_lock = threading.Lock()


class DamagedShardError(RuntimeError):
    """A column's file is not what its sidecar or the index says; the text names file and sample."""


class ColumnReader:
    """Gathers samples of one array view from all shards of a set."""

    def __init__(self, root: Path, plan: ViewPlan, shards: list[str], *, check: str) -> None:
        self._root, self._plan, self._shards, self._check = root, plan, shards, check
        self._raw = plan.suffix.endswith("npy")
        self._open: dict[int, _Shard] = {}
        self._lock = threading.Lock()
        array = ARRAYS[plan.name]
        self._dtype = np.dtype(array["dtype"]).newbyteorder("<")
        self._shape = tuple(array["shape"])

    def gather(self, shards: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], keys: list[str]) -> npt.NDArray[Any]:
        """(B, *shape) of the samples at (shard, row); the key of each is compared with the sidecar's."""
        out = np.empty((len(rows), *self._shape), dtype=self._dtype)
        for i, (number, row, key) in enumerate(zip(shards.tolist(), rows.tolist(), keys, strict=True)):
            shard = self._shard(number)
            if row >= len(shard.keys) or shard.keys[row] != key:
                found = shard.keys[row] if row < len(shard.keys) else "nothing"
                raise DamagedShardError(f"{shard.path}: row {row} should be {key}, its sidecar has {found}")
            offset, size = shard.members[row]
            if self._raw:
                out[i] = shard.array(offset, size, key, self._dtype, self._shape)
            else:
                out[i] = self._decode(shard, offset, size, key)
        return out

    def _decode(self, shard: _Shard, offset: int, size: int, key: str) -> npt.NDArray[Any]:
        array = self._plan.decode(bytes(shard.data[offset : offset + size]))
        if array.shape != self._shape:
            raise DamagedShardError(f"{shard.path}: {key} has shape {array.shape}, expected {self._shape}")
        return array

    def _shard(self, number: int) -> _Shard:
        shard = self._open.get(number)
        if shard is None:
            with self._lock:
                shard = self._open.get(number)
                if shard is None:
                    shard = _Shard(self._root, self._plan, self._shards[number], self._check)
                    self._open[number] = shard
        return shard


class _Shard:
    """One mapped tar with its sidecar."""

    def __init__(self, root: Path, plan: ViewPlan, name: str, check: str) -> None:
        self.path = root / plan.name / f"{name}.tar"
        sidecar = read_sidecar(root, plan.name, name)
        if sidecar is None:
            raise DamagedShardError(f"{self.path.with_suffix('.json')} is missing or damaged; run `bmrl-prep verify`")
        self._check_sidecar(sidecar, plan)
        self.keys: list[str] = sidecar["keys"]
        self.members: list[list[int]] = sidecar["members"].get(plan.suffix, [])
        try:
            with self.path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DamagedShardError(f"{self.path} cannot be read: {error}") from error
        if len(self.data) != sidecar["bytes"]:
            raise DamagedShardError(f"{self.path} has {len(self.data)} bytes, its sidecar says {sidecar['bytes']}")
        if check != "never":
            self._check_bytes(sidecar["xxh3_128"], always=check == "always")
        self._raw_header: bytes | None = None

    def array(self, offset: int, size: int, key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A zero-copy view of a raw .npy member; its tar name and npy header are compared, not parsed."""
        start = offset - HEADER_BYTES
        if self.data[start : start + len(key)] != key.encode() or self.data[start + len(key)] != 46:
            raise DamagedShardError(f"{self.path}: the member at {start} is not {key}")
        count = int(np.prod(shape))
        payload = offset + size - count * dtype.itemsize
        header = self.data[offset:payload]
        if self._raw_header is None:
            self._raw_header = npy_header(dtype, shape)
        if header != self._raw_header:
            raise DamagedShardError(f"{self.path}: {key} is not an array {shape} of {dtype}")
        return np.frombuffer(self.data, dtype=dtype, count=count, offset=payload).reshape(shape)

    def _check_sidecar(self, sidecar: Sidecar, plan: ViewPlan) -> None:
        if sidecar["digest"] != plan.digest:
            raise DamagedShardError(f"{self.path}: its sidecar is of another build (digest {sidecar['digest'][:12]})")
        members = sidecar["members"].get(plan.suffix, [])
        if keys_sha256(sidecar["keys"]) != sidecar["keys_sha256"] or len(members) != sidecar["num_samples"]:
            raise DamagedShardError(f"{self.path.with_suffix('.json')} contradicts itself; run `bmrl-prep verify`")

    def _check_bytes(self, expected: str, *, always: bool) -> None:
        mark = (str(self.path.resolve()), expected)
        with _checked_lock:
            if mark in _checked and not always:
                return
        digest = xxhash.xxh3_128(self.data).hexdigest()
        if digest != expected:
            raise DamagedShardError(f"{self.path} is damaged: xxh3 {digest}, its sidecar says {expected}")
        with _checked_lock:
            _checked.add(mark)


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes that np.save (format 1.0) writes before the data."""
    import io

    buffer = io.BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()
