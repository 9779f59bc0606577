"""What is rejected at each threshold, seen and unseen, and how well each score ranks seen above unseen."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case
from .predictions import Floats, Predictions
from .result import Cell, Column, Figure, Section, Table, percent
from .scores import SCORES, at_threshold, auroc, rejection, taken_for, threshold_name, unit, unit_means

OWN = "own"  # the column of the run's own threshold
_RATES = ("seen_rejection", "accepted_correct", "unseen_rejection")
TOP = "max_softmax"  # the papers' score, which is told per source


def open_set_section(case: Case) -> Section:
    seen, unseen = case.seen, case.unseen
    document: dict[str, Any] = {
        "thresholds": {threshold_name(t): _at(t, seen, unseen) for t in case.thresholds},
        "auroc": _aurocs(seen, unseen) if len(unseen) else None,
        "operating_point": _operating_point(case),
        "unseen_taken_for": {name: taken_for(unseen.of(name).logits, case.classes) for name in unseen.sources},
    }
    tables = [_threshold_table(document, seen, unseen)]
    if document["auroc"]:
        tables.append(_unseen_table(document, case))
        scores = ", ".join(
            f"{name} {value:.3f}" for name, value in document["auroc"].items() if name != "per_generator"
        )
        line = f"AUROC seen against unseen, mean over unseen sources: {scores}"
        tables.append(Table(name="auroc", notes=(line,)))
    return Section(document=document, tables=tuple(tables))


def _operating_point(case: Case) -> dict[str, Any] | None:
    """The figures at the threshold that `bmrl-attribute` uses, None where the run has none."""
    if case.about.calibration is None:
        return None
    threshold = float(case.about.calibration["threshold_95"])
    found = _at(threshold, case.seen, case.unseen)
    return {"threshold": threshold, **{name: found[name] for name in _RATES}}


def _at(threshold: float, seen: Predictions, unseen: Predictions) -> dict[str, Any]:
    per_generator = {name: rejection(unseen.of(name).logits, threshold) for name in unseen.sources}
    return {
        # The paper's average is over generators, not over images.
        "unseen_rejection": float(np.mean(list(per_generator.values()))) if per_generator else None,
        **at_threshold(seen.logits, seen.labels, threshold),
        "per_generator": per_generator or None,
    }


def _aurocs(seen: Predictions, unseen: Predictions) -> dict[str, Any]:
    """Macro mean over unseen generators for each score; per generator for max_softmax."""
    result: dict[str, Any] = {}
    for name, score in SCORES.items():
        high = score(seen.logits)
        values = {source: auroc(high, score(unseen.of(source).logits)) for source in unseen.sources}
        result[name] = float(np.mean(list(values.values())))
        if name == TOP:
            result["per_generator"] = values
    high, low = _centre_similarity(seen, seen), _centre_similarity(unseen, seen)
    result["nearest_class_mean"] = float(
        np.mean([auroc(high, low[np.array(unseen.generators) == source]) for source in unseen.sources])
    )
    return result


def _centre_similarity(rows: Predictions, reference: Predictions) -> Floats:
    """Highest cosine similarity to a class mean of the (predicted) reference features; label-free at test time."""
    means = unit_means(reference.features, reference.logits.argmax(axis=1))
    return np.asarray((unit(rows.features) @ means.T).max(axis=1))


def _threshold_table(document: dict[str, Any], seen: Predictions, unseen: Predictions) -> Table:
    thresholds, own = dict(document["thresholds"]), document["operating_point"]
    notes = []
    if own is None:
        notes.append(
            "the run has no threshold of its own (no calibration.json), so bmrl-attribute cannot tell without one"
        )
    else:
        thresholds[OWN] = own
        notes.append(f"{OWN}: {own['threshold']:.4f}, at which bmrl-attribute calls a source unknown")
    columns = (Column(title="threshold", width=44), *(Column(title=t, width=8, unit="share") for t in thresholds))
    lines = {
        "seen rejected (lower is better)": ("seen_rejection", len(seen)),
        "seen accepted and correct": ("accepted_correct", len(seen)),
    }
    if document["auroc"]:
        lines["unseen rejected, mean over sources"] = ("unseen_rejection", len(unseen))
    rows: list[tuple[Cell, ...]] = []
    for label, (name, n) in lines.items():
        rows.append((label, *(Figure(at[name], n=n) for at in thresholds.values())))
    if not document["auroc"]:
        notes.append("no unseen rows: rejection of unseen sources and AUROC are not measured")
    return Table(name="thresholds", title="Thresholds", columns=columns, rows=tuple(rows), notes=tuple(notes))


def _unseen_table(document: dict[str, Any], case: Case) -> Table:
    columns = (
        Column(title="unseen source", width=24),
        Column(title="relation", width=32),
        Column(title="AUROC", width=6, unit="score"),
        *(Column(title=f"rej@{name:<4}", width=8, unit="share") for name in document["thresholds"]),
        Column(title="taken for", width=0, gap=2),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, value in document["auroc"]["per_generator"].items():
        n, taken = len(case.unseen.of(name)), document["unseen_taken_for"][name]
        shares = [Figure(at["per_generator"][name], n=n) for at in document["thresholds"].values()]
        most = f"{taken['taken_for']} ({percent(taken['taken_for_share'])})"
        rows.append((name, case.about.relations.get(name, ""), Figure(value, n=n), *shares, most))
    return Table(name="unseen", title="Unseen sources", columns=columns, rows=tuple(rows))
