"""The one way a file that came from outside is read: regular files alone, and none beyond a limit.

A pipe hangs its reader for ever, a device never ends, and a link in a shard set may lead anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

IMAGE_BYTES = 2**30  # the largest image that `views.image` takes has 2^26 pixels of 8 bytes
TEXT_BYTES = 2**26  # YAML, lists of paths, SHA256SUMS of half a million files
JSON_BYTES = 2**29
TABLE_BYTES = 2**33  # parquet and csv: read at once, so memory is the other limit
HEADER_BYTES = 100_000_000  # of safetensors, by its format
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_BLOCK = 2**20


class NotRegularError(OSError):
    """A pipe, socket, device or folder stands where a file was expected, or a link where none may be."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError; NotRegularError without waiting for a pipe's other end."""
    _check_mode(os.stat(path).st_mode, path)  # noqa: PTH116 - opening a device may do something
    # One owner of the descriptor at every moment: an interrupt between two of them would close it twice.
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - Path.open knows no opener
    try:
        _check_mode(os.fstat(file.fileno()).st_mode, path)
    except BaseException:
        file.close()
        raise
    return file


def _without_waiting(path: str, _: int) -> int:
    return os.open(path, _FLAGS)


def read_file(path: Path, *, limit: int = IMAGE_BYTES) -> bytes:
    """The bytes of a regular file. Raises OSError for anything else, and for more than `limit` bytes before they are read."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_size(size, limit, path)
        data = file.read(size + 1)
        while len(data) > size:  # it grew, or is one of /proc, whose sizes are 0
            _check_size(len(data), limit, path)
            block = file.read(_BLOCK)
            if not block:
                break
            data += block
    return data


def read_text(path: Path, *, limit: int = TEXT_BYTES, encoding: str = "utf-8") -> str:
    """Text of a regular file. Raises OSError as `read_file`, and UnicodeDecodeError."""
    return read_file(path, limit=limit).decode(encoding)


def read_within(root: Path, name: str, *, limit: int = JSON_BYTES) -> bytes:
    """A file of a folder whose files are plain: as `read_file`, and a link on the way from `root` to it is refused."""
    check_no_link(root, name)
    return read_file(root / name, limit=limit)


def check_no_link(root: Path, name: str, *, of: str = "a shard set") -> None:
    """Raises NotRegularError where a part of root/name, itself a relative path, is a link."""
    path = root
    for part in name.split("/"):
        path /= part
        if path.is_symlink():
            raise NotRegularError(errno.ELOOP, f"is a link; {of} holds plain files", str(path))


def check_regular(path: Path) -> int:
    """The size of a regular file that a library opens by its path. Raises OSError."""
    found = path.stat()
    _check_mode(found.st_mode, path)
    return found.st_size


def check_safetensors(path: Path) -> None:
    """Raises OSError where this is no regular file that holds the header which its first 8 bytes announce."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, HEADER_BYTES):
        raise OSError(errno.EINVAL, f"announces a header of {length} bytes in a file of {size}", str(path))


def _check_mode(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise NotRegularError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotRegularError(errno.EINVAL, "not a regular file", str(path))


def _check_size(size: int, limit: int, path: Path) -> None:
    if size > limit:
        raise OSError(errno.EFBIG, f"has {size} bytes, more than the {limit} that are read", str(path))
