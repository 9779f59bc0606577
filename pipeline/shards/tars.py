"""Writing and reading one tar of a column, with the sidecar that says what is in it and where.

A column's tar is a plain POSIX tar, byte for byte what webdataset.TarWriter writes with mtime 0 (tested). Its sidecar is
committed after it, so a (view, shard) is done exactly when the sidecar carries the plan's digest and the tar has the
sidecar's size.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import xxhash

from ..store.documents import DocumentError, parse_json
from ..store.local import AtomicFile, Written, checkpoint, write_json
from ..store.reading import NotRegularError, check_no_link, read_within
from .documents import check_sidecar
from .names import sidecar_name, tar_name

HEADER_BYTES = 512  # ustar header before each member; no PAX header ever
KEY_PATTERN = re.compile(r"[a-z0-9_-]{1,90}")  # with its suffix it fits the 100 bytes of a ustar name

Sidecar = dict[str, Any]


class DamagedShardError(RuntimeError):
    """A column's file is not what its sidecar or the index says; the text names file and sample."""


class ColumnWriter:
    """Streams one shard of one view to disk; nothing is visible before `commit`."""

    def __init__(self, root: Path, view: str, shard: str) -> None:
        self.tar_path = root / tar_name(view, shard)
        self.sidecar_path = root / sidecar_name(view, shard)
        self.tar_path.parent.mkdir(exist_ok=True)
        check_no_link(root, view)
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
    """The sidecar, or None where it is absent, torn or another one's (its unit of work is then done again)."""
    try:
        document: Sidecar = parse_json(read_within(root, sidecar_name(view, shard)))
        check_sidecar(document, view)
    except (FileNotFoundError, NotRegularError, DocumentError):
        return None
    return document if (document["view"], document["shard"]) == (view, shard) else None


def is_done(root: Path, sidecar: Sidecar | None, digest: str) -> bool:
    """Whether this (view, shard) is committed under `digest`; sizes only, hashes are `verify`'s business."""
    if sidecar is None or sidecar["digest"] != digest:
        return False
    tar = root / tar_name(sidecar["view"], sidecar["shard"])
    if sidecar["num_samples"] == 0:
        return not tar.exists()
    return tar.is_file() and not tar.is_symlink() and tar.stat().st_size == sidecar["bytes"]


def check_planned(sidecar: Sidecar, planned: Collection[str]) -> None:
    """Raises ValueError where a sidecar holds other samples than the plan has in that shard."""
    if not set(sidecar["keys"]) <= set(planned):
        raise ValueError(
            f"{sidecar_name(sidecar['view'], sidecar['shard'])} is of another plan; remove it, and run the same build again"
        )


def read_members(root: Path, sidecar: Sidecar, suffix: str) -> list[bytes]:
    """All members of one suffix in row order, read by the sidecar's offsets. Raises DamagedShardError, OSError."""
    if sidecar["num_samples"] == 0:  # there is no tar
        return []
    path = root / tar_name(sidecar["view"], sidecar["shard"])
    data = read_within(root, tar_name(sidecar["view"], sidecar["shard"]), limit=sidecar["bytes"])
    if xxhash.xxh3_128_hexdigest(data) != sidecar["xxh3_128"]:
        raise DamagedShardError(f"{path} is damaged: its xxh3 is not its sidecar's; run `bmrl-prep verify --deep`")
    if any(offset + size > len(data) for offset, size in sidecar["members"].get(suffix, [])):
        raise DamagedShardError(f"{path} is damaged: a member lies beyond its end; run `bmrl-prep verify --deep`")
    return [data[offset : offset + size] for offset, size in sidecar["members"].get(suffix, [])]
