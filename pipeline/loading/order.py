"""The order of an epoch: a pure function of (seed, epoch, selection), so that any step of it can be resumed in O(1)."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def epoch_order(
    shards: Rows, *, seed: int, epoch: int, selection_digest: str, shuffle: bool, window: int | None = None
) -> Rows:
    """Row numbers 0..n-1 in the order of this epoch.

    shards (n,): the shard of each selected row. Shards are shuffled, then rows within windows of `window` shards (None:
    all of them, an unrestricted shuffle). Without shuffle: the rows as they stand.
    """
    count = len(shards)
    if not shuffle:
        return np.arange(count, dtype=np.int64)
    generator = _generator(seed, epoch, selection_digest, "order")
    if window is None:
        return generator.permutation(count).astype(np.int64)
    names = generator.permutation(np.unique(shards))
    rank = {int(name): i for i, name in enumerate(names)}
    windows = np.array([rank[int(shard)] // window for shard in shards])
    mixed = generator.permutation(count)  # rows of one window keep this random order under the stable sort
    return mixed[np.argsort(windows[mixed], kind="stable")].astype(np.int64)


def balanced_order(labels: Rows, *, seed: int, epoch: int, selection_digest: str) -> Rows:
    """As many draws as there are rows, every class equally often (to one), without repeats before a class is used up."""
    generator = _generator(seed, epoch, selection_digest, "balanced")
    count = len(labels)
    if not count:
        return np.arange(0, dtype=np.int64)
    classes = np.unique(labels)
    picks = []
    for number, label in enumerate(generator.permutation(classes)):
        rows = np.flatnonzero(labels == label)
        wanted = count // len(classes) + (number < count % len(classes))
        rounds = [generator.permutation(rows) for _ in range(-(-wanted // len(rows)))]
        picks.append(np.concatenate([*rounds, rows[:0]])[:wanted])
    return generator.permutation(np.concatenate(picks)).astype(np.int64)


def _generator(seed: int, epoch: int, selection_digest: str, purpose: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{epoch}/{selection_digest}/{purpose}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
