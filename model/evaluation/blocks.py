"""A function of many rows, a block of them at a time, so that its float64 copies stay small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .predictions import Floats

ROWS = 16_384

Function = Callable[[Floats], npt.NDArray[np.generic]]


def by_blocks(rows: npt.NDArray[np.floating], function: Function, size: int = ROWS) -> npt.NDArray[np.generic]:
    """function over float64 blocks of rows (N, D), its results one after the other (N, ...)."""
    if len(rows) <= size:
        return function(rows.astype(np.float64))
    parts = [function(rows[start : start + size].astype(np.float64)) for start in range(0, len(rows), size)]
    return np.concatenate(parts)
