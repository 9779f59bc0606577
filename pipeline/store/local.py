"""The one way a file of ours comes into being: unique temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from .reading import open_regular, read_file

TEMPORARY_PREFIX = ".tmp-"
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
COPY_BYTES = 2**40  # our own weights, copied where there are no links
PAUSE_S = 20.0  # seconds that a kill test has to strike


@dataclass(frozen=True)
class Written:
    """What was written: byte count and both checksums (hex; empty where none were asked for)."""

    num_bytes: int
    sha256: str
    xxh3_128: str


class AtomicFile:
    """A binary file that appears under its name only when `commit` has returned; hashes are taken while writing.

    durable=False leaves out both fsyncs, for what can be made again and is checked by its readers: thousands of small
    files would wait for the disk at each. hashed=False takes no checksums, for what nobody will ask them of (gigabytes of
    weights each few minutes). An OSError names the file that was to be, not the temporary one.
    """

    def __init__(self, path: Path, *, durable: bool = True, hashed: bool = True) -> None:
        self.path = path
        self.temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
        self._durable, self._hashed = durable, hashed
        with self._errors_of_path():
            self._file: IO[bytes] | None = self.temporary.open("xb")
        self._sha256 = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_128()
        self._num_bytes = 0

    def write(self, data: bytes) -> int:
        assert self._file is not None
        with self._errors_of_path():
            self._file.write(data)
        if self._hashed:
            self._sha256.update(data)
            self._xxh3.update(data)
        self._num_bytes += len(data)
        return len(data)

    def tell(self) -> int:
        return self._num_bytes

    def sync(self) -> None:
        """Flush and fsync the temporary file."""
        assert self._file is not None
        with self._errors_of_path():
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())

    def commit(self) -> Written:
        """fsync, rename into place, fsync the folder."""
        self.sync()
        assert self._file is not None
        with self._errors_of_path():
            self._file.close()
            self._file = None
            checkpoint("before-rename", self.path)
            self.temporary.replace(self.path)
            if self._durable:
                sync_folder(self.path.parent)
        checkpoint("after-rename", self.path)
        if not self._hashed:
            return Written(self._num_bytes, "", "")
        return Written(self._num_bytes, self._sha256.hexdigest(), self._xxh3.hexdigest())

    def discard(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what a full disk kept from being written is not wanted any more
                self._file.close()
            self._file = None
        self.temporary.unlink(missing_ok=True)

    @contextmanager
    def _errors_of_path(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()  # after a commit there is nothing left to discard


def write_bytes(path: Path, data: bytes, *, durable: bool = True, hashed: bool = True) -> Written:
    """Atomically create or replace `path`."""
    with AtomicFile(path, durable=durable, hashed=hashed) as file:
        file.write(data)
        return file.commit()


def write_json(path: Path, document: Any) -> Written:
    """One canonical rendering: sorted keys, no spaces, UTF-8, final newline."""
    return write_bytes(path, canonical_json(document) + b"\n")


def write_readable_json(path: Path, document: Any) -> Written:
    """For people to read: sorted keys, two-space indent, ASCII, final newline."""
    return write_bytes(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def write_parquet(path: Path, table: pa.Table, *, compression: str = "zstd") -> Written:
    """Equal tables give equal bytes with one version of pyarrow."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression=compression)
    return write_bytes(path, buffer.getvalue().to_pybytes())


def canonical_json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def link_or_copy(source: Path, path: Path) -> None:
    """Atomically make `path` a second name of the file `source`; a copy on a file system without links."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}-{path.name}")
    try:
        os.link(source, temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise OSError(error.errno, error.strerror, str(path)) from error
        write_bytes(path, read_file(source, limit=COPY_BYTES))
    finally:
        temporary.unlink(missing_ok=True)  # rename(2) leaves both names where they are links to one file already


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    return file_digests(path)[0]


def file_digests(path: Path) -> tuple[str, str]:
    """Hex digests of a file in one read: sha256, xxh3_128."""
    sha256, xxh3 = hashlib.sha256(), xxhash.xxh3_128()
    with open_regular(path) as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            xxh3.update(chunk)
    return sha256.hexdigest(), xxh3.hexdigest()


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(root: Path) -> None:
    """Delete what killed writers left behind in a ROOT; called under the lock."""
    for folder in (root, *(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())):
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            if not path.is_dir():  # no writer makes one
                path.unlink(missing_ok=True)


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
