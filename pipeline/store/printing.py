"""Text that came from outside, as a terminal or a table may show it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: object) -> str:
    """One line: newlines, control characters, ESC and marks that turn the direction of writing become escapes such as
    \\x1b; bytes of a file's name that are no text become the replacement character."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_escaped, shown))


def printable_lines(text: str) -> str:
    """As `printable`, of text whose own newlines are ours."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\ud800" <= character <= "\udfff":
        return REPLACEMENT
    return character.encode("unicode_escape").decode("ascii")


class Cells(tuple[str, ...]):
    """A row of a table, its cells as wide as they stand beside each other; those that start with spaces are figures."""


def fit_lines(lines: Iterable[str | Cells], width: int | None) -> str:
    """Sentences and tables, printable. width: of the terminal, within which sentences are wrapped and tables are split into
    blocks with the first column repeated, nothing cut; None: a line stays a line."""
    found: list[str] = []
    for is_table, group in groupby(lines, lambda line: isinstance(line, Cells)):
        rows = list(group)
        if is_table:
            found += _table([[printable(cell) for cell in row] for row in rows], width)
        else:
            found += [part for row in rows for part in _wrap(printable(str(row)), width)]
    return "\n".join(found)


def _wrap(sentence: str, width: int | None) -> list[str]:
    if width is None or len(sentence) <= width:
        return [sentence]
    return textwrap.wrap(sentence, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _table(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    whole = [" ".join(row).rstrip() for row in rows]
    if width is None or max(map(len, whole)) <= width:
        return whole
    columns = [list(column) for column in zip(*rows, strict=True)]
    right = [place > 0 and all(cell[:1] in (" ", "") for cell in column[:1]) for place, column in enumerate(columns)]
    columns = [[cell.strip() for cell in column] for column in columns]
    sizes = [max(map(len, column)) for column in columns]
    blocks, used = [[0]], sizes[0]
    for place in range(1, len(columns)):
        if used + 1 + sizes[place] > width and len(blocks[-1]) > 1:
            blocks, used = [*blocks, [0]], sizes[0]
        blocks[-1].append(place)
        used += 1 + sizes[place]

    def cell(place: int, row: int) -> str:
        text = columns[place][row]
        return text.rjust(sizes[place]) if right[place] else text.ljust(sizes[place])

    return [" ".join(cell(place, row) for place in block).rstrip() for block in blocks for row in range(len(rows))]
