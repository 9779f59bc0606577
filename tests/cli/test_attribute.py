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
from bmrl.model.errors import RunError
from bmrl.model.evaluation.operating import operating_point
from bmrl.model.evaluation.statistics import SCORE_NAMES
from bmrl.model.runs import attribute as attribute_images
from bmrl.model.runs.calibrate import coarse_leak
from bmrl.model.runs.fitted import read_rows, read_statistics
from bmrl.model.runs.folder import read_run
from bmrl.model.runs.halves import halves
from bmrl.pipeline.protocols import load_protocol
from bmrl.pipeline.shardset import ShardSet

POINT = {"score": "max_softmax", "threshold": 0.0, "seen_acceptance": 0.95, "asked_for": False}
RELIABLE = {"accuracy": 0.99, "n": 300, "majority": 0.3, "best_leak": None}
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
    """On the half of the validation rows that picked no checkpoint."""
    found = json.loads((trained / "calibration.json").read_text())
    assert found["n"] == 3 and found["majority"] == 1 / 3
    assert len(found["confidences"]) == 3 and found["confidences"] == sorted(found["confidences"])
    accepted = np.mean(np.array(found["confidences"]) >= found["threshold_95"])
    assert found["threshold_95_acceptance"] == accepted == 2 / 3
    rows, protocol = ShardSet.open(small_root), load_protocol(small_protocol)
    train, validation = (rows.select(split=split, protocol=protocol, part="seen") for split in ("train", "val"))
    picking, calibrating = halves(validation)
    assert (len(picking), len(calibrating)) == (3, 3)
    left = read_rows(trained, read_run(trained))
    assert left is not None
    assert left["validation"].keys == calibrating.index["key"].to_pylist()
    assert left["train"].keys == train.index["key"].to_pylist()
    assert found["accuracy"] == left["validation"].correct.mean()
    point = found["operating_point"]
    again = operating_point(left["train"], left["validation"], read_statistics(trained))
    assert again is not None and point == again.document and set(point["thresholds"]) == set(SCORE_NAMES)
    assert found["best_leak"] == coarse_leak(train, calibrating)
    assert (found["best_leak"]["n_train"], found["best_leak"]["n"]) == (21, 3)
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
        assert record["run"]["operating_point"] == POINT
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
        assert record["run"]["operating_point"] == {**POINT, "asked_for": True}


def test_without_calibration_nothing_is_told(ask: Any) -> None:
    lines, records, error = ask(None)
    assert all(": cannot tell  (" in line and line.endswith("[worth not known; no threshold]") for line in lines)
    assert all(record["attributed_to"] == "cannot tell" and record["threshold"] is None for record in records)
    assert "no calibration.json" in error and "cannot tell without --threshold" in error
    _, records, _ = ask(None, "--threshold", 1)
    assert all(record["attributed_to"] == "unknown source" and record["threshold"] == 1 for record in records)
    assert records[0]["run"]["operating_point"] == {
        "score": "max_softmax", "threshold": 1.0, "seen_acceptance": None, "asked_for": True,
    }  # fmt: skip


def test_a_calibration_of_version_01(ask: Any) -> None:
    lines, records, error = ask({name: GOOD[name] for name in ("temperature", "threshold_95", "n")})
    assert all(line.endswith("[worth not known; p >= 0.000 passes an unknown share]") for line in lines)
    assert "its worth is not known (a run of version 0.1: bmrl-eval tells)" in error
    assert all(record["attributed_to"] == next(iter(record["probabilities"])) for record in records)
    assert records[0]["run"]["validation_accuracy"] is None


def test_an_image_that_cannot_be_read_carries_the_run_too(run: Path, tmp_path: Path) -> None:
    (record,) = attribute_images(run, [tmp_path / "none.png"], device="cpu")
    assert record["error"].startswith("cannot be read") and record["run"]["n"] == 3


def test_a_damaged_figure(invoke: Invoke, run: Path, faces: list[Path]) -> None:
    (run / "calibration.json").write_text(json.dumps({**GOOD, "accuracy": 7}))
    done = invoke(attribute.main, run, faces[0], "--device", "cpu")
    assert done.exit_code == 1 and done.stdout == ""
    sentence = f"error: {run / 'calibration.json'} is damaged: Expected float <= 1.0 - at $.accuracy"
    assert done.stderr.splitlines()[-1] == sentence


def test_the_evaluation_has_the_same_operating_point(
    invoke: Invoke, run: Path, small_root: Path, tmp_path: Path
) -> None:
    """Of the run, and of its predictions alone: the same score, threshold and figures."""
    point = json.loads((run / "calibration.json").read_text())["operating_point"]
    options = ("--shards", small_root, "--device", "cpu")
    done = invoke(evaluate.main, run, *options, "--out", tmp_path / "a")
    document = json.loads((tmp_path / "a/result.json").read_text())
    for found in (document["operating_point"], document["main"]):
        assert (found["score"], found["threshold"]) == (point["score"], point["threshold"])
    assert document["operating_point"]["accepted_correct"] == document["main"]["accepted_correct"]
    assert "confidences" not in document["calibration"] and document["calibration"]["accuracy"] is not None
    assert f"own: the main row's, {point['score']} >= {point['threshold']:.4g}" in done.stdout
    assert "own: " in (tmp_path / "a/report.html").read_text()
    judged = invoke(evaluate.main, "--predictions", tmp_path / "a/predictions.parquet", "--json")
    again = json.loads(judged.stdout)
    for name, value in document.items():
        if name not in ("controls", "zero_shot", "warnings"):  # they need images, and prompts
            assert again[name] == value, name
    old = {name: GOOD[name] for name in ("temperature", "threshold_95", "n")} | {"threshold_95": 0.43}
    (run / "calibration.json").write_text(json.dumps(old))  # of version 0.1
    main = json.loads(invoke(evaluate.main, run, *options, "--out", tmp_path / "b", "--json").stdout)["main"]
    assert (main["score"], main["threshold"]) == ("max_softmax", 0.43) and "older version" in main["reason"]
    (run / "calibration.json").unlink()
    (run / "calibration.parquet").unlink()
    (run / "config.json").write_text((run / "config.json").read_text().replace('"root_digest": "', '"root_digest": "0'))
    done = invoke(evaluate.main, run, *options, "--out", tmp_path / "c", "--json")
    assert json.loads(done.stdout)["operating_point"] is None
    assert json.loads(done.stdout)["main"] is None


@pytest.mark.parametrize("score", ["energy", "knn", "relative_mahalanobis"])
def test_an_answer_by_the_run_s_own_score(run: Path, faces: list[Path], score: str) -> None:
    """Each record's value is the score of the evaluation, and decides."""
    document = json.loads((run / "calibration.json").read_text())
    for threshold, is_known in ((-1e9, True), (1e9, False)):
        point = {**document["operating_point"], "score": score, "threshold": threshold}
        (run / "calibration.json").write_text(json.dumps({**document, **RELIABLE, "operating_point": point}))
        for record in attribute_images(run, faces, device="cpu"):
            assert (record["score"], record["threshold"]) == (score, threshold) and abs(record["value"]) < 1e6
            assert (record["attributed_to"] != "unknown source") == is_known
    (run / "statistics.safetensors").unlink()
    if score == "energy":
        assert list(attribute_images(run, faces, device="cpu"))
    else:
        with pytest.raises(RunError, match=r"lacks statistics\.safetensors, which its score"):
            next(iter(attribute_images(run, faces, device="cpu")))
