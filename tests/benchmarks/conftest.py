"""Modules of benchmarks/, which is no package, and a preset that trains in a second."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from bmrl.model.attributors.bmrl import PRESETS, Sizes
from bmrl.pipeline.shardset import ShardSet


@pytest.fixture(scope="session")
def ablations() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        return importlib.import_module("ablations")


@pytest.fixture(scope="session")
def ablation_rows(ablations: ModuleType) -> ModuleType:
    return importlib.import_module("ablation_rows")  # which ablations has imported


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """Its name; every part is there, nothing is wide."""
    demo = PRESETS["demo"]
    model = Sizes(
        dim=16, depth=1, heads=2, mlp=16, widths=(4, 4, 4, 4, 8), convs=(1, 1, 1, 1, 1), strided_stem=True,
        noise_widths=(4, 4, 4), noise_convs=(1, 1, 1), text_depth=1, text_heads=2, text_mlp=16,
    )  # fmt: skip
    train = dataclasses.replace(demo.train, batch_size=4, precision="float32", flip=False)
    monkeypatch.setitem(
        PRESETS, "tiny", dataclasses.replace(demo, config=dataclasses.replace(demo.config, model=model), train=train)
    )
    return "tiny"


@pytest.fixture(scope="session")
def seen_rows(small_set: ShardSet, small_protocol: str) -> ShardSet:
    """21 training rows of three classes, and their validation and test rows."""
    return small_set.select(protocol=small_protocol, part="seen")
