"""bmrl-attribute says what its run is worth, and does not tell what such a run cannot tell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from support import fit

from bmrl.cli import attribute
from bmrl.cli import eval as evaluate
from bmrl.model.runs import attribute as attribute_images
from bmrl.model.runs.calibrate import coarse_leak
from bmrl.pipeline.protocols import load_protocol
from bmrl.pipeline.shardset import ShardSet

Invoke = Callable[..., Result]
LEAK = {"accuracy": 0.2, "control": "colour means, logistic", "n": 300, "n_train": 600}
GOOD = {
    "temperature": 1.0, "threshold_95": 0.0, "threshold_95_calibrated": 0.0, "threshold_95_acceptance": 0.95, "n": 300,
    "accuracy": 0.86, "majority": 0.34, "best_leak": LEAK, "confidences": [0.3, 0.4, 0.9, 1.0],
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    result = fit(small_root, out, "--protocol", small_protocol)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def faces(small_source: Path) -> list[Path]:
    return sorted((small_source / "test").rglob("*.*"))[:3]


@pytest.fixture
def ask(invoke: Invoke, run: Path, faces: list[Path]) -> Callable[..., tuple[list[str], list[dict[str, Any]], str]]:
    """Lines, records and standard error of the same question under one calibration.json (None: none)."""

    def ask(calibration: dict[str, Any] | None, *options: Any) -> tuple[list[str], list[dict[str, Any]], str]:
        (run / "calibration.json").unlink(missing_ok=True)
        if calibration is not None:
            (run / "calibration.json").write_text(json.dumps(calibration))
        text = invoke(attribute.main, run, *faces, "--device", "cpu", *options)
        document = invoke(attribute.main, run, *faces, "--device", "cpu", "--json", *options)
        assert text.exit_code == document.exit_code == 0, text.output
        return text.stdout.splitlines(), json.loads(document.stdout)["images"], text.stderr

    return ask


def test_what_training_measures(trained: Path, small_root: Path, small_protocol: str) -> None:
    found = json.loads((trained / "calibration.json").read_text())
    assert found["n"] == 6 and found["majority"] == 1 / 3
    assert len(found["confidences"]) == 6 and found["confidences"] == sorted(found["confidences"])
    accepted = np.mean(np.array(found["confidences"]) >= found["threshold_95"])
    assert found["threshold_95_acceptance"] == accepted == 5 / 6
    validations = [
        line for line in map(json.loads, (trained / "metrics.jsonl").read_text().splitlines()) if "step" not in line
    ]
    assert found["accuracy"] == validations[-1]["val_accuracy"]
    rows, protocol = ShardSet.open(small_root), load_protocol(small_protocol)
    parts = [rows.select(split=split, protocol=protocol, part="seen") for split in ("train", "val")]
    assert found["best_leak"] == coarse_leak(*parts)
    assert (found["best_leak"]["n_train"], found["best_leak"]["n"]) == (21, 6)
    assert found["best_leak"]["accuracy"] == 1.0  # their tint tells these sources apart


def test_every_answer_says_what_the_run_is_worth(ask: Any) -> None:
    lines, records, error = ask(GOOD)
    assert len(lines) == 3
    for line in lines:
        assert line.endswith("  [run: 86.0% of 300 seen images right, to beat 34.0%; p >= 0.000 passes 95.0%]")
    for record in records:
        assert record["attributed_to"] == next(iter(record["probabilities"])) and record["threshold"] == 0.0
        assert record["run"]["verdict"] == "better than guessing"
        assert [record["run"][name] for name in ("validation_accuracy", "n", "majority", "best_leak")] == [
            0.86, 300, 0.34, LEAK,
        ]  # fmt: skip
        assert record["run"]["chance"] == 1 / 3
        assert record["run"]["operating_point"] == {"threshold": 0.0, "seen_acceptance": 0.95, "asked_for": False}
    assert "86.0% of 300 seen validation images are attributed right, more than 34.0% by always the commonest" in error


@pytest.mark.parametrize(
    "bad", [{"accuracy": 0.36}, {"accuracy": 0.5, "n": 6}, {"best_leak": {**LEAK, "accuracy": 0.84}}]
)
def test_an_unreliable_run_cannot_tell(ask: Any, bad: dict[str, Any]) -> None:
    lines, records, error = ask({**GOOD, **bad})
    assert all(": cannot tell  (" in line and "[unreliable run: " in line for line in lines)
    assert {record["attributed_to"] for record in records} == {"cannot tell"}
    assert {record["run"]["verdict"] for record in records} == {"unreliable run"}
    assert ": unreliable run: " in error and "it cannot tell without --threshold" in error
    lines, records, _ = ask({**GOOD, **bad}, "--threshold", 0)
    assert all("[unreliable run: " in line and "cannot tell" not in line for line in lines)
    for record in records:
        assert record["attributed_to"] == next(iter(record["probabilities"]))
        assert record["run"]["operating_point"] == {"threshold": 0.0, "seen_acceptance": 0.95, "asked_for": True}


def test_without_calibration_nothing_is_told(ask: Any) -> None:
    lines, records, error = ask(None)
    assert all(": cannot tell  (" in line and line.endswith("[worth not known; no threshold]") for line in lines)
    assert all(record["attributed_to"] == "cannot tell" and record["threshold"] is None for record in records)
    assert "no calibration.json" in error and "cannot tell without --threshold" in error
    _, records, _ = ask(None, "--threshold", 1)
    assert all(record["attributed_to"] == "unknown source" and record["threshold"] == 1 for record in records)
    assert records[0]["run"]["operating_point"] == {"threshold": 1.0, "seen_acceptance": None, "asked_for": True}


def test_a_calibration_of_version_01(ask: Any) -> None:
    lines, records, error = ask({name: GOOD[name] for name in ("temperature", "threshold_95", "n")})
    assert all(line.endswith("[worth not known; p >= 0.000 passes an unknown share]") for line in lines)
    assert "its worth is not known (a run of version 0.1: bmrl-eval tells)" in error
    assert all(record["attributed_to"] == next(iter(record["probabilities"])) for record in records)
    assert records[0]["run"]["validation_accuracy"] is None


def test_an_image_that_cannot_be_read_carries_the_run_too(run: Path, tmp_path: Path) -> None:
    (record,) = attribute_images(run, [tmp_path / "none.png"], device="cpu")
    assert record["error"].startswith("cannot be read") and record["run"]["n"] == 6


def test_a_damaged_figure(invoke: Invoke, run: Path, faces: list[Path]) -> None:
    (run / "calibration.json").write_text(json.dumps({**GOOD, "accuracy": 7}))
    done = invoke(attribute.main, run, faces[0], "--device", "cpu")
    assert done.exit_code == 1 and done.stdout == ""
    sentence = f"error: {run / 'calibration.json'} is damaged: Expected float <= 1.0 - at $.accuracy"
    assert done.stderr.splitlines()[-1] == sentence


def test_the_evaluation_has_the_same_operating_point(
    invoke: Invoke, run: Path, small_root: Path, tmp_path: Path
) -> None:
    threshold = json.loads((run / "calibration.json").read_text())["threshold_95"]
    options = ("--shards", small_root, "--device", "cpu")
    judged = invoke(evaluate.main, run, *options, "--out", tmp_path / "a", "--json", "--threshold", repr(threshold))
    document = json.loads(judged.stdout)
    (beside,) = document["thresholds"].values()
    names = ("seen_rejection", "accepted_correct", "unseen_rejection")
    assert document["operating_point"] == {"threshold": threshold, **{name: beside[name] for name in names}}
    assert "confidences" not in document["calibration"] and document["calibration"]["accuracy"] is not None
    table = invoke(evaluate.main, run, *options, "--out", tmp_path / "b").stdout
    assert f"own: {threshold:.4f}, at which bmrl-attribute calls a source unknown" in table
    assert "own: " in (tmp_path / "b/report.html").read_text()
    (run / "calibration.json").unlink()
    done = invoke(evaluate.main, run, *options, "--out", tmp_path / "c", "--json")
    assert json.loads(done.stdout)["operating_point"] is None
