"""The rows that a run's controls are trained and judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ...pipeline.protocols import Protocol
from ...pipeline.shardset import ShardSet
from ..attributor import Attributor
from ..evaluation.case import Track
from ..evaluation.controls.features import Rows, extract
from .calibrate import BATCH, representatives
from .folder import Run

CONTROL_ROWS = 20_000  # of training, seen and unseen rows each, at most: 19 kB of features a row, fits of minutes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run's attributor and the shard set that it is evaluated on."""

    folder: Path
    run: Run
    model: Attributor
    device: torch.device
    shard_set: ShardSet
    protocol: Protocol | None
    track: Track


def control_rows_of(
    asked: Asked, parts: dict[str, ShardSet]
) -> tuple[tuple[Rows, Rows, Rows] | None, dict[str, list[int]]]:
    """Features for the leak controls and the classical baseline: of the run's training rows, seen and unseen test rows.

    Beside them, part -> [how many were used, of how many]: a large part is represented by CONTROL_ROWS of its rows.
    """
    shard_set, protocol = asked.shard_set, asked.protocol
    train = shard_set.select(split="train")
    train = train.select(protocol=protocol, part="seen") if protocol else train.select(generators=asked.run.classes)
    whole = {"train": train, "seen": parts["seen"], "unseen": parts["unseen"]}
    used = {name: representatives(rows, CONTROL_ROWS) for name, rows in whole.items()}
    counts = {name: [len(used[name]), len(rows)] for name, rows in whole.items()}
    if len(set(used["train"].labels.tolist())) < 2:
        return None, counts
    containers = _containers(shard_set)
    views = [view for view in ("image", "parsing") if view in shard_set.views]

    def features(name: str) -> Rows:
        loader = used[name].loader(views=views, batch_size=BATCH, shuffle=False)
        return extract(asked.track(loader, f"controls, {name}"), containers)

    return (features("train"), features("seen"), features("unseen")), counts


def _containers(shard_set: ShardSet) -> dict[str, tuple[float, ...]]:
    names = ("source_width", "source_height", "source_format", "source_quality")
    columns = [shard_set.index[name].to_pylist() for name in names]
    formats = {name: float(i) for i, name in enumerate(sorted(set(columns[2])))}
    return {
        key: (float(width), float(height), formats[kind], float(quality))
        for key, width, height, kind, quality in zip(shard_set.index["key"].to_pylist(), *columns, strict=True)
    }
