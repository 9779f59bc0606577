"""How much memory is free, and a sentence before more than that is taken because a file says so."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_LIMITS = (  # of a container: limit, use
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


class TooLargeError(ValueError):
    """What was asked for, or what a file announces, does not fit into memory; the text has the estimate."""


def check_memory(num_bytes: int, what: str, *, free: int | None = None) -> None:
    """Raises TooLargeError where an estimate is more than what is free (None: of this process's memory)."""
    if num_bytes > (free := free_bytes() if free is None else free):
        raise TooLargeError(f"{what} would take {size_text(num_bytes)} of memory, {size_text(free)} are free")


def free_bytes() -> int:
    """The least of what the machine, the container and the process's limit (ulimit -v) leave."""
    found = [_machine_bytes()]
    for limit_file, used_file in _LIMITS:
        limit, used = _number(limit_file), _number(used_file)
        if limit is not None and used is not None:
            found.append(max(0, limit - used))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        found.append(max(0, soft - _mapped_bytes()))
    return min(found)


def size_text(num_bytes: int) -> str:
    """Bytes for a sentence: 1.5 GB, and 12.0 MB below a tenth of one."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def _machine_bytes() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _mapped_bytes() -> int:
    try:
        return int(_STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max": no limit
        return None
