"""bfloat16 of a preset is taken where the machine has it, and said where it has not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bmrl.model.runs import train
from bmrl.pipeline.shardset import ShardSet


@pytest.mark.parametrize(
    ("fast", "asked", "expected"),
    [(True, {}, "bfloat16"), (False, {}, "float32"), (False, {"precision": "bfloat16"}, "bfloat16")],
)
def test_a_preset_computes_in_what_the_cpu_has(
    fast: bool,
    asked: dict[str, str],
    expected: str,
    small_set: ShardSet,
    small_protocol: str,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    module = sys.modules["bmrl.model.runs.train"]  # the package's name `train` is the function
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: fast)
    narrow = {name: value for name, value in tiny.items() if name != "train.precision"}
    settings = {**narrow, "epochs": 1, "batch_size": 8, **asked}
    said: list[str] = []
    run = train(
        small_set, tmp_path / "run", preset="demo", protocol=small_protocol, settings=settings, device="cpu",
        on_message=said.append,
    )  # fmt: skip
    assert json.loads((run / "config.json").read_text())["config"]["train"]["precision"] == expected
    changed = not fast and not asked
    assert ("this CPU has no bfloat16 of its own, so the training computes in float32" in said) == changed
