"""Near-identical source images in different splits, found before anything is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..sources import Walk
from ..store.reading import read_file
from ..views.errors import UnreadableImageError
from ..views.image import read_source
from .near_duplicates import Hashes, describe_pairs, perceptual_hash

MAX_SOURCES = 5_000  # images that are decoded, about 10 ms each


def find_alike(
    walk: Walk, max_images: int = MAX_SOURCES, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """As `near_duplicates.audit_near_duplicates`, of the files that a walk found; those that cannot be read are left out."""
    rows = walk.rows
    if len(rows) > max_images:
        rows = [rows[n] for n in np.linspace(0, len(rows) - 1, max_images).round().astype(np.int64)]
    hashes: list[Hashes] = []
    kept = []
    for number, row in enumerate(rows, start=1):
        try:
            hashes.append(perceptual_hash(read_source(read_file(walk.root / row.path)).rgb))
        except (OSError, UnreadableImageError):
            continue
        finally:
            if progress is not None:
                progress(number, len(rows))
        kept.append(row)
    return describe_pairs(hashes, [row.split for row in kept], [row.path for row in kept], of=len(walk.rows))
