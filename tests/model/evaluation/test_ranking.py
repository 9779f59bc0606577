"""Weighted open-set figures against plain loops, scikit-learn where it has the metric, and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from bmrl.model.evaluation.predictions import Predictions
from bmrl.model.evaluation.ranking import Ranking
from bmrl.model.evaluation.resampling import Crossed, Draws, represented


def ones(seen: int, unseen: int, sources: int) -> Draws:
    return Draws(seen=np.ones((1, seen)), unseen=np.ones((1, unseen)), unseen_sources=np.ones((1, sources)))


@pytest.fixture(params=[None, 3.0], ids=["no ties", "ties"])
def rows(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(1, 1, 400), rng.normal(0, 1, 600)
    if request.param:
        seen, unseen = np.round(seen * request.param), np.round(unseen * request.param)
    return seen, rng.random(400) < 0.8, unseen, rng.permutation(np.repeat(np.arange(3), [100, 200, 300]))


def test_figures_are_those_of_plain_loops(rows: tuple[np.ndarray, ...]) -> None:
    seen, correct, unseen, codes = rows
    found = Ranking(seen, correct, unseen, codes, 3).figures(ones(400, 600, 3))
    of = [unseen[codes == code] for code in range(3)]
    aurocs = [roc_auc_score(np.r_[np.ones(400), np.zeros(len(one))], np.r_[seen, one]) for one in of]
    assert found["per_source"][0] == pytest.approx(aurocs, abs=1e-12)
    assert found["auroc"][0] == pytest.approx(np.mean(aurocs), abs=1e-12)
    hits = seen[correct]
    right = [roc_auc_score(np.r_[np.ones(len(hits)), np.zeros(len(one))], np.r_[hits, one]) for one in of]
    assert found["auroc_correct"][0] == pytest.approx(np.mean(right), abs=1e-12)
    truth = np.r_[np.ones(400), np.zeros(600)]
    both = np.r_[seen, unseen]
    assert found["aupr"][0] == pytest.approx(average_precision_score(truth, both), abs=1e-12)
    assert found["aupr_unseen"][0] == pytest.approx(average_precision_score(1 - truth, -both), abs=1e-12)
    oscr = [np.mean([(correct * ((seen > u) + 0.5 * (seen == u))).sum() / 400 for u in one]) for one in of]
    assert found["oscr"][0] == pytest.approx(np.mean(oscr), abs=1e-12)
    limit = max(t for t in seen if (seen >= t).mean() >= 0.95)
    assert found["fpr95"][0] == pytest.approx(np.mean([(one >= limit).mean() for one in of]), abs=1e-12)
    for rate in (0.1, 0.05, 0.01):
        thresholds = [t for t in [*np.unique(both), np.inf] if (unseen >= t).mean() <= rate]
        best = max(((seen >= t) & correct).mean() for t in thresholds)
        assert found[f"ccr_at_fpr_{rate:g}"][0] == pytest.approx(best, abs=1e-12)


def test_weights_are_as_many_copies(rows: tuple[np.ndarray, ...]) -> None:
    seen, correct, unseen, codes = rows
    rng = np.random.default_rng(1)
    w, v, sources = rng.integers(0, 4, 400), rng.integers(1, 4, 600), np.array([2, 0, 3])
    draws = Draws(seen=w[None].astype(float), unseen=v[None].astype(float), unseen_sources=sources[None].astype(float))
    found = Ranking(seen, correct, unseen, codes, 3).figures(draws)
    a, b = np.repeat(np.arange(400), w), np.repeat(np.arange(600), v * sources[codes])
    copied = Ranking(seen[a], correct[a], unseen[b], codes[b] // 2, 2).figures(ones(len(a), len(b), 2))
    for name in ("aupr", "aupr_unseen", "ccr_at_fpr_0.1", "ccr_at_fpr_0.05"):
        assert found[name] == pytest.approx(copied[name], abs=1e-12), name
    for name in ("auroc", "oscr", "fpr95", "auroc_correct"):
        within = Ranking(seen[a], correct[a], unseen[b], codes[b] // 2, 2).figures(
            Draws(seen=np.ones((1, len(a))), unseen=np.ones((1, len(b))), unseen_sources=np.array([[2.0, 3.0]]))
        )
        assert found[name] == pytest.approx(within[name], abs=1e-12), name


def test_by_hand() -> None:
    """Seen 3 (right), 2 (wrong), 1 (right); unseen 2, 0. AUROC (1.5 + 3) / 6; OSCR: above 2 one right of 3, above 0 two."""
    seen, correct = np.array([3.0, 2.0, 1.0]), np.array([True, False, True])
    found = Ranking(seen, correct, np.array([2.0, 0.0]), np.array([0, 0]), 1).figures(ones(3, 2, 1))
    assert found["auroc"][0] == 0.75 and found["oscr"][0] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert np.isnan(found["ccr_at_fpr_0.1"][0]), "a tenth of two rows is no rate"


def test_scores_that_are_all_equal_tell_nothing() -> None:
    found = Ranking(np.zeros(50), np.ones(50, dtype=bool), np.zeros(100), np.arange(100) % 2, 2).figures(
        ones(50, 100, 2)
    )
    assert found["auroc"][0] == found["oscr"][0] == 0.5
    assert found["fpr95"][0] == 1.0 and found["ccr_at_fpr_0.1"][0] == 0.0


def some(count: int, groups: list[str], source: str = "a") -> Predictions:
    return Predictions(
        keys=[f"{source}{row}" for row in range(count)],
        generators=[source if row % 2 else source * 2 for row in range(count)],
        labels=np.zeros(count, dtype=np.int64),
        logits=np.zeros((count, 2)),
        features=np.zeros((count, 1)),
        groups=groups,
    )


def test_a_swap_is_drawn_with_both_identities() -> None:
    seen = some(4, ["p", "q", "p+q", "r"])
    (draws,) = Crossed(seen=seen, unseen=some(3, ["p", "q+r", "r"], "u")).blocks(20)
    codes = seen.codes
    sources = np.stack([draws.seen[:, row] for row in range(4)], axis=1)
    assert codes.tolist() == [1, 0, 1, 0] and draws.unseen_sources.sum(axis=1).tolist() == [2.0] * 20
    p, q, r = draws.unseen[:, 0], None, draws.unseen[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        of_aa = sources[:, 0] / p  # how often the source of rows 0 and 2 was drawn
        q = sources[:, 2] / sources[:, 0]
    known = np.isfinite(q) & np.isfinite(of_aa) & (sources[:, 0] > 0)
    assert known.any() and np.allclose(draws.unseen[known, 1], q[known] * r[known])


def test_resamples_are_the_same_each_time_and_of_the_source_not_the_image() -> None:
    seen, unseen = some(40, [f"g{k}" for k in range(40)]), some(6, [f"u{k}" for k in range(6)], "u")
    first, second = (list(Crossed(seen=seen, unseen=unseen).blocks(60)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.seen, b.seen) and np.array_equal(a.unseen_sources, b.unseen_sources)
    weights = np.concatenate([block.seen for block in first])
    of = np.stack([weights[:, seen.codes == code].sum(axis=1) for code in (0, 1)])
    assert (of == 0).any(), "some resample lacks a whole source"


def test_represented_takes_alike_from_every_source() -> None:
    many = some(1000, [])
    kept = represented(many, 100)
    assert len(kept) == 100 and np.bincount(many.codes[kept]).tolist() == [50, 50]
    assert np.array_equal(represented(many, 1000), np.arange(1000))
