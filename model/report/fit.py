"""A table within the width of a terminal: text is wrapped, figures never are; what has no room stands in a block below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from ..evaluation.result import Column

NARROWEST = 12  # characters of a text column that is wrapped

Rows = Sequence[Sequence[str]]  # the titles first


def fit_rows(rows: Rows, columns: Sequence[Column], width: int) -> list[str]:
    """The lines of a table, its first column repeated in every block."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    name = max((len(row[0]) for row in rows[1:]), default=0)  # a name is read best whole
    floors = [min(name, width // 3), *(NARROWEST for _ in columns[1:])]
    while _total(range(len(columns)), columns, widths) > width:
        wide = [place for place, column in enumerate(columns) if column.is_text and widths[place] > floors[place]]
        if not wide:
            break
        widths[max(wide, key=lambda place: widths[place])] -= 1
    blocks: list[list[int]] = [[0]]
    for place in range(1, len(columns)):
        if _total([*blocks[-1], place], columns, widths) > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(place)
    return [line for block in blocks for row in rows for line in _lines(row, block, columns, widths)]


def wrap(sentence: str, width: int) -> list[str]:
    return textwrap.wrap(sentence, width, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _total(places: Sequence[int], columns: Sequence[Column], widths: Sequence[int]) -> int:
    return sum(widths[place] + (columns[place].gap if number else 0) for number, place in enumerate(places))


def _lines(row: Sequence[str], places: Sequence[int], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    """One row; as many lines as its highest cell has."""
    cells = [textwrap.wrap(row[place], widths[place]) if columns[place].is_text else [row[place]] for place in places]
    if not columns[places[0]].is_text or len(cells[0]) <= 1:  # spaces before a name are kept
        cells[0] = [row[places[0]]]
    lines = []
    for parts in zip_longest(*cells, fillvalue=""):
        line = ""
        for number, (place, part) in enumerate(zip(places, parts, strict=True)):
            gap = " " * columns[place].gap if number else ""
            line += gap + (part.ljust(widths[place]) if columns[place].is_text else part.rjust(widths[place]))
        lines.append(line.rstrip())
    return lines
