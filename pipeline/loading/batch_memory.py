"""Memory that batches are gathered into and that is used again once the caller has dropped them.

Fresh pages cost more than the copy into them: 12,000 against 30,000 samples/s on the machine of benchmarks/loader.py.
"""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class BatchMemory:
    """Hands out arrays of one shape and dtype; at most `keep` of the returned ones are held for reuse."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, keep: int, pinned: bool) -> None:
        self._shape, self._dtype, self._pinned = shape, dtype, pinned
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=keep)

    def tensor(self, count: int) -> torch.Tensor:
        """An uninitialised (count, *shape[1:]) tensor, count <= shape[0]."""
        shape = (count, *self._shape[1:])
        if self._pinned:  # torch's own cache of pinned blocks waits for copies that are under way
            kind = torch.from_numpy(np.empty(0, self._dtype)).dtype
            return torch.empty(shape, dtype=kind, pin_memory=True)
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(prod(self._shape) * self._dtype.itemsize, np.uint8)
        return torch.from_numpy(np.asarray(_Lease(block, self._free, shape, self._dtype)))


class _Lease:
    """Owns a block for as long as an array or tensor looks at it, then gives it back."""

    def __init__(
        self,
        block: npt.NDArray[np.uint8],
        free: deque[npt.NDArray[np.uint8]],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self._block, self._free = block, free
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (block.ctypes.data, False),
            "version": 3,
        }

    def __del__(self) -> None:
        self._free.append(self._block)
