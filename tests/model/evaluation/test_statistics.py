"""Scores by distance against plain float64 references; the operating point and what it may know."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from bmrl.model.evaluation.operating import operating_point, threshold_for
from bmrl.model.evaluation.predictions import Predictions
from bmrl.model.evaluation.scores import auroc
from bmrl.model.evaluation.statistics import DISTANCE_SCORES, SCORE_NAMES, Statistics, all_scores


def cloud(count: int, seed: int, classes: int = 4, spread: float = 1.0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(9).normal(0, 3, (classes, 6))
    features = centres[labels] + spread * rng.normal(size=(count, 6))
    return Predictions(
        keys=[f"{seed}-{row}" for row in range(count)],
        generators=[f"source{label}" for label in labels],
        labels=labels,
        logits=features @ centres.T,
        features=features,
    )


def test_distances_are_their_formulas() -> None:
    train, rows = cloud(200, 0), cloud(30, 1, spread=2.0)
    found = Statistics.fit(train).scores(rows.features)
    assert tuple(found) == DISTANCE_SCORES
    x, y = train.features, train.labels
    means = [x[y == k].mean(axis=0) for k in range(4)]
    within = np.linalg.inv(
        ledoit_wolf(np.concatenate([x[y == k] - means[k] for k in range(4)]), assume_centered=True)[0]
    )
    total = np.linalg.inv(ledoit_wolf(x - x.mean(axis=0), assume_centered=True)[0])
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    for place, row in enumerate(rows.features):
        plain = min((row - m) @ within @ (row - m) for m in means)
        whole = (row - x.mean(axis=0)) @ total @ (row - x.mean(axis=0))
        assert found["mahalanobis"][place] == pytest.approx(-plain, rel=1e-8)
        assert found["relative_mahalanobis"][place] == pytest.approx(whole - plain, rel=1e-8, abs=1e-8)
        unit = row / np.linalg.norm(row)
        centres = [units[y == k].mean(axis=0) for k in range(4)]
        assert found["nearest_class_mean"][place] == pytest.approx(max(unit @ c / np.linalg.norm(c) for c in centres))
        tenth = sorted(np.linalg.norm(units - unit, axis=1))[9]
        assert found["knn"][place] == pytest.approx(-tenth, abs=1e-6)  # the kept rows are float32


def test_statistics_are_stored_whole(tmp_path: object) -> None:
    fitted = Statistics.fit(cloud(50, 0))
    again = Statistics.of_arrays(fitted.arrays())
    rows = cloud(9, 3)
    for name, values in fitted.scores(rows.features).items():
        assert np.array_equal(values, again.scores(rows.features)[name])
    arrays = fitted.arrays()
    for name, value, words in (
        ("means", None, "means is missing"),
        ("means", arrays["means"][:, :3], "means has the shape"),
        ("whitening", arrays["whitening"] * np.nan, "holds what is no number"),
    ):
        broken = {key: array for key, array in arrays.items() if key != name} | ({} if value is None else {name: value})
        with pytest.raises(ValueError, match=words):
            Statistics.of_arrays(broken)
    with pytest.raises(ValueError, match="embeddings of 2 numbers, expected 6"):
        fitted.scores(np.zeros((3, 2)))


@pytest.mark.parametrize("features", [np.zeros((8, 3)), np.ones((8, 1))], ids=["zero", "one dimension"])
def test_embeddings_without_spread_have_finite_scores(features: np.ndarray) -> None:
    rows = Predictions(
        keys=list("abcdefgh"), generators=["s"] * 8, labels=np.arange(8) % 2, logits=np.zeros((8, 2)), features=features
    )
    for values in all_scores(rows, Statistics.fit(rows)).values():
        assert np.isfinite(values).all()


def test_the_operating_point_accepts_what_it_says() -> None:
    train, validation = cloud(200, 0), cloud(40, 1)
    statistics = Statistics.fit(train)
    point = operating_point(train, validation, statistics)
    assert point is not None and set(point.thresholds) == set(SCORE_NAMES) == set(point.left_out)
    assert point.score == max(point.left_out, key=lambda name: point.left_out[name]) and point.reason == ""
    assert point.acceptance >= 0.95 and point.n == 40
    for name, values in all_scores(validation, statistics).items():
        if name != "max_softmax":
            assert (values >= point.thresholds[name]).mean() >= 0.95
    assert 0 <= point.thresholds["max_softmax"] <= 1, "told as a probability"


def test_left_out_sources_are_left_out_of_statistics_and_logits() -> None:
    train, validation = cloud(200, 0), cloud(40, 1)
    point = operating_point(train, validation, Statistics.fit(train))
    assert point is not None
    plain = []
    for label in range(4):
        rest = Statistics.fit(train.where(train.labels != label))
        values = rest.scores(validation.features)["relative_mahalanobis"]
        plain.append(auroc(values[validation.labels != label], values[validation.labels == label]))
    assert point.left_out["relative_mahalanobis"] == pytest.approx(np.mean(plain))


def test_without_negatives_the_papers_score_is_taken_and_said() -> None:
    two = cloud(40, 1, classes=2)
    point = operating_point(cloud(40, 0, classes=2), two, None)
    assert point is not None and point.score == "max_softmax" and "none can be left out" in point.reason
    alone = operating_point(None, cloud(40, 1), None)
    assert alone is not None and alone.score == "max_softmax" and "no training rows" in alone.reason
    assert operating_point(cloud(40, 0), cloud(0, 1), None) is None


def test_a_threshold_accepts_at_least_its_share() -> None:
    assert threshold_for(np.arange(10.0)) == 0.0  # of ten rows 95 % are all of them
    assert threshold_for(np.arange(100.0)) == 4.0
