"""A result as text: the tables that `bmrl-eval` prints."""

from __future__ import annotations

from collections.abc import Callable

from ...pipeline.store.printing import printable
from ..evaluation.result import Cell, Column, Figure, Result, Table, percent
from .fit import fit_rows, wrap

NOT_MEASURED = "-"
FORMATS: dict[str, Callable[[float], str]] = {
    "share": percent,
    "score": lambda value: f"{value:.3f}",
    "count": lambda value: f"{value:d}",
    "percent": lambda value: f"{100 * value:.0f}" if value else ".",
}


def render_text(result: Result, width: int | None = None) -> str:
    """Every table, with an empty line between two. width: of the terminal; None: as wide as the tables are."""
    return "\n\n".join("\n".join(render_table(table, width)) for table in result.tables)


def render_table(table: Table, width: int | None = None) -> list[str]:
    """Lines: the columns' titles, the rows, the notes."""
    lines = []
    if width is not None:
        titles = [column.title for column in table.columns]
        rows = [[write(cell, c) for cell, c in zip(row, table.columns, strict=True)] for row in table.rows]
        lines = fit_rows([titles, *rows], table.columns, width) if titles else []
        return [*lines, *(line for note in table.notes for line in wrap(printable(note), width))]
    if table.columns:
        lines.append(_line([column.title for column in table.columns], table.columns))
        lines += [
            _line([write(cell, c) for cell, c in zip(row, table.columns, strict=True)], table.columns)
            for row in table.rows
        ]
    return [*lines, *map(printable, table.notes)]


def write(cell: Cell, column: Column) -> str:
    """A cell as it is read: a figure by its column's unit."""
    if isinstance(cell, Figure):
        return NOT_MEASURED if cell.value is None else FORMATS[column.unit](cell.value)
    return printable(cell)


def _line(cells: list[str], columns: tuple[Column, ...]) -> str:
    parts = []
    for number, (text, column) in enumerate(zip(cells, columns, strict=True)):
        gap = " " * column.gap if number else ""
        last = number == len(columns) - 1
        parts.append(gap + (text.ljust(0 if last else column.width) if column.is_text else text.rjust(column.width)))
    return "".join(parts)
