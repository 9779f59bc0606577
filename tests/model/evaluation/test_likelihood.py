"""Likelihood ratios and the structure of unseen sources, against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from bmrl.model.evaluation.likelihood import Scores, bounds, class_log_odds, cllr, cllr_min, fit_logistic
from bmrl.model.evaluation.predictions import Predictions
from bmrl.model.evaluation.structure import clusters, equal_error_rate, hungarian_accuracy, retrieval, shared_identities


def scores(values: list[float] | np.ndarray, sources: list[int] | np.ndarray | None = None) -> Scores:
    values = np.asarray(values, dtype=np.float64)
    return Scores(values=values, sources=np.zeros(len(values), np.int64) if sources is None else np.asarray(sources))


def test_cllr_by_its_formula() -> None:
    same, other = np.array([0.5, 2.0, -1.0]), np.array([-3.0, 0.2])
    expected = (np.log2(1 + np.exp(-same)).mean() + np.log2(1 + np.exp(other)).mean()) / 2
    assert cllr(scores(same), scores(other)) == pytest.approx(expected)
    assert cllr(scores([0.0]), scores([0.0])) == 1.0, "ratios of 1 tell nothing"


def test_every_source_counts_alike() -> None:
    one = scores([1.0] * 90 + [-1.0] * 2, [0] * 90 + [1] * 2)
    assert one.weights[:90].sum() == pytest.approx(0.5) and one.weights.sum() == pytest.approx(1.0)
    assert cllr(one, scores([0.0])) == pytest.approx(cllr(scores([1.0, -1.0]), scores([0.0])))


def test_the_least_cllr() -> None:
    rng = np.random.default_rng(0)
    same, other = scores(rng.normal(1, 1, 500)), scores(rng.normal(-1, 1, 500))
    assert cllr_min(same, other) <= cllr(same, other) + 1e-9
    stretched = scores(3 * same.values + 7), scores(3 * other.values + 7)
    assert cllr_min(*stretched) == pytest.approx(cllr_min(same, other)), "of the order alone"
    assert cllr_min(scores([1.0, 2.0]), scores([-1.0, 0.0])) == pytest.approx(0.0, abs=1e-9)


def test_a_logistic_calibration_finds_the_true_ratio() -> None:
    """Of two normal distributions of equal spread the log LR is 2 * mean * x / variance."""
    rng = np.random.default_rng(0)
    slope, offset = fit_logistic(scores(rng.normal(1, 1, 40_000)), scores(rng.normal(-1, 1, 40_000)))
    assert slope == pytest.approx(2.0, rel=0.05) and offset == pytest.approx(0.0, abs=0.05)
    assert fit_logistic(scores([-1.0, -2.0]), scores([1.0, 2.0]))[0] == 0.0, "a score that falls tells nothing"


def test_bounds_grow_with_the_number_of_sources() -> None:
    """Perfect separation: with n sources and one misleading one more the ratio cannot honestly pass about n."""
    found = {}
    for n in (5, 20, 100):
        same = scores(np.full(n, 30.0), np.arange(n))
        other = scores(np.full(n, -30.0), np.arange(n))
        low, high = bounds(same, other)
        found[n] = high
        assert -low == pytest.approx(high, abs=0.01) and high <= np.log10(n + 1) + 0.01
    assert found[5] < found[20] < found[100]
    assert bounds(scores(np.zeros(9), np.arange(9)), scores(np.zeros(9), np.arange(9))) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, (-1.17, 1.32)), (1, (-1.41, 1.36)), (2, (-1.57, 1.36)), (3, (-1.55, 1.31))]
)
def test_bounds_are_those_of_the_lir_package(seed: int, expected: tuple[float, float]) -> None:
    """What lir 1.3.1 (lir.algorithms.bayeserror.elub) gives for the same log10 ratios, to its step of .01."""
    rng = np.random.default_rng(seed)
    same, other = rng.normal(1.5, 1, 30 + 20 * seed), rng.normal(-1.5, 1, 40)
    found = bounds(*(scores(values * np.log(10), np.arange(len(values))) for values in (same, other)))
    assert found == pytest.approx(expected, abs=0.0101)


def test_log_odds_of_a_class() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 5)), rng.integers(0, 5, 20)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = shares[np.arange(20), labels]
    assert class_log_odds(logits, labels) == pytest.approx(np.log(p / (1 - p)))


def planted(noise: float) -> tuple[np.ndarray, Predictions]:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), 30)
    features = np.eye(4)[codes] + noise * rng.normal(size=(120, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features, Predictions(
        keys=[f"k{row}" for row in range(120)],
        generators=[f"g{code}" for code in codes],
        labels=np.full(120, -1),
        logits=np.zeros((120, 2)),
        features=features,
        groups=[f"p{row % 30}" if row % 7 else f"p{row % 30}+p{(row + 1) % 30}" for row in range(120)],
    )


def test_planted_sources_are_found() -> None:
    features, rows = planted(0.05)
    found = clusters(features, rows.codes)
    assert found["known"] == {
        "clusters": 4,
        "hungarian_accuracy": 1.0,
        "nmi": pytest.approx(1),
        "ari": pytest.approx(1),
    }
    assert found["guessed"]["clusters"] == 4 and 0.25 < found["chance"]["hungarian_accuracy"] < 0.45
    near = retrieval(features, rows)
    assert near["rank1"] == 1.0 and near["map"] == pytest.approx(1.0) and near["verification_eer"] == pytest.approx(0.0)
    assert near["identity_eer"] == pytest.approx(0.5, abs=0.1), "the features know nothing of the person"


def test_noise_is_chance() -> None:
    _, rows = planted(0.05)
    noise = np.random.default_rng(1).normal(size=(120, 4))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    near = retrieval(noise, rows)
    assert near["rank1"] == pytest.approx(near["chance_rank1"], abs=0.12)
    assert near["verification_eer"] == pytest.approx(0.5, abs=0.06)


def test_retrieval_by_plain_loops() -> None:
    features, rows = planted(1.0)
    shared = shared_identities(rows)
    people = [set(group.split("+")) for group in rows.groups]
    hits, precisions = [], []
    for row in range(120):
        others = [other for other in range(120) if other != row and not people[row] & people[other]]
        assert {other for other in range(120) if not shared[row, other]} == set(others)
        others.sort(key=lambda other: (-(features[row] @ features[other]), other))
        right = [rows.generators[other] == rows.generators[row] for other in others]
        hits.append(right[0])
        ranks = [place + 1 for place, is_right in enumerate(right) if is_right]
        precisions.append(np.mean([(count + 1) / rank for count, rank in enumerate(ranks)]))
    found = retrieval(features, rows)
    assert found["rank1"] == pytest.approx(np.mean(hits)) and found["map"] == pytest.approx(np.mean(precisions))


def test_the_best_matching() -> None:
    assert hungarian_accuracy(np.array([0, 0, 1, 1, 2]), np.array([2, 2, 0, 0, 0])) == pytest.approx(0.8)
    assert equal_error_rate(np.array([1.0, 2.0]), np.array([0.0, 0.5])) == 0.0
    assert equal_error_rate(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx(0.5)
    assert equal_error_rate(np.zeros(0), np.ones(3)) is None
