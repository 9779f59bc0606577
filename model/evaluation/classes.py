"""Each class by itself: precision, recall, F1, and how many of its seen images every threshold rejects. A threshold rejects
what is hard to tell, which need not be what is new."""

from __future__ import annotations

from typing import Any

from .case import Case
from .open_set import OWN
from .result import Cell, Column, Figure, Section, Table
from .scores import PAPERS_SCORE, threshold_name


def classes_section(case: Case) -> Section:
    seen, shares = case.seen, case.judged["seen"][PAPERS_SCORE]
    rejected = {threshold_name(t): shares < t for t in case.thresholds}
    if case.operating is not None:
        rejected[OWN] = case.judged["seen"][case.operating.score] < case.operating.threshold
    found: dict[str, Any] = {}
    rows: list[tuple[Cell, ...]] = []
    for label, name in enumerate(case.classes):
        is_true, is_said = seen.labels == label, seen.predicted == label
        right, n = int((is_true & is_said).sum()), int(is_true.sum())
        facts: dict[str, Any] = {
            "n": n,
            "recall": right / n if n else None,
            "precision": right / int(is_said.sum()) if is_said.any() else None,
            "f1": 2 * right / (n + int(is_said.sum())) if n or is_said.any() else None,
            "rejection": {at: float(mask[is_true].mean()) if n else None for at, mask in rejected.items()},
        }
        found[name] = facts
        figures = [Figure(facts[figure], n=n) for figure in ("recall", "precision", "f1")]
        rows.append((name, Figure(n), *figures, *(Figure(share, n=n) for share in facts["rejection"].values())))
    columns = (
        Column(title="class, seen test images", width=36),
        Column(title="n", width=6, unit="count"),
        *(Column(title=title, width=9, unit="share") for title in ("recall", "precision", "F1")),
        *(Column(title=f"rej@{at}", width=8, unit="share") for at in rejected),
    )
    table = Table(name="classes", title="Classes", columns=columns, rows=tuple(rows))
    return Section(document={"classes": found}, tables=(table,))
