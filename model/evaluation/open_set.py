"""What is rejected at each threshold, seen and unseen, and how well each score ranks seen above unseen."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t as student

from .case import Case
from .estimates import Estimate
from .measures import RANKED
from .ranking import FALSE_POSITIVE_RATES
from .resampling import FEW, TOO_FEW
from .result import Cell, Column, Figure, Section, Table, percent, span
from .scores import PAPERS_SCORE, at_threshold, taken_for, threshold_name
from .softmax import logit_scale

OWN = "own"  # the column of the run's own threshold
AT_THRESHOLD = ("rejection_at_95", "seen_acceptance", "accepted_correct", "unseen_rejection")
CCR = tuple(f"ccr_at_fpr_{rate:g}" for rate in FALSE_POSITIVE_RATES)


def open_set_section(case: Case) -> Section:
    unseen = case.unseen
    document: dict[str, Any] = {
        "thresholds": {threshold_name(t): _at(t, case) for t in case.thresholds},
        "open_set": _open_set(case) if len(unseen) else None,
        "auroc": _aurocs(case) if len(unseen) else None,
        "operating_point": _operating_point(case),
        "unseen_taken_for": {name: taken_for(unseen.of(name).logits, case.classes) for name in unseen.sources},
    }
    tables = [_threshold_table(document, case)]
    if document["open_set"]:
        tables += [_score_table(case), _unseen_table(document, case)]
    return Section(document=document, tables=tuple(tables))


def t_interval(values: list[float]) -> tuple[float, float] | None:
    """The 95 % t interval of a mean over sources; None under five of them."""
    if len(values) < TOO_FEW:
        return None
    reach = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return float(np.mean(values)) - reach, float(np.mean(values)) + reach


def _open_set(case: Case) -> dict[str, Any]:
    """score -> its figures; null what is not estimable."""
    found: dict[str, Any] = {}
    for score in case.scores["unseen"]:
        figures: dict[str, Any] = {
            name: _value(case, ("open_set", score, name)) for name in (*RANKED, *CCR, *AT_THRESHOLD)
        }
        for name in ("per_generator", "per_generator_oscr"):
            figures[name] = {source: _value(case, ("open_set", score, name, source)) for source in case.unseen.sources}
        points = [value for value in figures["per_generator"].values() if value is not None]
        if len(points) < FEW:
            figures["t_interval"] = t_interval(points)
        found[score] = figures
    return found


def _value(case: Case, path: tuple[str, ...]) -> float | None:
    one = case.estimates.get(path)
    return None if one is None else one.value


def _aurocs(case: Case) -> dict[str, Any]:
    """Macro mean over unseen generators for each score; per generator for max_softmax."""
    per_generator = {
        source: _value(case, ("open_set", PAPERS_SCORE, "per_generator", source)) for source in case.unseen.sources
    }
    scores = {score: _value(case, ("open_set", score, "auroc")) for score in case.scores["unseen"]}
    return {**scores, "per_generator": per_generator}


def _operating_point(case: Case) -> dict[str, Any] | None:
    """The figures at the point that `bmrl-attribute` uses, None where the run has none."""
    if case.operating is None:
        return None
    found: dict[str, Any] = {"score": case.operating.score, "threshold": case.operating.threshold}
    for name in ("seen_acceptance", "accepted_correct", "unseen_rejection"):
        found[name] = _value(case, ("main", name))
    found["seen_rejection"] = 1.0 - found["seen_acceptance"]
    return found


def _at(threshold: float, case: Case) -> dict[str, Any]:
    seen, unseen = case.seen, case.unseen
    shares = case.judged["unseen"][PAPERS_SCORE] < threshold
    per_generator = {name: float(shares[unseen.codes == code].mean()) for code, name in enumerate(unseen.sources)}
    return {
        # The paper's average is over generators, not over images.
        "unseen_rejection": float(np.mean(list(per_generator.values()))) if per_generator else None,
        **at_threshold(seen.logits, seen.labels, threshold),
        "per_generator": per_generator or None,
    }


def _threshold_table(document: dict[str, Any], case: Case) -> Table:
    thresholds, own = dict(document["thresholds"]), document["operating_point"]
    notes = []
    if own is None:
        notes.append("the run has no threshold of its own, so bmrl-attribute cannot tell without one")
    else:
        thresholds[OWN] = own
        notes.append(f"{OWN}: the main row's, {own['score']} >= {own['threshold']:.4g}; the others: of the max softmax")
    columns = (Column(title="threshold", width=44), *(Column(title=t, width=8, unit="share") for t in thresholds))
    lines = {
        "seen rejected (lower is better)": ("seen_rejection", len(case.seen)),
        "seen accepted and correct": ("accepted_correct", len(case.seen)),
    }
    if document["auroc"]:
        lines["unseen rejected, mean over sources"] = ("unseen_rejection", len(case.unseen))
    rows: list[tuple[Cell, ...]] = []
    for label, (name, n) in lines.items():
        rows.append((label, *(Figure(at[name], n=n) for at in thresholds.values())))
    parts = ("seen", "unseen") if document["auroc"] else ("seen",)
    scale = " and ".join(f"{case.judged[part][PAPERS_SCORE].mean():.3f} of {part}" for part in parts)
    notes.append(
        f"mean max probability {scale} images; logit scale {logit_scale(case.seen.logits):.2f} (highest logit above the mean of "
        "the others): both move every rejection rate, and are free"
    )
    if not document["auroc"]:
        notes.append("no unseen rows: rejection of unseen sources and AUROC are not measured")
    return Table(name="thresholds", title="Thresholds", columns=columns, rows=tuple(rows), notes=tuple(notes))


def _score_table(case: Case) -> Table:
    columns = (
        Column(title="score, seen against unseen", width=26),
        Column(title="AUROC", width=6, unit="score"),
        Column(title="95 % interval", width=15, gap=2),
        Column(title="OSCR", width=6, unit="score"),
        Column(title="95 % interval", width=15, gap=2),
        Column(title="rej@95", width=7, unit="share"),
        Column(title="FPR95", width=7, unit="share"),
        Column(title="AUPR", width=6, unit="score"),
        Column(title="AUPRu", width=6, unit="score"),
        *(Column(title=f"CCR@{rate:g}", width=8, unit="share") for rate in FALSE_POSITIVE_RATES),
    )
    main = case.operating.score if case.operating else ""
    rows: list[tuple[Cell, ...]] = []
    for score in case.scores["unseen"]:
        one = {name: _figure(case, score, name) for name in (*RANKED, *CCR, *AT_THRESHOLD)}
        rows.append(
            (
                f"{score}{' *' if score == main else ''}",
                one["auroc"],
                span(one["auroc"], "score"),
                one["oscr"],
                span(one["oscr"], "score"),
                *(one[name] for name in ("rejection_at_95", "fpr95", "aupr", "aupr_unseen", *CCR)),
            )
        )
    return Table(name="scores", title="Scores", columns=columns, rows=tuple(rows), notes=tuple(_score_notes(case)))


def _score_notes(case: Case) -> list[str]:
    sources = case.unseen.sources
    notes = [
        "mean over unseen sources; rej@95: unseen rejected at the threshold that accepts 95 % of seen validation images; FPR95: "
        "unseen accepted where 95 % of seen test images are; AUPR, AUPRu: seen, unseen images as positives, pooled; CCR@x: "
        "accepted and correct where x of unseen images are accepted",
        f"intervals: {len(case.seen.sources)} seen sources, {len(sources)} unseen ones and their identities drawn anew",
    ]
    if main := case.operating:
        notes.append(f"*: the main row's, {main.score}")
    if len(sources) < TOO_FEW:
        notes.append(f"under {TOO_FEW} unseen sources no interval is estimable; every point is in the table below")
    elif len(sources) < FEW:
        for score in case.told_scores:
            points = [_value(case, ("open_set", score, "per_generator", source)) for source in sources]
            low, high = t_interval([point for point in points if point is not None]) or (np.nan, np.nan)
            notes.append(f"{score}: t interval over {len(sources)} unseen sources AUROC {low:.3f} to {high:.3f}")
    return notes


def _figure(case: Case, score: str, name: str) -> Figure:
    one = case.estimates.get(("open_set", score, name), Estimate(value=None, units=0))
    return one.figure(len(case.unseen))


def _unseen_table(document: dict[str, Any], case: Case) -> Table:
    main = case.told_scores[-1]
    columns = (
        Column(title="unseen source", width=24),
        Column(title="relation", width=32),
        Column(title="AUROC", width=6, unit="score"),
        *((Column(title=f"by {main}", width=8, unit="score"),) if main != PAPERS_SCORE else ()),
        *(Column(title=f"rej@{name:<4}", width=8, unit="share") for name in document["thresholds"]),
        Column(title="taken for", width=0, gap=2),
    )
    rows: list[tuple[Cell, ...]] = []
    sizes = np.bincount(case.unseen.codes, minlength=len(case.unseen.sources))
    for code, name in enumerate(case.unseen.sources):
        n, taken = int(sizes[code]), document["unseen_taken_for"][name]
        values = [Figure(document["open_set"][score]["per_generator"][name], n=n) for score in case.told_scores]
        shares = [Figure(at["per_generator"][name], n=n) for at in document["thresholds"].values()]
        most = f"{taken['taken_for']} ({percent(taken['taken_for_share'])})"
        rows.append((name, case.about.relations.get(name, ""), *values, *shares, most))
    below = sum((document["auroc"]["per_generator"][name] or 0.0) < 0.5 for name in case.unseen.sources)
    notes = (
        f"AUROC by {PAPERS_SCORE}; below .5 in {below} of {len(case.unseen.sources)} sources, which look more "
        "familiar than the seen ones",
    )
    return Table(name="unseen", title="Unseen sources", columns=columns, rows=tuple(rows), notes=notes if below else ())
