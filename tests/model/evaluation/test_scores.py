"""Open-set figures against plain references."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bmrl.model.errors import RunError
from bmrl.model.evaluation.calibration import fit_temperature, threshold_for_acceptance
from bmrl.model.evaluation.case import About, Case
from bmrl.model.evaluation.evaluate import evaluate
from bmrl.model.evaluation.predictions import Predictions, counts
from bmrl.model.evaluation.scores import LOGIT_SCORES, at_threshold, auroc, closed_set, confusion, rejection
from bmrl.model.evaluation.softmax import log_odds, max_softmax
from bmrl.model.runs.collect import finite


def plain_auroc(seen: list[float], unseen: list[float]) -> float:
    wins = sum(1.0 if s > u else 0.5 if s == u else 0.0 for s in seen for u in unseen)
    return wins / (len(seen) * len(unseen))


def plain_softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x - max(row)) for x in row)
    return [math.exp(x - max(row)) / total for x in row]


def logits(count: int, classes: int = 4, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((count, classes))


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == plain_auroc([2, 1], [1, 0]) == 0.875
    rng = np.random.default_rng(0)
    seen, unseen = rng.integers(0, 5, 40).astype(float), rng.integers(0, 4, 30).astype(float)
    assert auroc(seen, unseen) == pytest.approx(plain_auroc(seen.tolist(), unseen.tolist()), abs=1e-12)


def test_scores_are_their_formulas() -> None:
    x = logits(20)
    for row, soft, odds, top, energy in zip(
        x.tolist(), max_softmax(x), log_odds(x), LOGIT_SCORES["max_logit"](x), LOGIT_SCORES["energy"](x), strict=True
    ):
        p = max(plain_softmax(row))
        assert soft == pytest.approx(p, abs=1e-12)
        assert odds == pytest.approx(math.log(p / (1 - p)), abs=1e-9)
        assert top == max(row)
        assert energy == pytest.approx(math.log(sum(math.exp(v) for v in row)), abs=1e-9)


def test_log_odds_rank_where_softmax_saturates() -> None:
    x = np.array([[60.0, 0.0, 0.0], [80.0, 0.0, 0.0], [70.0, 0.0, 0.0]])
    assert set(max_softmax(x)) == {1.0}
    assert np.argsort(log_odds(x)).tolist() == [0, 2, 1]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 0.9, 1.0])
def test_thresholds(threshold: float) -> None:
    x, labels = logits(60), np.random.default_rng(1).integers(0, 4, 60)
    shares = [plain_softmax(row) for row in x.tolist()]
    rejected = sum(max(p) < threshold for p in shares) / 60
    right = sum(max(p) >= threshold and p.index(max(p)) == y for p, y in zip(shares, labels, strict=True)) / 60
    assert rejection(x, threshold) == pytest.approx(rejected)
    assert at_threshold(x, labels, threshold) == pytest.approx({"seen_rejection": rejected, "accepted_correct": right})


def test_a_score_at_the_threshold_is_accepted() -> None:
    x = np.zeros((3, 2))  # max softmax exactly 0.5
    assert rejection(x, 0.5) == 0.0 and rejection(x, np.nextafter(0.5, 1)) == 1.0


def test_closed_set_and_confusion() -> None:
    x = np.eye(3)[[0, 0, 1, 2, 2, 2]]
    labels = np.array([0, 1, 1, 2, 2, 0])
    assert confusion(x, labels, 3).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 2]]
    found = closed_set(x, labels)
    assert (found["accuracy"], found["n"]) == (pytest.approx(4 / 6), 6)
    assert found["macro_f1"] == pytest.approx((0.5 + 2 / 3 + 0.8) / 3)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_temperature_is_the_minimum_of_the_nll(true_temperature: float) -> None:
    rng = np.random.default_rng(0)
    x = 2.0 * rng.standard_normal((4000, 4))
    shares = np.array([plain_softmax(row) for row in x.tolist()])
    labels = np.array([rng.choice(4, p=p) for p in shares])
    overconfident = x * true_temperature
    found = fit_temperature(overconfident, labels)
    assert found == pytest.approx(true_temperature, rel=0.1)

    def nll(t: float) -> float:
        return -sum(
            math.log(plain_softmax([v / t for v in r])[y]) for r, y in zip(overconfident.tolist(), labels, strict=True)
        )

    assert nll(found) <= min(nll(found * 1.02), nll(found / 1.02))


def test_threshold_for_acceptance() -> None:
    x = logits(1000)
    threshold = threshold_for_acceptance(x, 0.95)
    assert 1 - rejection(x, threshold) == pytest.approx(0.95, abs=0.002)


def outputs(count: int, generators: list[str], labels: list[int], seed: int) -> Predictions:
    return Predictions(
        keys=[f"k{row}" for row in range(count)],
        logits=logits(count, 3, seed),
        features=np.random.default_rng(seed + 50).standard_normal((count, 5)),
        labels=np.array(labels, dtype=np.int64),
        generators=generators,
    )


NONE = Predictions(
    keys=[], logits=np.zeros((0, 3)), features=np.zeros((0, 5)), labels=np.zeros(0, np.int64), generators=[]
)
CLASSES = ("a", "b", "c")
ABOUT = About(
    attributor="bmrl", preset="demo", semantics="sound", protocol=None, task="attribution", published={}, relations={},
    simulated=False, calibration=None,
    data={"name": "small", "root_digest": "0" * 64, "n_per_generator": {}, "n_train": {}, "missing_sources": [],
          "other_views": []},
)  # fmt: skip


def tabulate(
    seen: Predictions,
    unseen: Predictions,
    controls: Predictions,
    *,
    classes: tuple[str, ...],
    thresholds: tuple[float, ...],
    train: Predictions | None = None,
) -> dict[str, Any]:
    """The document of predictions alone, without questions and control features."""
    case = Case(seen=seen, unseen=unseen, controls=controls, classes=classes, thresholds=thresholds, about=ABOUT,
                train=train)  # fmt: skip
    return evaluate(case).document


def test_the_table_averages_over_generators_not_images() -> None:
    seen = outputs(30, ["a", "b", "c"] * 10, [0, 1, 2] * 10, 0)
    unseen = outputs(24, ["u"] * 20 + ["v"] * 4, [-1] * 24, 1)
    document = tabulate(seen, unseen, NONE, classes=CLASSES, thresholds=(0.7, 0.9))
    assert list(document["thresholds"]) == ["0.7", "0.9"]
    for name, at in document["thresholds"].items():
        u, v = (rejection(unseen.of(g).logits, float(name)) for g in ("u", "v"))
        assert at["per_generator"] == {"u": u, "v": v}
        assert at["unseen_rejection"] == pytest.approx((u + v) / 2)
        assert at["seen_rejection"] == rejection(seen.logits, float(name))
    score = log_odds(seen.logits).tolist()
    per = {g: plain_auroc(score, log_odds(unseen.of(g).logits).tolist()) for g in ("u", "v")}
    assert document["auroc"]["per_generator"] == pytest.approx(per)
    assert document["auroc"]["max_softmax"] == pytest.approx(sum(per.values()) / 2)
    assert {"max_logit", "energy"} <= set(document["auroc"])
    taken = np.bincount(unseen.of("v").logits.argmax(axis=1), minlength=3)
    expected = {"taken_for": CLASSES[int(taken.argmax())], "taken_for_share": taken.max() / 4}
    assert document["unseen_taken_for"]["v"] == expected and set(document["unseen_taken_for"]) == {"u", "v"}
    assert "lookalikes" not in document


def test_without_unseen_rows_their_fields_are_null() -> None:
    seen = outputs(30, ["a", "b", "c"] * 10, [0, 1, 2] * 10, 0)
    document = tabulate(seen, NONE, NONE, classes=CLASSES, thresholds=(0.7,))
    assert document["auroc"] is None
    at = document["thresholds"]["0.7"]
    assert at["unseen_rejection"] is None and at["per_generator"] is None
    assert 0 <= at["seen_rejection"] <= 1 and 0 <= at["accepted_correct"] <= 1


def test_controls_stand_beside_the_table() -> None:
    seen = outputs(30, ["a", "b", "c"] * 10, [0, 1, 2] * 10, 0)
    controls = outputs(5, ["jpeg"] * 5, [-1] * 5, 3)
    with_controls = tabulate(seen, NONE, controls, classes=CLASSES, thresholds=(0.7,))
    assert with_controls["lookalikes"]["jpeg"]["n"] == 5
    assert with_controls["lookalikes"]["jpeg"]["taken_for"] in CLASSES
    without = tabulate(seen, NONE, NONE, classes=CLASSES, thresholds=(0.7,))
    assert all(without[key] == with_controls[key] for key in without)


def test_thresholds_keep_their_names_apart() -> None:
    seen = outputs(30, ["a", "b", "c"] * 10, [0, 1, 2] * 10, 0)
    thresholds = (0.0, 0.5, 0.7, 0.70000001, 0.9999999, 1.0)
    document = tabulate(seen, NONE, NONE, classes=CLASSES, thresholds=thresholds)
    assert list(document["thresholds"]) == ["0", "0.5", "0.7", "0.70000001", "0.9999999", "1"]


def test_macro_f1_where_a_class_has_no_rows() -> None:
    """It counts 0 where something is attributed to it, and is left out where nothing is (as scikit-learn has it)."""
    labels = np.array([0, 0, 1, 1])
    assert closed_set(np.eye(3)[[0, 0, 1, 1]], labels)["macro_f1"] == 1.0
    assert closed_set(np.eye(3)[[0, 0, 1, 2]], labels)["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_temperature_stays_within_its_bounds() -> None:
    """Without an error the best T is 0, without a right answer it is infinite."""
    x, right = np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])
    assert fit_temperature(x, right) == pytest.approx(0.05, rel=0.01)
    assert fit_temperature(x, np.array([1, 2, 0])) == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(RunError, match="not finite numbers"):
        finite(torch.tensor([[0.0, 1.0], [value, 0.0]]))
    x = torch.tensor([[0.0, 3e38]])
    assert finite(x) is x


def plain_centre_similarity(rows: Predictions, reference: Predictions) -> list[float]:
    """Highest cosine to the mean unit feature of a class of the reference rows."""
    groups: dict[int, list[list[float]]] = {}
    for row, label in zip(reference.features.tolist(), reference.labels.tolist(), strict=True):
        groups.setdefault(label, []).append([value / math.hypot(*row) for value in row])
    means = [[sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in groups.values()]
    return [
        max(sum(a * b for a, b in zip(row, m, strict=True)) / math.hypot(*row) / math.hypot(*m) for m in means)
        for row in rows.features.tolist()
    ]


def test_every_auroc_of_the_table_by_plain_loops() -> None:
    """Means over sources, not rows; max softmax by log odds, where softmax itself is 1.0 for most rows."""
    seen = outputs(30, ["a", "b", "c"] * 10, [0, 1, 2] * 10, 0)
    unseen = outputs(24, ["u"] * 20 + ["v"] * 4, [-1] * 24, 1)
    seen, unseen = (replace(rows, logits=40 * rows.logits) for rows in (seen, unseen))
    train = outputs(60, ["a", "b", "c"] * 20, [0, 1, 2] * 20, 7)
    found = tabulate(seen, unseen, NONE, classes=CLASSES, thresholds=(0.7,), train=train)["auroc"]
    ways = {
        "max_softmax": lambda rows: log_odds(rows.logits).tolist(),
        "max_logit": lambda rows: [max(row) for row in rows.logits.tolist()],
        "energy": lambda rows: LOGIT_SCORES["energy"](rows.logits).tolist(),
        "nearest_class_mean": lambda rows: plain_centre_similarity(rows, train),
    }
    assert set(found) == {*ways, "mahalanobis", "relative_mahalanobis", "knn", "per_generator"}
    for name, way in ways.items():
        per = {source: plain_auroc(way(seen), way(unseen.of(source))) for source in ("u", "v")}
        assert found[name] == pytest.approx(sum(per.values()) / 2, abs=1e-12), name
        assert found[name] != pytest.approx(plain_auroc(way(seen), way(unseen)), abs=1e-6), name
        if name == "max_softmax":
            assert found["per_generator"] == pytest.approx(per, abs=1e-12)
    saturated = [
        plain_auroc(max_softmax(seen.logits).tolist(), max_softmax(unseen.of(s).logits).tolist()) for s in "uv"
    ]
    assert found["max_softmax"] != pytest.approx(sum(saturated) / 2, abs=1e-6)


def test_a_control_source_by_plain_loops() -> None:
    seen = outputs(30, ["a", "b", "c"] * 10, [0, 1, 2] * 10, 0)
    controls = outputs(9, ["jpeg"] * 5 + ["crop"] * 4, [-1] * 9, 3)
    found = tabulate(seen, NONE, controls, classes=CLASSES, thresholds=(0.5, 0.7))["lookalikes"]
    assert list(found) == ["crop", "jpeg"]
    for name, first, last in (("jpeg", 0, 5), ("crop", 5, 9)):
        logits = controls.logits[first:last].tolist()
        tops = [max(plain_softmax(row)) for row in logits]
        taken = [row.index(max(row)) for row in logits]
        most = max(range(3), key=taken.count)
        assert found[name] == {
            "n": last - first,
            "rejection": {str(t): sum(top < t for top in tops) / len(tops) for t in (0.5, 0.7)},
            "mean_max_softmax": pytest.approx(sum(tops) / len(tops)),
            "auroc_against_seen": plain_auroc(log_odds(seen.logits).tolist(), log_odds(np.array(logits)).tolist()),
            "taken_for": CLASSES[most],
            "taken_for_share": taken.count(most) / len(taken),
        }


def test_evaluated_rows_are_counted_by_source() -> None:
    first, second = outputs(3, ["b", "a", "b"], [1, 0, 1], 0), outputs(2, ["u", "b"], [-1, 1], 1)
    assert list(counts(first, second, NONE).items()) == [("a", 1), ("b", 3), ("u", 1)]
