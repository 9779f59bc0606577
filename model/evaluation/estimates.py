"""Every figure with its interval: the measures on all rows, and on the resamples of a crossed bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .case import Case
from .measures import MEASURES, Path
from .predictions import Floats
from .resampling import BLOCK, BOOTSTRAP_ROWS, RESAMPLES, TOO_FEW, Crossed, represented
from .result import Figure

UNSEEN_PARTS = ("open_set", "within_kind", "by_relation")  # their units are unseen sources


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One figure. value is None where it is not estimable, low and high where an interval is not."""

    value: float | None
    units: int  # sources that it rests on
    low: float | None = None
    high: float | None = None
    draws: Floats | None = None  # (R,), for comparisons

    def figure(self, n: int | None = None) -> Figure:
        return Figure(self.value, n=n, low=self.low, high=self.high)


Estimates = Mapping[Path, Estimate]


def estimate(case: Case, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[Path, Estimate]:
    """path -> its figure and 95 % percentile interval. Resampled are at most BOOTSTRAP_ROWS rows, alike from every source;
    their intervals are moved to the figure of all rows."""
    whole = Crossed(seen=case.seen, unseen=case.unseen).whole()
    values = {path: float(found[0]) for make in MEASURES for path, found in make(case)(whole).items()}
    few = _smaller(case)
    crossed = Crossed(seen=few.seen, unseen=few.unseen, seed=seed)
    measures = [make(few) for make in MEASURES]
    centres = values
    if few is not case:
        centres = {path: float(found[0]) for one in measures for path, found in one(crossed.whole()).items()}
    drawn: dict[Path, list[Floats]] = {}
    blocks = crossed.blocks(resamples)
    for _ in case.track(range(-(-resamples // BLOCK)), "resampling"):
        draws = next(blocks)
        for one in measures:
            for path, found in one(draws).items():
                drawn.setdefault(path, []).append(found)
    return {
        path: _estimate(value, np.concatenate(drawn[path]) + value - centres[path], units_of(path, case))
        for path, value in values.items()
    }


def units_of(path: Path, case: Case) -> int:
    """How many sources a figure rests on."""
    if "per_generator" in path or "per_generator_oscr" in path:
        return len(case.seen.sources)
    if path[0] == "within_kind":
        return len(case.kind_rows[path[1]][2])
    if path[0] == "by_relation":
        return len(case.relation_codes[path[1]])
    is_unseen = path[0] in UNSEEN_PARTS or path[-1] in ("unseen_rejection", "auroc", "oscr")
    return len(case.unseen.sources) if is_unseen else len(case.seen.sources)


def intervals(estimates: Estimates) -> dict[str, Any]:
    """The tree of the figures with [low, high] in their places, null where an interval is not estimable."""
    tree: dict[str, Any] = {}
    for path, one in estimates.items():
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = None if one.low is None else [one.low, one.high]
    return tree


def _estimate(value: float, draws: Floats, units: int) -> Estimate:
    if not np.isfinite(value):
        return Estimate(value=None, units=units)
    known = draws[np.isfinite(draws)]
    if units < TOO_FEW or len(known) < len(draws) / 2:
        return Estimate(value=value, units=units, draws=draws)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(value=value, units=units, low=float(low), high=float(high), draws=draws)


def _smaller(case: Case) -> Case:
    """The case itself, or one of as many rows as are resampled."""
    total = len(case.seen) + len(case.unseen)
    if total <= BOOTSTRAP_ROWS:
        return case
    shares = [max(1, BOOTSTRAP_ROWS * len(rows) // total) for rows in (case.seen, case.unseen)]
    return case.with_rows(
        seen=represented(case.seen, shares[0]), unseen=represented(case.unseen, shares[1]) if len(case.unseen) else None
    )
