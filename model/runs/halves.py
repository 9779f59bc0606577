"""The seen validation rows in two halves: one picks the checkpoint, the other, which picked nothing, says at which temperature
and threshold the run works and what it is worth."""

from __future__ import annotations

import hashlib

import numpy as np

from ...pipeline.shardset import ShardSet


def halves(rows: ShardSet) -> tuple[ShardSet, ShardSet]:
    """Rows that pick, rows that calibrate. Whole groups go to either, in the order of their hashes, so that nobody's face is in
    both; of a single group, or where a class would be missing in a half, all rows are in both."""
    groups = rows.index["group"].to_pylist()
    order = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    side = {group: place % 2 for place, group in enumerate(order)}
    picks = np.array([side[group] == 0 for group in groups], dtype=bool)
    classes = set(rows.labels.tolist())
    if any(set(rows.labels[half].tolist()) != classes for half in (picks, ~picks)):
        return rows, rows
    return rows.take(np.flatnonzero(picks)), rows.take(np.flatnonzero(~picks))
