"""SHA256SUMS: the hash of every file of a shard set, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..store.local import write_bytes
from ..store.reading import read_within
from .names import SUMS

SUMS_BYTES = 2**30  # 10 million files
_LINE = re.compile(r"([0-9a-f]{64})  (.+)\n")


def write_sums(root: Path, sums: Mapping[str, str]) -> None:
    """sums: relative path -> sha256, lower-case hexadecimal. One line a file, sorted by path."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    write_bytes(root / SUMS, "".join(lines).encode("ascii"))


def read_sums(root: Path) -> dict[str, str]:
    """Relative path -> sha256. Raises ValueError, which says what is wrong, for a file that `write_sums` did not write."""
    try:
        lines = read_within(root, SUMS, limit=SUMS_BYTES).decode("ascii").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        raise ValueError("missing or damaged") from None
    sums = {}
    for line in lines:
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise ValueError(f"damaged: cannot read the line {line.strip()[:80]!r}")
        sums[parts[2]] = parts[1]
    if list(sums) != sorted(sums) or len(sums) != len(lines):
        raise ValueError("damaged: its lines are not sorted and unique")
    return sums
