"""AUC and balanced accuracy of a detection protocol, by hand."""

from __future__ import annotations

import numpy as np

from bmrl.model.evaluation.detection import detection_table
from bmrl.model.evaluation.predictions import Predictions


def outputs(rows: list[tuple[str, int, float]]) -> Predictions:
    """Rows of (source, label, logit of fake); the logit of real is 0."""
    return Predictions(
        keys=[f"{name}/{row}" for row, (name, _, _) in enumerate(rows)],
        logits=np.array([[0.0, score] for _, _, score in rows]).reshape(-1, 2),
        features=np.zeros((len(rows), 1)),
        labels=np.array([label for _, label, _ in rows], dtype=np.int64),
        generators=[name for name, _, _ in rows],
    )


def test_each_fake_source_is_compared_with_every_real_row() -> None:
    seen = outputs([("real", 0, -2.0), ("real", 0, 1.0), ("A", 1, 0.5), ("A", 1, 2.0)])
    unseen = outputs([("B", 1, -1.0), ("B", 1, -3.0), ("mystery", -1, 9.0), ("real-ffhq", 0, -1.0)])
    table = detection_table(seen, unseen)
    assert table is not None and table["n_real"] == 3 and table["real_accuracy"] == 2 / 3
    assert table["sources"]["A"] == {
        "part": "seen", "n": 2, "auc": 5 / 6, "accuracy": 1.0, "balanced_accuracy": (1 + 2 / 3) / 2,
    }  # fmt: skip
    assert table["sources"]["B"]["auc"] == (1.5 + 0) / 6 and table["sources"]["B"]["accuracy"] == 0.0
    assert set(table["sources"]) == {"A", "B"}
    assert (table["seen_auc"], table["unseen_auc"]) == (5 / 6, 0.25)
    assert table["unseen_balanced_accuracy"] == 1 / 3


def test_nothing_is_measured_without_real_rows() -> None:
    assert detection_table(outputs([("A", 1, 1.0)]), outputs([])) is None
    only = detection_table(outputs([("real", 0, 1.0)]), outputs([]))
    assert only is not None and only["seen_auc"] is None and only["sources"] == {}


def test_equal_logits_are_called_real_as_the_first_class_is() -> None:
    table = detection_table(outputs([("real", 0, 0.0), ("A", 1, 0.0), ("A", 1, 1.0)]), outputs([]))
    assert table is not None and table["real_accuracy"] == 1.0
    assert table["sources"]["A"] == {
        "part": "seen", "n": 2, "auc": 0.75, "accuracy": 0.5, "balanced_accuracy": 0.75,
    }  # fmt: skip
    assert (table["unseen_auc"], table["unseen_balanced_accuracy"]) == (None, None)
