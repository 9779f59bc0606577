"""What a command that computes sets for its own process; a library call sets nothing of it."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


def share_cores() -> None:
    """Let idle threads of OpenMP sleep instead of spin; to be called before torch is imported.

    Beside another busy process, spinning threads made training ten times slower on two cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Let malloc keep what torch frees for torch's next tensors, rather than hand it back and fault it in again.

    A training step on a CPU frees gigabytes; getting them back from the kernel took 12 to 40 % of its time. The peak stays
    what it was (4 % more at most). glibc alone; a MALLOC_ variable that the user has set is left as it is.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value, variable in (
        (_MMAP_MAX, 0, "MALLOC_MMAP_MAX_"),
        (_TRIM_THRESHOLD, 2**31 - 1, "MALLOC_TRIM_THRESHOLD_"),
        (_TOP_PAD, 64 << 20, "MALLOC_TOP_PAD_"),
    ):
        if variable not in os.environ:
            libc.mallopt(option, value)
