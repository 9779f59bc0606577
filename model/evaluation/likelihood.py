"""Forensic likelihood ratios for a named source: how much more probable is what the attributor says of an image if source X
made it (Hp) than if another source of a named population did (Hd)?

The score is the log-odds of X. Scores under Hp: validation rows of X. Scores under Hd: of a source that the attributor does not
know, with its nearest remaining source as X. They come from attributors trained without it (`--left-out`); else from this one
with that source's logit taken away, which its training knew, so that the ratios are then too extreme. Never from wrong pairs
of known sources.

A logistic calibration makes the ratio; its size is bounded as far as the number of sources allows (ELUB, Vergeer et al. 2016);
Cllr (Bruemmer & du Preez 2006) judges it on test rows: seen ones with their source, unseen ones with their nearest source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from .case import Case
from .predictions import Floats, Labels, Predictions
from .result import Cell, Column, Figure, Section, Table
from .softmax import log_odds

LEAST_SOURCES = 20  # under Hd, before a ratio may be given for one image
ENOUGH = 3  # sources under Hd, before any calibration is made
GRID = np.linspace(-6.0, 6.0, 2401)  # log10 thresholds of the bounds


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of images of several sources."""

    values: Floats  # (N,)
    sources: Labels  # (N,)

    @property
    def weights(self) -> Floats:
        """Every source counts alike; they add up to 1 (N,)."""
        counts = np.bincount(self.sources)
        return np.asarray(1.0 / counts[self.sources] / (counts > 0).sum())

    @property
    def count(self) -> int:
        """How many sources."""
        return len(np.unique(self.sources))


def likelihood_section(case: Case) -> Section:
    if case.validation is None or not len(case.validation) or case.about.task != "attribution":
        reason = "no seen validation rows" if case.about.task == "attribution" else "for attribution alone"
        return Section(document={"likelihood_ratios": {"reason": f"not estimable: {reason}"}})
    known, other, how = calibration_scores(case)
    if other.count < ENOUGH:
        reason = f"not estimable: {other.count} different-source generators, at least {ENOUGH} are needed"
        return Section(document={"likelihood_ratios": {"reason": reason}})
    slope, offset = fit_logistic(known, other)
    low, high = bounds(_ratio(known, slope, offset), _ratio(other, slope, offset))
    found: dict[str, Any] = {
        "reason": "",
        "population": f"the {other.count} sources left out, each beside its nearest remaining one",
        "left_out_of_training": how == "training",
        "slope": slope,
        "offset": offset,
        "log10_bounds": [low, high],
        "n_sources": {"same": known.count, "different": other.count},
        "per_case": other.count >= LEAST_SOURCES and how == "training",
        "validation": judge_ratios(_ratio(known, slope, offset), _ratio(other, slope, offset), low, high),
        "test": None,
    }
    if len(case.unseen):
        same, different = test_scores(case)
        tested = _ratio(same, slope, offset), _ratio(different, slope, offset)
        found["test"] = judge_ratios(*tested, low, high) | {"n_sources": different.count}
        found["tippett"] = tippett(*tested, low, high)
    return Section(document={"likelihood_ratios": found}, tables=(_table(found, how),))


def calibration_scores(case: Case) -> tuple[Scores, Scores, str]:
    """Under Hp, under Hd, and of what the sources were left out: `training` or `logits`."""
    rows = case.validation
    assert rows is not None
    known = Scores(values=class_log_odds(rows.logits, rows.labels), sources=rows.labels)
    if case.left_out:
        return known, _nearest(list(case.left_out.values())), "training"
    parts = []
    if rows.logits.shape[1] > 2:
        for label in np.unique(rows.labels).tolist():
            parts.append(rows.where(np.asarray(rows.labels == label)).blind_to(label))
    return known, _nearest(parts), "logits"


def test_scores(case: Case) -> tuple[Scores, Scores]:
    """Seen test rows with their own source; unseen ones with their nearest source."""
    seen = Scores(values=class_log_odds(case.seen.logits, case.seen.labels), sources=case.seen.labels)
    return seen, _nearest([case.unseen.of(source) for source in case.unseen.sources])


def class_log_odds(logits: Floats, labels: Labels) -> Floats:
    """log p / (1 - p) of each row's class (N,)."""
    rows = np.arange(len(labels))
    others = logits.astype(np.float64).copy()
    others[rows, labels] = -np.inf
    return np.asarray(logits[rows, labels] - logsumexp(others, axis=1))


def fit_logistic(known: Scores, other: Scores) -> tuple[float, float]:
    """log LR = slope * score + offset, sources weighted alike, and both sides; a slight penalty keeps separable scores finite."""
    scores = np.concatenate([known.values, other.values])
    truth = np.concatenate([np.ones(len(known.values)), np.zeros(len(other.values))])
    weights = np.concatenate([known.weights, other.weights])
    center, scale = float(scores.mean()), float(scores.std()) or 1.0
    z = (scores - center) / scale

    def loss(parameters: Floats) -> tuple[float, Floats]:
        x = parameters[0] * z + parameters[1]
        signed = np.where(truth == 1, x, -x)
        residual = weights * (expit(x) - truth)
        penalty = 1e-3 * parameters[0]
        value = float((weights * np.logaddexp(0.0, -signed)).sum() + 0.5 * penalty * parameters[0])
        return value, np.array([(residual * z).sum() + penalty, residual.sum()])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    slope = max(float(slope), 0.0)  # a score that falls where it should rise tells nothing
    return slope / scale, float(offset) - slope * center / scale


def bounds(same: Scores, different: Scores) -> tuple[float, float]:
    """The log10 LR between which the ratios do better than none at every prior, one misleading source more on each side."""
    thresholds = GRID * np.log(10.0)
    missed = (_share_at_most(same, thresholds) * same.count + 1) / (same.count + 1)
    raised = ((1 - _share_at_most(different, thresholds)) * different.count + 1) / (different.count + 1)
    prior = expit(-thresholds)  # of Hp, where a ratio of this size just decides
    system = prior * missed + (1 - prior) * raised
    better = system < np.minimum(prior, 1 - prior)
    middle = len(GRID) // 2
    above = middle + int(np.argmin(np.append(better[middle + 1 :], False)))
    below = middle - int(np.argmin(np.append(better[:middle][::-1], False)))
    return float(GRID[below]), float(GRID[above])


def judge_ratios(same: Scores, different: Scores, low: float, high: float) -> dict[str, Any]:
    """Cllr, its minimum after the best monotone calibration (PAV), and the share of misleading ratios. Natural logs in."""
    inside = [_bounded(one, low, high) for one in (same, different)]
    return {
        "cllr": cllr(*inside),
        "cllr_unbounded": cllr(same, different),
        "cllr_min": cllr_min(same, different),
        "misleading_same": float((inside[0].weights * (inside[0].values < 0)).sum()),
        "misleading_different": float((inside[1].weights * (inside[1].values > 0)).sum()),
        "n": [len(same.values), len(different.values)],
    }


def cllr(same: Scores, different: Scores) -> float:
    """The log-likelihood-ratio cost, 1 for ratios that tell nothing. Natural logs in."""
    missed = (same.weights * np.logaddexp(0.0, -same.values)).sum()
    raised = (different.weights * np.logaddexp(0.0, different.values)).sum()
    return float((missed + raised) / (2 * np.log(2.0)))


def cllr_min(same: Scores, different: Scores) -> float:
    """Cllr after pool-adjacent-violators on these very rows: what a perfect calibration of their order would give."""
    from sklearn.isotonic import IsotonicRegression

    values = np.concatenate([same.values, different.values])
    truth = np.concatenate([np.ones(len(same.values)), np.zeros(len(different.values))])
    weights = np.concatenate([same.weights, different.weights])
    shares = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(values, truth, sample_weight=weights)
    with np.errstate(divide="ignore"):
        ratios = np.log(shares) - np.log1p(-shares)
    parts = ratios[truth == 1], ratios[truth == 0]
    return cllr(Scores(values=parts[0], sources=same.sources), Scores(values=parts[1], sources=different.sources))


def tippett(same: Scores, different: Scores, low: float, high: float) -> dict[str, Any]:
    """log10 LR -> the share of either side with a ratio above it. Tails of fewer than 20 sources are no estimate."""
    at = np.linspace(low, high, 41)
    inside = [_bounded(one, low, high) for one in (same, different)]
    above = [(1.0 - _share_at_most(one, at * np.log(10.0))).tolist() for one in inside]
    return {
        "log10_lr": at.tolist(),
        "same": above[0],
        "different": above[1],
        "tails": "not estimable" if min(same.count, different.count) < LEAST_SOURCES else "",
    }


def _bounded(ratios: Scores, low: float, high: float) -> Scores:
    """Natural log LR within two log10 LR."""
    return Scores(values=np.clip(ratios.values, low * np.log(10.0), high * np.log(10.0)), sources=ratios.sources)


def _share_at_most(scores: Scores, thresholds: Floats) -> Floats:
    order = np.argsort(scores.values)
    summed = np.append(0.0, np.cumsum(scores.weights[order]))
    return np.asarray(summed[np.searchsorted(scores.values[order], thresholds, side="right")])


def _ratio(scores: Scores, slope: float, offset: float) -> Scores:
    """Natural log LR."""
    return Scores(values=slope * scores.values + offset, sources=scores.sources)


def _nearest(parts: list[Predictions]) -> Scores:
    """The log-odds of the highest class of each row, a source a part."""
    values = [log_odds(rows.logits) for rows in parts]
    sources = [np.full(len(rows), place) for place, rows in enumerate(parts)]
    return Scores(
        values=np.concatenate(values) if values else np.zeros(0),
        sources=np.concatenate(sources) if sources else np.zeros(0, dtype=np.int64),
    )


def _table(found: Mapping[str, Any], how: str) -> Table:
    columns = (
        Column(title="likelihood ratios, source X against another", width=44),
        Column(title="Cllr", width=7, unit="score"),
        Column(title="least", width=7, unit="score"),
        Column(title="misleading: X", width=14, unit="share"),
        Column(title="another", width=8, unit="share"),
        Column(title="sources", width=8, unit="count"),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, words in (("validation", "calibration: sources left out"), ("test", "test: unseen sources")):
        facts = found[name]
        if facts is not None:
            count = found["n_sources"]["different"] if name == "validation" else facts["n_sources"]
            shares = Figure(facts["misleading_same"]), Figure(facts["misleading_different"])
            rows.append((words, Figure(facts["cllr"]), Figure(facts["cllr_min"]), *shares, Figure(count)))
    low, high = found["log10_bounds"]
    notes = [
        f"Cllr: 1 tells nothing; least: with the best calibration of the same order; log10 LR bounded to {low:.2f} .. {high:.2f} "
        f"by {found['n_sources']['same']} and {found['n_sources']['different']} sources",
        f"population of the other hypothesis: {found['population']}",
    ]
    if how == "logits":
        notes.append(
            "the sources were left out of the logits, not of the training, so these ratios are too extreme: give runs trained "
            "without them with --left-out"
        )
    if not found["per_case"]:
        notes.append(
            f"no ratio is given for a single image: that needs {LEAST_SOURCES} different-source generators left out of the "
            "training"
        )
    return Table(name="likelihood", title="Likelihood ratios", columns=columns, rows=tuple(rows), notes=tuple(notes))
