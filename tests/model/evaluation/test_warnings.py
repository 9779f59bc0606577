"""What stands before any figure of an evaluation, and at the end of a training."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support import fit

from bmrl.cli import eval as evaluate
from bmrl.model.evaluation.worth import leak_warning, worth_of
from bmrl.model.report.worth import conclude

Invoke = Callable[..., Result]
THUMBNAIL = {"accuracy": 0.65, "control": "32x32 thumbnail, logistic"}


@pytest.fixture(scope="module")
def trained(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("runs") / "a run"
    return out, fit(small_root, out, "--protocol", small_protocol)


def test_a_leak_that_reaches_the_interval() -> None:
    sentence = leak_warning(THUMBNAIL, 0.5, 60)
    assert sentence is not None and sentence.startswith(
        "a 32x32 thumbnail names the source as well as the attributor: 65.0% (logistic) against 50.0% (95 % interval 37.7% to "
        "62.3% on 60 images)"
    )
    assert leak_warning({**THUMBNAIL, "accuracy": 0.376}, 0.5, 60) is None
    assert leak_warning({**THUMBNAIL, "accuracy": 0.378}, 0.5, 60) is not None
    assert leak_warning(None, 0.5, 60) is None
    for control in ("blurred, sigma 4, 1-NN", "something new, logistic"):
        words = leak_warning({"accuracy": 1.0, "control": control}, 0.5, 60)
        assert words is not None and f"({control.rpartition(', ')[2]})" in words


def test_the_end_of_a_training_in_words() -> None:
    found = {
        "threshold_95": 0.5, "threshold_95_acceptance": 0.95, "n": 60, "accuracy": 0.5, "majority": 0.1,
        "best_leak": THUMBNAIL, "confidences": [],
    }  # fmt: skip
    first, second, third = conclude(worth_of(found, 10))
    assert first.startswith("warning: a 32x32 thumbnail names the source as well as the attributor: ")
    assert second == (
        "seen validation: 50.0% of 60 images right; always the commonest source: 10.0%; the best quick leak control: 65.0% "
        "(32x32 thumbnail, logistic)"
    )
    assert third.startswith("unreliable run: ")
    assert conclude(worth_of({**found, "best_leak": None}, 10)) == [second.partition("; the best")[0]]
    assert "cannot tell without --threshold" in conclude(worth_of(None, 10))[0]


def test_a_training_ends_with_what_it_is_worth(trained: tuple[Path, Result], small_root: Path) -> None:
    out, done = trained
    assert done.exit_code == 0 and done.stdout == f"{out}\n"
    worth = json.loads((out / "calibration.json").read_text())
    *_, warning, score, unreliable, last = done.stderr.splitlines()
    assert warning.startswith("warning: ") and "the source as well as the attributor: 100.0%" in warning
    assert score.startswith(f"seen validation: {100 * worth['accuracy']:.1f}% of 3 images right; ")
    assert "always the commonest source: 33.3%" in score and unreliable.startswith("unreliable run: ")
    command = shlex.join(["bmrl-eval", str(out), "--shards", str(small_root)])
    assert last == f"the run is in {out}; next: {command}"


def test_an_evaluation_begins_with_them(
    invoke: Invoke, trained: tuple[Path, Result], small_root: Path, tmp_path: Path
) -> None:
    options = (trained[0], "--shards", small_root, "--device", "cpu", "--out", tmp_path)
    done = invoke(evaluate.main, *options)
    assert done.exit_code == 0
    document = json.loads((tmp_path / "result.json").read_text())
    best = document["controls"]["best_leak"]
    assert best["accuracy"] == 1.0 and len(document["warnings"]) == 2
    majority, leak = document["warnings"]
    assert majority.endswith("of 9 seen images right is not clearly more than 33.3% by always the commonest source")
    assert leak == leak_warning(best, document["seen"]["accuracy"], 9)
    assert done.stdout.startswith("WARNING: ")
    page = (tmp_path / "report.html").read_text()
    assert 0 < page.index("the source as well as the attributor: 100.0%") < page.index("seen accuracy")


def test_progress_goes_to_the_end_and_empty_parts_show_none(
    invoke: Invoke, trained: tuple[Path, Result], small_root: Path, tmp_path: Path
) -> None:
    done = invoke(evaluate.main, trained[0], "--shards", small_root, "--device", "cpu", "--out", tmp_path)
    for what in (
        "fitting leak controls",
        "fitting the classical baseline",
        "fitting zero-shot controls",
        "drawing the page",
    ):
        assert f"{what}: 100%" in done.stderr, what
    assert "attributing controls: 100%" in done.stderr
    whole = fit(small_root, tmp_path / "run")
    assert whole.exit_code == 0
    done = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--device", "cpu")
    assert "attributing seen: 100%" in done.stderr
    assert "attributing unseen" not in done.stderr and "0it" not in done.stderr


def test_on_a_terminal_the_table_fits(
    invoke: Invoke, trained: tuple[Path, Result], small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (trained[0], "--shards", small_root, "--device", "cpu", "--out", tmp_path)
    plain = invoke(evaluate.main, *options).stdout.splitlines()
    assert max(map(len, plain)) > 100  # in a file or a pipe a sentence stays one line
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    *lines, empty, report = invoke(evaluate.main, *options).stdout.splitlines()
    assert max(map(len, lines)) <= 80 and empty == "" and report == plain[-1]
    words = set(" ".join(lines).split())
    assert {word for line in plain for word in line.split() if "%" in word or "." in word} - {str(report)} <= {
        *words, *report.split()
    }  # fmt: skip
