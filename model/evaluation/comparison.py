"""Several attributors on the same images: paired differences on the same resamples, so that what all of them find hard cancels.

Runs that differ by their seed alone are one method, and its seeds a third factor of the bootstrap beside sources and identities.
Every difference stands beside the smallest one that this evaluation could detect, and nothing below that is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import WrongUseError
from .case import Case
from .estimates import Estimate, estimate
from .measures import Path
from .predictions import Floats, Labels, Predictions
from .result import Cell, Column, Figure, Result, Section, Table, percent, span

DETECTABLE = 2.801585  # standard errors: power 80 %, two-sided 5 % (1.959964 + 0.841621)
CLAIMED = 0.05  # largest p after Holm's correction
COMPARED: dict[Path, tuple[str, str]] = {  # path -> what it is, its unit
    ("seen", "accuracy"): ("seen accuracy", "share"),
    ("seen", "macro_f1"): ("macro F1", "share"),
    ("main", "accepted_correct"): ("main row: accepted and correct", "share"),
    ("main", "unseen_rejection"): ("main row: unseen rejected", "share"),
    ("main", "auroc"): ("main row: AUROC", "score"),
    ("main", "oscr"): ("main row: OSCR", "score"),
    ("open_set", "max_softmax", "auroc"): ("AUROC by max softmax", "score"),
    ("calibration", "nll"): ("NLL at the temperature", "score"),
}


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One attributor: its name, what makes it the same method as another of another seed, and its completed case."""

    name: str
    recipe: str  # empty: a method of its own
    case: Case


@dataclass(frozen=True, kw_only=True)
class Method:
    """Attributors that differ by their seed alone."""

    name: str
    members: tuple[Entrant, ...]

    def estimate(self, path: Path, drawn: Floats) -> Estimate | None:
        """The mean over its seeds. drawn: seeds of each resample, in [0, 1) (R, members)."""
        found = [member.case.estimates.get(path) for member in self.members]
        if any(one is None or one.value is None or one.draws is None for one in found):
            return None
        values = [one.value for one in found if one is not None and one.value is not None]
        draws = np.stack([one.draws for one in found if one is not None and one.draws is not None])
        seeds = (drawn[: draws.shape[1], : len(values)] * len(values)).astype(np.int64)
        means = draws[seeds, np.arange(draws.shape[1])[:, None]].mean(axis=1)
        has_interval = all(one is not None and one.low is not None for one in found)
        low, high = np.nanquantile(means, [0.025, 0.975]) if has_interval else (None, None)
        units = min(one.units for one in found if one is not None)
        return Estimate(
            value=float(np.mean(values)),
            units=units,
            low=None if low is None else float(low),
            high=None if high is None else float(high),
            draws=means,
        )


def compare(entrants: Sequence[Entrant]) -> Result:
    """Every method, and each one's differences from the first. Raises WrongUseError where they do not judge the same images."""
    aligned = align(entrants)
    methods = methods_of(aligned)
    generator = np.random.Generator(np.random.PCG64(1))
    most = max(len(method.members) for method in methods)
    drawn = [generator.random((10_000, most)) if most > 1 else np.zeros((10_000, 1)) for _ in methods]
    figures = {
        path: [method.estimate(path, seeds) for method, seeds in zip(methods, drawn, strict=True)] for path in COMPARED
    }
    differences = [one for path, row in figures.items() for one in _differences(path, row, methods)]
    document = {
        "methods": {
            method.name: {
                "runs": [member.name for member in method.members],
                "figures": {"/".join(path): _document(row[place]) for path, row in figures.items()},
                "spread": {"/".join(path): _spread(method, path) for path in figures},
            }
            for place, method in enumerate(methods)
        },
        "differences": differences,
    }
    tables = [_method_table(methods, figures)]
    if differences:
        tables.append(_difference_table(differences))
    return Result(sections=(Section(document=document, tables=tuple(tables)),))


def methods_of(entrants: Sequence[Entrant]) -> list[Method]:
    """In the order of their first members."""
    groups: dict[str, list[Entrant]] = {}
    for entrant in entrants:
        groups.setdefault(entrant.recipe or f"own {entrant.name}", []).append(entrant)
    return [
        Method(
            name=members[0].name if len(members) == 1 else f"{members[0].name} ({len(members)} seeds)",
            members=tuple(members),
        )
        for members in groups.values()
    ]


def align(entrants: Sequence[Entrant]) -> list[Entrant]:
    """With the rows of each in the order of the first one's, so that all are resampled alike."""
    first = entrants[0]
    found = [first]
    for other in entrants[1:]:
        orders = {part: _order(first, other, part) for part in ("seen", "unseen")}
        if all((order == np.arange(len(order))).all() for order in orders.values()):
            found.append(other)
            continue
        case = other.case.with_rows(seen=orders["seen"], unseen=orders["unseen"])
        found.append(replace(other, case=replace(case, estimates=estimate(case))))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return [float(value) for value in corrected]


def _order(first: Entrant, other: Entrant, part: str) -> Labels:
    ours: Predictions = getattr(first.case, part)
    theirs: Predictions = getattr(other.case, part)
    place = {key: row for row, key in enumerate(theirs.keys)}
    lacking = [key for key in ours.keys if key not in place]
    if lacking or len(theirs) != len(ours):
        own = set(ours.keys)
        key, has, lacks = (
            (lacking[0], first.name, other.name)
            if lacking
            else (next(key for key in theirs.keys if key not in own), other.name, first.name)
        )
        raise WrongUseError(
            f"{first.name} and {other.name} do not judge the same {part} images: {key} is one in {has} and not in {lacks}; "
            "compare attributors of one protocol on one shard set"
        )
    return np.array([place[key] for key in ours.keys], dtype=np.int64)


def _differences(path: Path, row: Sequence[Estimate | None], methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Of each method from the first, with Holm's correction over them."""
    first, found = row[0], []
    for method, one in zip(methods[1:], row[1:], strict=True):
        facts: dict[str, Any] = {"method": method.name, "than": methods[0].name, "figure": "/".join(path)}
        facts |= dict.fromkeys(("value", "low", "high", "detectable", "p", "p_holm"))
        if first is not None and one is not None and first.value is not None and one.value is not None:
            assert first.draws is not None and one.draws is not None
            facts["value"] = one.value - first.value
            if first.low is not None and one.low is not None:
                draws = one.draws - first.draws
                draws = draws[np.isfinite(draws)]
                facts["low"], facts["high"] = (float(limit) for limit in np.quantile(draws, [0.025, 0.975]))
                facts["detectable"] = DETECTABLE * float(draws.std(ddof=1))
                facts["p"] = min(1.0, 2 * (min((draws <= 0).sum(), (draws >= 0).sum()) + 1) / (len(draws) + 1))
        found.append(facts)
    tested = [facts for facts in found if facts["p"] is not None]
    for facts, corrected in zip(tested, holm([facts["p"] for facts in tested]), strict=True):
        facts["p_holm"] = corrected
    for facts in found:
        facts["claim"] = _claim(facts)
    return found


def _claim(facts: Mapping[str, Any]) -> str:
    if facts["value"] is None:
        return "not estimable"
    if facts["detectable"] is None:
        return "none: too few sources"
    if facts["p_holm"] <= CLAIMED and abs(facts["value"]) >= facts["detectable"]:
        return "higher" if facts["value"] > 0 else "lower"
    return "none"


def _document(one: Estimate | None) -> dict[str, Any] | None:
    return None if one is None else {"value": one.value, "low": one.low, "high": one.high, "sources": one.units}


def _spread(method: Method, path: Path) -> dict[str, Any] | None:
    """The values of the seeds and their standard deviation; None of one seed."""
    found = [member.case.estimates.get(path) for member in method.members]
    values = [one.value for one in found if one is not None and one.value is not None]
    return None if len(values) < 2 else {"values": values, "sd": float(np.std(values, ddof=1))}


def _method_table(methods: Sequence[Method], figures: Mapping[Path, Sequence[Estimate | None]]) -> Table:
    columns = [Column(title="figure", width=32)]
    for method in methods:
        columns += [
            Column(title=method.name, width=max(10, len(method.name)), gap=2),
            Column(title="95 % interval", width=18, gap=1),
        ]
    rows: list[tuple[Cell, ...]] = []
    for path, row in figures.items():
        words, unit = COMPARED[path]
        cells: list[Cell] = [words]
        for method, one in zip(methods, row, strict=True):
            if one is None or one.value is None:
                cells += ["-", ""]
                continue
            spread = _spread(method, path)
            value = percent(one.value) if unit == "share" else f"{one.value:.3f}"
            more = (
                ""
                if spread is None
                else f" +- {100 * spread['sd']:.1f}"
                if unit == "share"
                else f" +- {spread['sd']:.3f}"
            )
            cells += [value + more, span(one.figure(), unit)]
        rows.append(tuple(cells))
    notes = ["+-: standard deviation over seeds"] if any(len(method.members) > 1 for method in methods) else []
    return Table(name="methods", title="Methods", columns=tuple(columns), rows=tuple(rows), notes=tuple(notes))


def _difference_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    title = f"difference from {differences[0]['than']}"
    title += " " * (max(len(facts["method"]) for facts in differences) - len(title))
    columns = (
        Column(title=title, width=len(title)),
        Column(title="figure", width=32),
        Column(title="value", width=8),
        Column(title="95 % interval", width=18, gap=2),
        Column(title="detectable", width=10),
        Column(title="p (Holm)", width=9, unit="score"),
        Column(title="claimed", width=10, gap=2),
    )
    rows: list[tuple[Cell, ...]] = []
    for facts in differences:
        words, unit = COMPARED[tuple(facts["figure"].split("/"))]
        scale, places = (100.0, 1) if unit == "share" else (1.0, 3)

        def write(value: float | None, scale: float = scale, places: int = places) -> str:
            return "-" if value is None else f"{scale * value:+.{places}f}"

        interval = "" if facts["low"] is None else f"[{write(facts['low'])}, {write(facts['high'])}]"
        detectable = "-" if facts["detectable"] is None else f"{scale * facts['detectable']:.{places}f}"
        rows.append(
            (
                facts["method"],
                words,
                write(facts["value"]),
                interval,
                detectable,
                Figure(facts["p_holm"]),
                facts["claim"],
            )
        )
    notes = (
        "paired: the same sources and identities are drawn for both; shares in points. detectable: the smallest difference that "
        "this evaluation would find four times of five; nothing below it is claimed. p corrected (Holm) over the "
        "methods of a figure",
    )
    return Table(name="differences", title="Differences", columns=columns, rows=tuple(rows), notes=notes)
