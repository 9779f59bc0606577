"""The lock that keeps a second process off a folder. A ROOT's correctness never rests on it: commits are idempotent."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .reading import check_no_link, check_regular, open_regular

LOG = ".log"  # the folder of the lock and of what is outside a folder's identity


class RootBusyError(RuntimeError):
    """Another process holds the folder; the text names it."""


_HOLDER_BYTES = 300  # a pid and the name of a host
NO_LOCKS = "warning: {folder} is on a file system without locks; nothing keeps a second process from writing there"


@contextmanager
def lock_root(root: Path, *, doing: str = "built") -> Iterator[bool]:
    """Hold ROOT for one builder (a training's RUN: doing="trained"). The kernel drops the lock with the process, so one
    that was killed blocks nobody. Yields False where the file system has no locks (NFS without a lock service). Raises
    NotRegularError where a link or a pipe stands in the place of the lock: it would be written wherever that leads."""
    log = root / LOG
    check_no_link(root, f"{LOG}/lock", of=f"{LOG} of what is being {doing}")
    made = [folder for folder in (log, root, *root.parents) if not folder.exists()]  # the innermost first
    log.mkdir(parents=True, exist_ok=True)
    with _open_lock(log / "lock") as file:
        try:
            held = _take(file)
            if not _is_at(log / "lock", file):  # one that failed took it away meanwhile
                raise BlockingIOError
        except (BlockingIOError, PermissionError):  # EACCES: what NFS may say of a lock that is taken
            raise RootBusyError(f"{root} is being {doing} by {_holder(file)}; wait for it to end, or stop it") from None
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        try:
            yield held
        except BaseException:  # nothing was written: nothing is left
            if made and {path.name for path in log.iterdir()} == {"lock"}:
                (log / "lock").unlink()
                with suppress(OSError):  # not empty
                    for folder in made:
                        folder.rmdir()
            raise


def lock_holder(root: Path) -> str | None:
    """Who holds ROOT at this moment; None where nobody does, or where it cannot be known."""
    try:
        check_no_link(root, f"{LOG}/lock")
        with open_regular(root / LOG / "lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back as the file is closed
            except (BlockingIOError, PermissionError):
                return _holder(file)
    except OSError:
        pass
    return None


def _open_lock(path: Path) -> IO[bytes]:
    """The lock's file; made anew where one that failed took its folder away in this moment."""
    for _ in range(3):
        with suppress(FileNotFoundError):
            return _open_regular_lock(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    return _open_regular_lock(path)


def _open_regular_lock(path: Path) -> IO[bytes]:
    if path.exists():
        check_regular(path)
    return path.open("a+b")


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _take(file: IO[bytes]) -> bool:
    """Whether the file system has locks. Raises BlockingIOError or PermissionError where another process holds this one."""
    for is_last in (False, True):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if is_last:
                raise
            threading.Event().wait(0.05)  # it may be `lock_holder`, which asks for a moment
        except OSError:
            return False
        else:
            return True
    raise AssertionError("the last turn returns or raises")


def _holder(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_HOLDER_BYTES).decode("utf-8", "replace").strip() or "an unknown process"
