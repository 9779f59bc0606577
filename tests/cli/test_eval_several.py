"""Several runs, predictions of other models, runs without a source: bmrl-eval as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support import fit

from bmrl.cli import eval as evaluate
from bmrl.pipeline.protocols import load_protocol

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def runs(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, tuple[Any, ...]] = {
        "seed0": ("--protocol", small_protocol, "--seed", 0),
        "seed1": ("--protocol", small_protocol, "--seed", 1),
        "plain": ("--protocol", small_protocol, "--set", "losses.dfacc=0"),
        "without": ("--protocol", f"{small_protocol}:without=real"),
    }
    for name, chosen in options.items():
        result = fit(small_root, folder / name, *chosen)
        assert result.exit_code == 0, result.output
    return {name: folder / name for name in options}


def test_seeds_are_one_method(invoke: Invoke, runs: dict[str, Path], small_root: Path, tmp_path: Path) -> None:
    three = [runs[name] for name in ("seed0", "seed1", "plain")]
    done = invoke(evaluate.main, *three, "--shards", small_root, "--device", "cpu", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert list(document["runs"]) == [str(run) for run in three]
    assert list(document["comparison"]["methods"]) == ["seed0 (2 seeds)", "plain"]
    assert {one["claim"] for one in document["comparison"]["differences"]} <= {
        "none",
        "none: too few sources",
        "not estimable",
    }
    assert json.loads((tmp_path / "out/result.json").read_text()) == document
    for number, run in enumerate(three):
        files = sorted(path.name for path in (tmp_path / "out" / f"{number}-{run.name}").iterdir())
        assert files == ["predictions.parquet", "report.html", "result.json"]
    page = (tmp_path / "out/report.html").read_text()
    assert "seed0 (2 seeds)" in page and "nothing below it is claimed" in page and "<script" not in page


def test_a_run_beside_predictions_of_another_model(
    invoke: Invoke, runs: dict[str, Path], small_root: Path, tmp_path: Path
) -> None:
    first = invoke(evaluate.main, runs["plain"], "--shards", small_root, "--device", "cpu", "--out", tmp_path / "a")
    assert first.exit_code == 0, first.output
    file = tmp_path / "a/predictions.parquet"
    done = invoke(evaluate.main, runs["seed0"], "--shards", small_root, "--device", "cpu", "--predictions", file)
    assert done.exit_code == 0, done.output
    assert "difference from seed0" in done.stdout and "predictions.parquet" in done.stdout


def test_likelihood_ratios_from_a_run_without_the_source(
    invoke: Invoke, runs: dict[str, Path], small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    assert load_protocol(f"{small_protocol}:without=real").unseen[-1] == "real"
    options = ("--shards", small_root, "--device", "cpu", "--json")
    done = invoke(evaluate.main, runs["seed0"], *options, "--left-out", runs["without"], "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    reason = json.loads(done.stdout)["likelihood_ratios"]["reason"]
    assert reason == "not estimable: 1 different-source generators, at least 3 are needed"
    itself = invoke(evaluate.main, runs["seed0"], *options, "--left-out", runs["seed1"], "--out", tmp_path / "b")
    assert itself.exit_code == 2 and "must have the run's classes but one; it lacks 0 of them" in itself.stderr
    own = json.loads(invoke(evaluate.main, runs["without"], *options, "--out", tmp_path / "c").stdout)
    assert own["protocol"].endswith(":without=real") and "real" in own["auroc"]["per_generator"]
    assert own["by_relation"]["LEFT-OUT"]["n_sources"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give a RUN with --shards ROOT, or --predictions FILE"),
        (("seed0",), "a RUN is evaluated on a shard set; give --shards ROOT"),
        (
            ("--predictions", "none", "--shards", "root"),
            "--shards is for runs; predictions are evaluated by themselves",
        ),
        (("--predictions", "none", "--protocol", "demo-1"), "--protocol is for runs; predictions name their own"),
        (("seed0", "seed0", "--shards", "root"), "is given twice"),
        (("seed0", "seed1", "--shards", "root", "--left-out", "plain"), "--left-out is for the evaluation of one RUN"),
    ],
)
def test_wrong_use(
    invoke: Invoke, runs: dict[str, Path], small_root: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    places = {**runs, "root": small_root}
    done = invoke(evaluate.main, *(places.get(one, one) for one in arguments))
    assert done.exit_code == 2 and done.stdout == "" and sentence in done.stderr


def test_predictions_that_are_not_there(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke(evaluate.main, "--predictions", tmp_path / "none.parquet")
    assert done.exit_code == 1 and done.stderr == f"error: {tmp_path / 'none.parquet'} does not exist\n"


def test_runs_of_other_sources_are_not_compared(
    invoke: Invoke, runs: dict[str, Path], small_root: Path, tmp_path: Path
) -> None:
    two = (runs["seed0"], runs["without"])
    done = invoke(evaluate.main, *two, "--shards", small_root, "--device", "cpu", "--out", tmp_path)
    assert done.exit_code == 2 and "do not judge the same seen images" in done.stderr
