"""The row that was declared before any test row was seen: one score, and the threshold that accepts 95 % of the seen validation
rows. It is the point at which `bmrl-attribute` works."""

from __future__ import annotations

from typing import Any

from .case import Case
from .operating import OperatingPoint
from .result import Cell, Column, Section, Table, span

FIGURES = {  # in the order in which they are shown: name -> what it is, its unit
    "seen_acceptance": ("seen accepted", "share"),
    "accepted_correct": ("seen accepted and correct", "share"),
    "unseen_rejection": ("unseen rejected, mean over sources", "share"),
    "auroc": ("AUROC", "score"),
    "oscr": ("OSCR", "score"),
}


def main_section(case: Case) -> Section:
    operating = case.operating
    if operating is None:
        line = (
            "no main row: no seen validation images, so no score was chosen and no threshold set; bmrl-attribute cannot tell "
            "without --threshold"
        )
        return Section(document={"main": None}, tables=(Table(name="main", notes=(line,)),))
    found: dict[str, Any] = {"score": operating.score, "threshold": operating.threshold}
    rows: list[tuple[Cell, ...]] = []
    for name, (words, unit) in FIGURES.items():
        one = case.estimates.get(("main", name))
        found[name] = None if one is None else one.value
        if one is not None:
            n = len(case.seen) if name in ("seen_acceptance", "accepted_correct") else len(case.unseen)
            cell = one.figure(n)
            rows.append((words, cell if unit == "share" else f"{cell.value:.3f}", span(cell, unit)))
    found |= {"n_validation": operating.n, "left_out": dict(operating.left_out), "reason": operating.reason}
    columns = (
        Column(title="main row, declared in advance", width=44),
        Column(title="", width=8, unit="share"),
        Column(title="95 % interval", width=18, gap=2),
    )
    table = Table(name="main", title="Main row", columns=columns, rows=tuple(rows), notes=(sentence(operating),))
    return Section(document={"main": found}, tables=(table,))


def sentence(operating: OperatingPoint) -> str:
    """Which score, which threshold, and how both were found."""
    how = (
        f"max_softmax: {operating.reason}"
        if operating.reason
        else f"the best of {len(operating.left_out)} scores at telling seen sources left out of the training statistics, AUROC "
        f"{operating.left_out[operating.score]:.3f}"
    )
    return (
        f"{operating.score} >= {operating.threshold:.4g}, which 95 % of {operating.n} seen validation images pass; the score is "
        f"{how}"
    )
