"""Figures that only the printed table works out."""

from __future__ import annotations

from typing import Any

from bmrl.model.evaluation.confusion import confusion_table
from bmrl.model.evaluation.controls.section import baseline_table, leak_table
from bmrl.model.evaluation.overview import ranges
from bmrl.model.report.text import render_table


def control_lines(controls: dict[str, Any], accuracy: float) -> list[str]:
    return [*render_table(leak_table(controls, accuracy)), *render_table(baseline_table(controls))]


def test_the_distance_from_the_best_leak() -> None:
    row = {"nearest centre": 0.1, "logistic": 0.25, "1-NN": 0.2}
    controls = {
        "leaks": {"colour means": row}, "best_leak": {"accuracy": 0.25, "control": "colour means, logistic"},
        "classical": {"log-spectrum": {"accuracy": 0.5, "auroc": None}}, "chance": 0.1, "majority": 0.125,
        "shuffled_labels": 0.0625, "rows": {"train": [7, 7], "seen": [5, 5], "unseen": [0, 0]},
    }  # fmt: skip
    lines = control_lines(controls, 0.75)
    assert lines[1].split()[-3:] == ["10.0%", "25.0%", "20.0%"]
    assert lines[2] == "chance 10.0%, majority 12.5%, probe on shuffled labels 6.2%"
    assert lines[3] == "best leak 25.0% (colour means, logistic); the attributor is +50.0 points from it"
    assert control_lines(controls, 0.125)[3].endswith("the attributor is -12.5 points from it")
    assert lines[-1].split() == ["log-spectrum", "50.0%", "-"]
    controls["rows"] = {"train": [7, 70], "seen": [5, 5], "unseen": [7, 8]}
    assert control_lines(controls, 0.75) == [
        *lines, "controls and baseline: on 7 of 70 train, 7 of 8 unseen rows, drawn at random",
    ]  # fmt: skip


def test_counts_as_a_range() -> None:
    assert [ranges(counts) for counts in ({"a": 7, "b": 3, "c": 5}, {"a": 4, "b": 4}, {})] == ["3 to 7", "4", "0"]


def test_the_confusion_is_of_the_row() -> None:
    lines = render_table(confusion_table(["a", "b"], [[3, 1], [0, 0]]))
    assert [line.split() for line in lines[1:]] == [["0", "a", "75", "25"], ["1", "b", ".", "."]]
