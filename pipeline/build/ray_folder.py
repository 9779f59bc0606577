"""The folder of a build's own Ray: short, taken away at the end, and swept by the next build where one was killed.

Ray keeps its sockets and logs in a folder that it never removes. A lock inside says that its builder lives: the kernel
drops it with the process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "bmrl-ray-"
LONGEST = 40  # bytes: with "/session_<time>_<pid>/sockets/plasma_store" a socket's path must stay within 107
UNLOCKED_S = 60.0  # seconds after which a folder without a lock is nobody's: its builder died before it made one


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder for one Ray, gone on the way out whatever happened."""
    base = _short_base()
    sweep(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    try:
        with (folder / "lock").open("w") as lock:
            with suppress(OSError):  # a file system without locks: then only age tells, and only of what has none
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
    finally:
        _remove(folder)


def sweep(base: Path) -> None:
    """Remove the folders of this user's builds that were killed; a live build holds the lock of its own."""
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and not _is_live(folder):
                _remove(folder)


def _is_live(folder: Path) -> bool:
    try:
        with (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < UNLOCKED_S
    except OSError:
        return True


def _short_base() -> Path:
    """The folder for temporary files, or /tmp where a socket's path in that would be too long."""
    base = Path(tempfile.gettempdir())
    return base if len(os.fsencode(base / PREFIX)) + 8 <= LONGEST else Path("/tmp")


def _remove(folder: Path) -> None:
    """Ray's processes end a moment after their driver, and may write until then."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
