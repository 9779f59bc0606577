"""What an evaluation found: sections of tables of figures, which model/report draws as text, as a page and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    value: float | None  # None: not measured
    n: int | None = None  # rows it was measured on
    low: float | None = None  # of its 95 % interval
    high: float | None = None


Cell = str | Figure


@dataclass(frozen=True, kw_only=True)
class Column:
    """unit says how a figure is written: `share` 85.7%, `score` 0.625, `count` 100, `percent` 86 (a dot for nothing).

    A `text` column is aligned to the left, the others to the right. width: characters in the text table; gap: spaces before.
    """

    title: str
    width: int
    unit: str = "text"
    gap: int = 1

    @property
    def is_text(self) -> bool:
        return self.unit == "text"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A heading, rows of cells under columns, and sentences below. Without columns it is its sentences alone."""

    name: str  # of the section, a word
    title: str = ""  # heading of the page
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of an evaluation: what it adds to the JSON document, and the tables that show it."""

    document: dict[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """The sections of an evaluation in the order in which they are shown."""

    sections: tuple[Section, ...]

    @property
    def tables(self) -> Iterator[Table]:
        for section in self.sections:
            yield from section.tables

    @property
    def document(self) -> dict[str, Any]:
        """The figures by name, as `bmrl-eval --json` prints them; plain values that JSON knows."""
        merged: dict[str, Any] = {}
        for section in self.sections:
            merged |= section.document
        return {name: merged[name] for name in (*_FIRST, *merged) if name in merged}

    def __getitem__(self, name: str) -> Any:
        """A part of `document`, such as result["seen"]["accuracy"]."""
        return self.document[name]


# The order of the document's parts in version 0.1; later ones follow them.
_FIRST = (
    *("seen", "thresholds", "auroc", "confusion", "unseen_taken_for", "lookalikes", "controls", "protocol", "task"),
    *("published", "detection", "zero_shot", "relations", "simulated", "attributor", "preset", "semantics"),
    *("calibration", "data"),
)


def span(figure: Figure, unit: str) -> str:
    """The interval of a figure, such as [55.1%, 68.0%]; empty where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    write = percent if unit == "share" else "{:.3f}".format
    return f"[{write(figure.low)}, {write(figure.high)}]"


def percent(share: float) -> str:
    """0.857 -> 85.7%."""
    return f"{100 * share:.1f}%"
