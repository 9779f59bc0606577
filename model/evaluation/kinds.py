"""Open-set figures within each kind of manipulation and by relation. A pooled AUROC mostly tells how hard each kind is to
attribute: confidence follows the difficulty of a class (docs/decisions/evaluation.md)."""

from __future__ import annotations

from typing import Any

from .case import Case
from .result import Cell, Column, Figure, Section, Table, span


def kinds_section(case: Case) -> Section:
    if not len(case.unseen):
        return Section(document={"within_kind": None, "by_relation": None})
    kinds: dict[str, Any] = {}
    rows: list[tuple[Cell, ...]] = []
    for kind, (seen, unseen, codes) in case.kind_rows.items():
        kinds[kind] = {"n_seen": int(seen.sum()), "n_unseen": int(unseen.sum()), "n_sources": len(codes)}
        for score in case.told_scores:
            found = {name: case.estimates["within_kind", kind, score, name] for name in ("auroc", "oscr")}
            kinds[kind][score] = {name: one.value for name, one in found.items()}
            auroc, oscr = (one.figure(int(unseen.sum())) for one in found.values())
            rows.append((f"within {kind}", score, Figure(len(codes)), auroc, span(auroc, "score"), oscr))
    relations: dict[str, Any] = {}
    for relation, codes in case.relation_codes.items():
        relations[relation] = {"n_sources": len(codes)}
        for score in case.told_scores:
            one = case.estimates["by_relation", relation, score]
            relations[relation][score] = one.value
            figure = one.figure()
            rows.append((relation, score, Figure(len(codes)), figure, span(figure, "score"), ""))
    columns = (
        Column(title="AUROC within each kind, by relation", width=36),
        Column(title="score", width=22, gap=1),
        Column(title="sources", width=7, unit="count"),
        Column(title="AUROC", width=6, unit="score"),
        Column(title="95 % interval", width=15, gap=2),
        Column(title="OSCR", width=6, unit="score"),
    )
    notes = (
        "within a kind: its unseen sources against seen images of that kind alone; the pooled figure above mostly tells how hard "
        "each kind is",
    )
    table = Table(name="kinds", title="Within each kind", columns=columns, rows=tuple(rows), notes=notes)
    return Section(document={"within_kind": kinds, "by_relation": relations}, tables=(table,) if rows else ())
