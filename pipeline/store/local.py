"""The one way a file of a shard set comes into being: unique temporary name, fsync, rename, fsync of the folder.

Also the lock that keeps a second process off a folder. A ROOT's correctness never rests on it: commits are idempotent.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

TEMPORARY_PREFIX = ".tmp-"
PAUSE_S = 20.0  # seconds that a kill test has to strike


@dataclass(frozen=True)
class Written:
    """What was written: byte count and both checksums (hex)."""

    num_bytes: int
    sha256: str
    xxh3_128: str


class AtomicFile:
    """A binary file that appears under its name only when `commit` has returned; hashes are taken while writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
        self._file: IO[bytes] | None = self.temporary.open("xb")
        self._sha256 = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_128()
        self._num_bytes = 0

    def write(self, data: bytes) -> int:
        assert self._file is not None
        self._file.write(data)
        self._sha256.update(data)
        self._xxh3.update(data)
        self._num_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self._num_bytes

    def sync(self) -> None:
        """Flush and fsync the temporary file."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())

    def commit(self) -> Written:
        """fsync, rename into place, fsync the folder."""
        self.sync()
        assert self._file is not None
        self._file.close()
        self._file = None
        checkpoint("before-rename", self.path)
        self.temporary.replace(self.path)
        sync_folder(self.path.parent)
        checkpoint("after-rename", self.path)
        return Written(self._num_bytes, self._sha256.hexdigest(), self._xxh3.hexdigest())

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()  # after a commit there is nothing left to discard


def write_bytes(path: Path, data: bytes) -> Written:
    """Atomically create or replace `path`."""
    with AtomicFile(path) as file:
        file.write(data)
        return file.commit()


def write_json(path: Path, document: Any) -> Written:
    """One canonical rendering: sorted keys, two-space indent at the top levels, UTF-8, final newline."""
    return write_bytes(path, canonical_json(document) + b"\n")


def write_parquet(path: Path, table: pa.Table) -> Written:
    """Equal tables give equal bytes with one version of pyarrow."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return write_bytes(path, buffer.getvalue().to_pybytes())


def canonical_json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(root: Path) -> None:
    """Delete what killed writers left behind in a ROOT; called under the lock."""
    for folder in (root, *(path for path in root.iterdir() if path.is_dir())):
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            if not path.is_dir():  # no writer makes one
                path.unlink(missing_ok=True)


class RootBusyError(RuntimeError):
    """Another process holds the folder; the text names it."""


NO_LOCKS = "warning: {folder} is on a file system without locks; nothing keeps a second process from writing there"


@contextmanager
def lock_root(root: Path, *, doing: str = "built") -> Iterator[bool]:
    """Hold ROOT for one builder (a training's RUN: doing="trained"). The kernel drops the lock with the process, so one
    that was killed blocks nobody. Yields False where the file system has no locks (NFS without a lock service)."""
    log = root / ".log"
    log.mkdir(parents=True, exist_ok=True)
    with (log / "lock").open("a+") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EACCES: what NFS may say of a lock that is taken
            file.seek(0)
            holder = file.read().strip() or "an unknown process"
            raise RootBusyError(f"{root} is being {doing} by {holder}; wait for it to end, or stop it") from None
        except OSError:
            held = False
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield held


def checkpoint(name: str, path: Path) -> None:
    """A named moment of a commit, where the kill tests strike.

    BMRL_PAUSE_AT=name:substring of the path:MARKER lets the first process that comes here create MARKER with its pid in
    it and wait to be killed, or for MARKER to become empty; unset, as always outside tests, this does nothing.
    """
    spec = os.environ.get("BMRL_PAUSE_AT")
    if not spec:
        return
    wanted, part, marker = spec.split(":", 2)
    if wanted == name and part in path.as_posix():
        try:
            with Path(marker).open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return  # somebody was here
        end = time.monotonic() + PAUSE_S
        while Path(marker).stat().st_size and time.monotonic() < end:
            time.sleep(0.02)
