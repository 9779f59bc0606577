"""A trainer small enough to be stopped many times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bmrl.model import build
from bmrl.model.layers.blocks import use_channels_last
from bmrl.model.training.trainer import Trainer
from bmrl.pipeline.shardset import ShardSet

CLOCKS = ("samples_per_s", "loader_wait_s")


@pytest.fixture
def make(tiny: dict[str, Any], small_set: ShardSet, small_protocol: str) -> Callable[..., Trainer]:
    """A fresh trainer of the tiny model on three classes, 21 training rows, 5 steps an epoch, 2 epochs."""
    seen = small_set.select(protocol=small_protocol, part="seen")
    train, val = seen.select(split="train"), seen.select(split="val")

    def trainer(run: Path, *, rows: ShardSet = val, **overrides: Any) -> Trainer:
        run.mkdir(exist_ok=True)
        torch.manual_seed(0)
        settings = {**tiny, "epochs": 2, "batch_size": 4, "checkpoint_every": 2, **overrides}
        model: Any = build("bmrl", train.classes, preset="demo", **settings)
        use_channels_last(model)  # as the command does; the optimizer's moments have to follow
        return Trainer(
            model,
            train=train.loader(views=model.training_views, batch_size=4, seed=0),
            validation=lambda: rows.loader(views=model.inference_views, batch_size=64, shuffle=False),
            run=run,
            device=torch.device("cpu"),
        )

    return trainer


@pytest.fixture
def read_steps() -> Callable[[Path], list[dict[str, Any]]]:
    """Lines of a run's metrics without what a clock decides."""

    def read(run: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]

    return read
