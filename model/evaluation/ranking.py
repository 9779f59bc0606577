"""How well a score ranks seen rows above unseen ones: every figure as a function of row weights, so that the figure itself
(all weights 1) and its resamples are one computation. Float64; ties count half in AUROC and OSCR, and are accepted or
rejected together elsewhere.

CCR(t) = correctly attributed seen rows with score >= t, of all seen rows; FPR(t) = unseen rows with score >= t, of all.

Legend: R resamples, N seen rows, V unseen rows, U unseen sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .predictions import Floats, Labels, Mask
from .resampling import Draws

FALSE_POSITIVE_RATES = (0.1, 0.05, 0.01)  # of CCR@FPR
LEAST_ACCEPTED = 5  # unseen rows that a rate of them must stand for, else it is not estimable


@dataclass(frozen=True)
class Levels:
    """Weights of seen rows above and at each unseen row, (R, V) each, and in all (R, 1)."""

    above: Floats
    tied: Floats
    total: Floats

    @property
    def ranked(self) -> Floats:
        return self.above + self.tied / 2.0


class Ranking:
    """Scores of seen and unseen rows, sorted once."""

    def __init__(self, seen: Floats, correct: Mask, unseen: Floats, codes: Labels, num_sources: int) -> None:
        """seen (N,), correct (N,), unseen (V,), codes (V,): the source of each unseen row, of `num_sources`."""
        self._order = np.argsort(seen, kind="stable")
        self._sorted = seen[self._order]
        self._correct = correct[self._order].astype(np.float64)
        self._by_source = np.argsort(codes, kind="stable")  # unseen rows stand source by source below
        self._unseen, self._codes, self._num_sources = unseen[self._by_source], codes[self._by_source], num_sources
        self._low = np.searchsorted(self._sorted, self._unseen, side="left")
        self._high = np.searchsorted(self._sorted, self._unseen, side="right")
        self._falling = np.argsort(-self._unseen, kind="stable")
        falling = self._unseen[self._falling]
        self._ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)  # of each group of ties

    def figures(self, draws: Draws) -> dict[str, Floats]:
        """name -> (R,); `per_source` and `per_source_oscr` -> (R, U), NaN for a source without weight."""
        weights = draws.seen[:, self._order]
        within = draws.unseen[:, self._by_source]
        pooled = within * draws.unseen_sources[:, self._codes]
        rows, right = _cumulated(weights), _cumulated(weights * self._correct)
        seen, hits = self._levels(rows), self._levels(right)
        with np.errstate(invalid="ignore", divide="ignore"):
            per_source = self._source_means(seen.ranked / seen.total, within)
            per_source_oscr = self._source_means(hits.ranked / seen.total, within)
            found = {
                "auroc": macro(per_source, draws),
                "auroc_correct": macro(self._source_means(hits.ranked / hits.total, within), draws),
                "oscr": macro(per_source_oscr, draws),
                "fpr95": macro(self._source_means(self._passing_95(rows), within), draws),
                "aupr": self._seen_precision(rows, weights, pooled),
                "aupr_unseen": self._unseen_precision(seen, pooled),
                **self._ccr(hits, seen, pooled),
            }
        return {**found, "per_source": per_source, "per_source_oscr": per_source_oscr}

    def _levels(self, cumulated: Floats) -> Levels:
        total = cumulated[:, -1:]
        high = cumulated[:, self._high]
        return Levels(total - high, high - cumulated[:, self._low], total)

    def _source_means(self, values: Floats, weights: Floats) -> Floats:
        """(R, V) -> weighted means of each source's rows (R, U)."""
        starts = np.searchsorted(self._codes, np.arange(self._num_sources))
        sums = np.add.reduceat(np.broadcast_to(values, weights.shape) * weights, starts, axis=1)
        return np.asarray(sums / np.add.reduceat(weights, starts, axis=1))

    def _passing_95(self, rows: Floats) -> Floats:
        """1 where an unseen row is at or above the highest threshold that accepts 95 % of the seen rows, else 0 (R, V)."""
        budget = 0.05 * rows[:, -1:] * (1 + 1e-12)
        place = np.minimum((rows <= budget).sum(axis=1) - 1, len(self._sorted) - 1)  # rows that may be rejected
        return np.asarray(self._unseen >= self._sorted[place][:, None], dtype=np.float64)

    def _seen_precision(self, rows: Floats, weights: Floats, pooled: Floats) -> Floats:
        """Average precision with seen rows as positives."""
        start = np.searchsorted(self._sorted, self._sorted, side="left")  # of each group of ties
        true = rows[:, -1:] - rows[:, start]
        order = self._falling[::-1]
        places = np.searchsorted(self._unseen[order], self._sorted, side="left")
        cumulated = _cumulated(pooled[:, order])
        false = cumulated[:, -1:] - cumulated[:, places]
        return np.asarray((weights * true / (true + false)).sum(axis=1, where=weights > 0) / rows[:, -1])

    def _unseen_precision(self, seen: Levels, pooled: Floats) -> Floats:
        """Average precision with unseen rows as positives, of minus the score."""
        order = self._falling[::-1]  # rising scores: the most unseen-like first
        sizes = np.diff(np.append(0, len(order) - 1 - self._ends[::-1][1:]), append=len(order))
        last = np.repeat(np.cumsum(sizes), sizes)  # rows up to the end of each row's group of ties
        true = _cumulated(pooled[:, order])[:, last]
        false = (seen.total - seen.above)[:, order]
        weights = pooled[:, order]
        return np.asarray((weights * true / (true + false)).sum(axis=1, where=weights > 0) / pooled.sum(axis=1))

    def _ccr(self, hits: Levels, seen: Levels, pooled: Floats) -> dict[str, Floats]:
        """The highest CCR at a threshold whose FPR is not above each rate; NaN where that is a handful of rows."""
        accepted = np.cumsum(pooled[:, self._falling], axis=1)[:, self._ends]  # at thresholds that fall
        found = {}
        for rate in FALSE_POSITIVE_RATES:
            exceeds = accepted > rate * pooled.sum(axis=1, keepdims=True) * (1 + 1e-12)
            first = exceeds.argmax(axis=1)
            row = self._falling[self._ends[first]]  # the threshold lies just above this row's score
            values = hits.above[np.arange(len(first)), row] / seen.total[:, 0]
            found[f"ccr_at_fpr_{rate:g}"] = values if rate * len(self._unseen) >= LEAST_ACCEPTED else values * np.nan
        return found


def macro(per_source: Floats, draws: Draws) -> Floats:
    """(R, U) -> the mean over unseen sources, as often as each was drawn (R,)."""
    counts = np.where(np.isnan(per_source), 0.0, draws.unseen_sources)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.nan_to_num(per_source) * counts).sum(axis=1) / counts.sum(axis=1))


def source_rates(accepted: Mask, codes: Labels, draws: Draws) -> Floats:
    """The weighted share of True among each unseen source's rows: accepted (V,) -> (R, U)."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(draws.unseen_sources.shape[1]))
    weights = draws.unseen[:, order]
    with np.errstate(invalid="ignore"):
        sums = np.add.reduceat(weights * accepted[order], starts, axis=1)
        return np.asarray(sums / np.add.reduceat(weights, starts, axis=1))


def _cumulated(weights: Floats) -> Floats:
    """(R, N) -> sums of the first 0, 1, ... N (R, N + 1)."""
    found = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=found[:, 1:])
    return found
