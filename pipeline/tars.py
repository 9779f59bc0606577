"""Writing and reading one tar of a column, with the sidecar that says what is in it and where.

A column's tar is a plain POSIX tar, byte for byte what webdataset.TarWriter writes with mtime 0 (tested). Its sidecar is
committed after it, so a (view, shard) is done exactly when the sidecar carries the plan's digest and the tar has the
sidecar's size.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .columns import VIEWS
from .commit import AtomicFile, Written, checkpoint, write_json

HEADER_BYTES = 512  # ustar header before each member; no PAX header ever
KEY_PATTERN = re.compile(r"[a-z0-9_-]{1,90}")  # with its suffix it fits the 100 bytes of a ustar name
COLUMN_FILE = re.compile(rf"({'|'.join(VIEWS)})/\d{{6,}}\.(tar|json)")  # below ROOT

Sidecar = dict[str, Any]


class ColumnWriter:
    """Streams one shard of one view to disk; nothing is visible before `commit`."""

    def __init__(self, root: Path, view: str, shard: str) -> None:
        self.tar_path = root / view / f"{shard}.tar"
        self.sidecar_path = root / view / f"{shard}.json"
        self.tar_path.parent.mkdir(exist_ok=True)
        self._view, self._shard = view, shard
        self._file = AtomicFile(self.tar_path)
        self._keys: list[str] = []
        self._members: dict[str, list[list[int]]] = {}

    def write(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample: suffix -> bytes."""
        if not KEY_PATTERN.fullmatch(key):
            raise ValueError(f"key {key!r} is not of the form [a-z0-9_-]+, at most 90 characters")
        for suffix in sorted(members):
            data = members[suffix]
            offset = self._file.tell() + HEADER_BYTES
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size, member.mode = len(data), 0o444
            # Not webdataset's writer, which streams through blocks of 10 KiB: that took as long as hashing the content.
            self._file.write(member.tobuf(tarfile.USTAR_FORMAT))
            self._file.write(data)
            self._file.write(bytes(-len(data) % tarfile.BLOCKSIZE))
            self._members.setdefault(suffix, []).append([offset, len(data)])
        self._keys.append(key)

    def commit(self, *, digest: str, rows: list[dict[str, Any]], drops: list[dict[str, Any]]) -> Sidecar:
        """Commit the tar (unless no sample was kept), then the sidecar; `rows` are the per-sample facts for the index."""
        end = self._file.tell() + 2 * tarfile.BLOCKSIZE
        self._file.write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
        if self._keys:
            checkpoint("temp-written", self.tar_path)
            self._file.sync()
            checkpoint("fsynced", self.tar_path)
            written = self._file.commit()
        else:
            self._file.discard()
            self.tar_path.unlink(missing_ok=True)  # a stale one of an older digest
            written = Written(0, "", "")
        sidecar: Sidecar = {
            "view": self._view,
            "shard": self._shard,
            "digest": digest,
            "num_samples": len(self._keys),
            "bytes": written.num_bytes,
            "sha256": written.sha256,
            "xxh3_128": written.xxh3_128,
            "keys": self._keys,
            "keys_sha256": keys_sha256(self._keys),
            "members": self._members,
            "rows": rows,
            "drops": drops,
        }
        write_json(self.sidecar_path, sidecar)
        return sidecar

    def __enter__(self) -> ColumnWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.discard()


def keys_sha256(keys: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def read_sidecar(root: Path, view: str, shard: str) -> Sidecar | None:
    """The sidecar, or None where it is absent or torn (its unit of work is then done again)."""
    try:
        document = json.loads((root / view / f"{shard}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) and "digest" in document else None


def is_done(root: Path, sidecar: Sidecar | None, digest: str) -> bool:
    """Whether this (view, shard) is committed under `digest`; sizes only, hashes are `verify`'s business."""
    if sidecar is None or sidecar["digest"] != digest:
        return False
    tar = root / sidecar["view"] / f"{sidecar['shard']}.tar"
    if sidecar["num_samples"] == 0:
        return not tar.exists()
    return tar.is_file() and tar.stat().st_size == sidecar["bytes"]


def read_members(root: Path, sidecar: Sidecar, suffix: str) -> list[bytes]:
    """All members of one suffix in row order, read by the sidecar's offsets."""
    out = []
    with (root / sidecar["view"] / f"{sidecar['shard']}.tar").open("rb") as file:
        for offset, size in sidecar["members"].get(suffix, []):
            file.seek(offset)
            out.append(file.read(size))
    return out
