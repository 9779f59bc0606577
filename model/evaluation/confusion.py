"""Which seen source is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

from .case import Case
from .result import Cell, Column, Figure, Section, Table
from .scores import confusion


def confusion_section(case: Case) -> Section:
    counts = confusion(case.seen.logits, case.seen.labels, len(case.classes)).tolist()
    document = {"confusion": {"classes": list(case.classes), "counts": counts}}
    return Section(document=document, tables=(confusion_table(case.classes, counts),))


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Rows true, columns attributed, in percent of the row; columns are numbered like the rows."""
    head = Column(title="confusion, % of each true source", width=36)
    columns = [Column(title=str(number), width=4, unit="percent") for number in range(len(classes))]
    rows: list[tuple[Cell, ...]] = []
    for number, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = sum(row)
        rows.append((f"{number:>3} {name}", *(Figure(count / max(1, total), n=total) for count in row)))
    return Table(name="confusion", title="Confusion of the seen sources", columns=(head, *columns), rows=tuple(rows))
