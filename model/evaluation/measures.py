"""The figures of an evaluation that have an interval, each as a function of row weights. A path is the place of a figure in
the JSON document.

Legend: R resamples, N seen rows, V unseen rows, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import log_softmax

from .case import Case
from .predictions import Floats, Labels, Mask
from .ranking import Ranking, macro, source_rates
from .resampling import Draws
from .scores import PAPERS_SCORE, threshold_name

Path = tuple[str, ...]
Measure = Callable[[Draws], dict[Path, Floats]]  # draws -> path -> (R,)

BINS = 15  # of the expected calibration error, equally wide (Guo et al. 2017)
RANKED = ("auroc", "auroc_correct", "oscr", "fpr95", "aupr", "aupr_unseen")


def closed_set(case: Case) -> Measure:
    """Accuracy, and the mean of F1 over the classes that have rows or are attributed to, as scikit-learn takes it."""
    seen, count = case.seen, len(case.classes)
    has_rows = np.bincount(seen.labels, minlength=count) > 0

    def measure(draws: Draws) -> dict[Path, Floats]:
        true, predicted = _sums(draws.seen, seen.labels, count), _sums(draws.seen, seen.predicted, count)
        right = _sums(draws.seen * seen.correct, seen.labels, count)
        with np.errstate(invalid="ignore"):
            f1 = 2 * right / (true + predicted)
        f1[(true == 0) & has_rows] = np.nan  # a class that was not drawn
        return {
            ("seen", "accuracy"): right.sum(axis=1) / true.sum(axis=1),
            ("seen", "macro_f1"): np.nanmean(f1, axis=1),
        }

    return measure


def thresholds(case: Case) -> Measure:
    """Seen rejected, seen accepted and correct, unseen rejected (mean over sources), at every threshold of the max softmax."""
    shares = [case.judged[part][PAPERS_SCORE] for part in ("seen", "unseen")]

    def measure(draws: Draws) -> dict[Path, Floats]:
        found: dict[Path, Floats] = {}
        for threshold in case.thresholds:
            rates = _rates(case, shares[0] >= threshold, shares[1] >= threshold, draws)
            name = threshold_name(threshold)
            found[("thresholds", name, "seen_rejection")] = 1.0 - rates["seen_acceptance"]
            for figure in ("accepted_correct", "unseen_rejection"):
                if figure in rates:
                    found[("thresholds", name, figure)] = rates[figure]
        return found

    return measure


def open_set(case: Case) -> Measure:
    """Every score's ranking, and its rates at the threshold that accepts 95 % of seen validation rows."""
    rankings = {
        name: Ranking(case.scores["seen"][name], case.seen.correct, values, case.unseen.codes, len(case.unseen.sources))
        for name, values in case.scores["unseen"].items()
        if len(case.unseen)
    }

    def measure(draws: Draws) -> dict[Path, Floats]:
        found: dict[Path, Floats] = {}
        for name, ranking in rankings.items():
            figures = ranking.figures(draws)
            for figure in (*RANKED, *(key for key in figures if key.startswith("ccr_"))):
                found[("open_set", name, figure)] = figures[figure]
            for code, source in enumerate(case.unseen.sources):
                found[("open_set", name, "per_generator", source)] = figures["per_source"][:, code]
                found[("open_set", name, "per_generator_oscr", source)] = figures["per_source_oscr"][:, code]
            for relation, codes in case.relation_codes.items() if name in case.told_scores else ():
                part = Draws(
                    seen=draws.seen, unseen=draws.unseen, unseen_sources=draws.unseen_sources[:, codes]
                )  # of this relation alone
                found[("by_relation", relation, name)] = macro(figures["per_source"][:, codes], part)
        if case.operating is None:
            return found
        for name, threshold in case.operating.thresholds.items():
            if name not in case.judged["seen"]:  # by distance, and the statistics are gone
                continue
            seen, unseen = (case.judged[part][name] >= threshold for part in ("seen", "unseen"))
            rates = _rates(case, seen, unseen, draws)
            paths: list[Path] = [("open_set", name)] if name in rankings else []
            paths += [("main",)] if name == case.operating.score else []
            for path in paths:
                found |= {(*path, figure): values for figure, values in rates.items()}
            if name in rankings:
                found[("open_set", name, "rejection_at_95")] = rates["unseen_rejection"]
            if name == case.operating.score and name in rankings:
                for figure in ("auroc", "oscr"):
                    found[("main", figure)] = found[("open_set", name, figure)]
        return found

    return measure


def within_kind(case: Case) -> Measure:
    """AUROC and OSCR of unseen sources against seen rows of their own kind: a pooled figure mostly tells how hard each is."""
    parts: list[tuple[Path, Ranking, Mask, Mask, list[int]]] = []
    for kind, (seen, unseen, codes) in case.kind_rows.items():
        place = np.full(len(case.unseen.sources), -1)
        place[codes] = np.arange(len(codes))
        for name in case.told_scores:
            ranking = Ranking(
                case.scores["seen"][name][seen],
                case.seen.correct[seen],
                case.scores["unseen"][name][unseen],
                place[case.unseen.codes[unseen]],
                len(codes),
            )
            parts.append((("within_kind", kind, name), ranking, seen, unseen, codes))

    def measure(draws: Draws) -> dict[Path, Floats]:
        found: dict[Path, Floats] = {}
        for path, ranking, seen, unseen, codes in parts:
            part = Draws(
                seen=draws.seen[:, seen], unseen=draws.unseen[:, unseen], unseen_sources=draws.unseen_sources[:, codes]
            )
            figures = ranking.figures(part)
            found |= {(*path, figure): figures[figure] for figure in ("auroc", "oscr")}
        return found

    return measure


def calibration(case: Case) -> Measure:
    """NLL, Brier score and expected calibration error of seen rows, as they are and at the temperature of the validation rows."""
    if case.temperature is None:
        return lambda draws: {}
    rows = np.arange(len(case.seen))
    ways: dict[Path, tuple[Floats, Floats, Floats, Labels]] = {}
    for path, temperature in ((("calibration", "uncalibrated"), 1.0), (("calibration",), case.temperature)):
        logs = log_softmax(case.seen.logits / temperature, axis=1)
        shares = np.exp(logs)
        nll = -logs[rows, case.seen.labels]
        brier = (shares**2).sum(axis=1) - 2 * shares[rows, case.seen.labels] + 1.0
        top = shares.max(axis=1)
        ways[path] = nll, brier, top, np.minimum((top * BINS).astype(np.int64), BINS - 1)

    def measure(draws: Draws) -> dict[Path, Floats]:
        total = draws.seen.sum(axis=1)
        found: dict[Path, Floats] = {}
        for path, (nll, brier, top, bins) in ways.items():
            gaps = _sums(draws.seen * (top - case.seen.correct), bins, BINS)
            found[(*path, "nll")] = draws.seen @ nll / total
            found[(*path, "brier")] = draws.seen @ brier / total
            found[(*path, "ece")] = np.abs(gaps).sum(axis=1) / total
        return found

    return measure


MEASURES = (closed_set, thresholds, open_set, within_kind, calibration)


def _rates(case: Case, seen: Mask, unseen: Mask, draws: Draws) -> dict[str, Floats]:
    """Of rows that are accepted or not: seen (N,), unseen (V,)."""
    total = draws.seen.sum(axis=1)
    found = {
        "seen_acceptance": draws.seen @ seen.astype(np.float64) / total,
        "accepted_correct": draws.seen @ (seen & case.seen.correct).astype(np.float64) / total,
    }
    if len(unseen):
        found["unseen_rejection"] = macro(source_rates(~unseen, case.unseen.codes, draws), draws)
    return found


def _sums(weights: Floats, codes: Labels, count: int) -> Floats:
    """Weights (R, N) summed by code (R, count)."""
    return np.stack([np.bincount(codes, weights=row, minlength=count) for row in weights])
