"""`bmrl-prep build --dry-run`: what was found, and what a build would write. Nothing is written under ROOT."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..sources import DATASETS, SourceRow, Walk
from ..sources.layout import Layout
from ..sources.rows import SPLITS
from ..store.printing import Cells, fit_lines
from ..store.reading import read_file
from ..views import VIEWS
from ..views.errors import UnreadableImageError
from ..views.image import Source
from ..views.view import Sample, rows_view
from .options import BuildOptions
from .resolve import Intake, resolve
from .space import estimate_bytes, free_bytes, used_bytes
from .tasks import missing_views

_NO_FILE = {"source_sha256": "", "source_bytes": 0}
NUM_TIMED = 16  # samples


def describe_plan(
    options: BuildOptions,
    *,
    workers: int | None = None,
    inspect: Callable[[Walk], list[str]] | None = None,
    width: int | None = None,
) -> str:
    """What was found against what is expected, what is missing, shards and bytes per view, a time from a measured sample.

    width: of the terminal, which the lines then fit. inspect: more warnings, from a look at the sources themselves.
    """
    intake = resolve(options)
    plan = intake.plan
    lines: list[str | Cells] = [*_found_lines(DATASETS[options.dataset].tree, intake.walk.rows)]
    lines += [f"left out: {count} files ({reason})" for reason, count in sorted(intake.walk.unused.items())]
    lines += [f"warning: {warning}" for warning in intake.walk.warnings]
    lines += [f"warning: {warning}" for warning in (inspect(intake.walk) if inspect else [])]
    if plan.rows.num_rows != len(intake.walk.rows):
        lines.append(
            f"planned: {plan.rows.num_rows} of {len(intake.walk.rows)} images (--limit, --splits, earlier runs)"
        )
    sizes = plan.shard_sizes()
    missing = {
        shard: set(plan.views) if options.overwrite else missing_views(options.out, shard, plan.views)
        for shard in plan.shards
    }
    samples = {view: sum(sizes[shard] for shard, views in missing.items() if view in views) for view in plan.views}
    lines.append(
        f"shards: {len(sizes)} of at most {plan.settings.shard_size} samples, {sum(map(bool, missing.values()))} of them to write"
    )
    total = 0
    for view, size in estimate_bytes(plan.views).items():
        total += samples[view] * size
        num_shards = sum(view in views for views in missing.values())
        lines.append(f"{view:8} {num_shards:6d} shards {samples[view] * size / 1e6:10.1f} MB")
    free = free_bytes(_existing(options.out)) + (used_bytes(options.out) if options.overwrite else 0)
    lines.append(
        f"together {total / 1e6:10.1f} MB to write; free: {free / 1e6:.1f} MB"
        + (", too little" if total > free else "")
    )
    lines.append(_time_line(intake, samples, (os.cpu_count() or 1) if workers is None else max(1, workers)))
    return fit_lines(lines, width)


def _found_lines(tree: Layout | None, rows: list[SourceRow]) -> Iterator[str | Cells]:
    """A table of found (of expected) images or videos per source and split, then what is missing."""
    unit = tree.unit if tree else "images"
    if unit == "videos":  # one a folder
        found = Counter((g, s) for g, s, _ in {(row.generator, row.split, row.path.rpartition("/")[0]) for row in rows})
    else:
        found = Counter((row.generator, row.split) for row in rows)
    expected = tree.expected if tree else {}
    columns = (*SPLITS, "all")
    head = f"found/expected {unit}" if tree else "found images"
    yield Cells((f"{head:32}", *(f"{column:>15}" for column in columns)))
    for name in sorted({*expected, *(generator for generator, _ in found)}):
        numbers = {split: found[name, split] for split in SPLITS}
        numbers["all"] = sum(numbers.values())
        cells = [_cell(numbers[column], expected.get(name, {}).get(column), bool(tree)) for column in columns]
        yield Cells((f"{name:32}", *(f"{cell:>15}" for cell in cells)))
    numbers = {split: sum(count for (_, of), count in found.items() if of == split) for split in SPLITS}
    numbers["all"] = found.total()
    totals = {column: _total([expected[name].get(column) for name in expected]) for column in columns}
    cells = [_cell(numbers[column], totals[column], bool(tree)) for column in columns]
    yield Cells((f"{'all sources':32}", *(f"{cell:>15}" for cell in cells)))
    for name, counts in expected.items():
        number, wanted = sum(found[name, split] for split in SPLITS), counts.get("all")
        if not number:
            yield f"missing or left out: {name}" + (f", all {wanted} {unit}" if wanted else "")
        elif wanted and number < wanted:
            yield f"missing or left out: {name}, {wanted - number} of {wanted} {unit}"


def _cell(found: int, expected: int | None, is_compared: bool) -> str:
    return f"{found}/{'?' if expected is None else expected}" if is_compared else str(found)


def _total(numbers: list[int | None]) -> int | None:
    """None, unless every number is known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known and len(known) == len(numbers) else None


def _time_line(intake: Intake, samples: dict[str, int], cores: int) -> str:
    """`samples`: of each view, how many are to be computed."""
    plan = intake.plan
    paths = plan.rows["source_path"].to_pylist()
    sample = paths[:: max(1, len(paths) // NUM_TIMED)][:NUM_TIMED]
    decisive = rows_view(VIEWS)
    params = {name: VIEWS[name].params_of(view.params) for name, view in plan.views.items()}
    here = [VIEWS[name] for name in plan.views if not VIEWS[name].tool and VIEWS[name].reads != "labels"]
    read: list[Sample] = []
    assert decisive.decode is not None
    start = time.perf_counter()
    for path in sample:
        try:
            source = decisive.decode(read_file(intake.walk.root / path), params[decisive.name])
        except (UnreadableImageError, OSError):
            continue
        rgb = _image(source, params[decisive.name])
        one = Sample(row={}, facts={}, source=source, image=rgb)
        for view in here:
            if view.compute is not None and not view.decides_rows:
                view.compute(one, params[view.name])
        read.append(one)
    seconds = (time.perf_counter() - start) / max(1, len(read))
    unreadable = f"; {len(sample) - len(read)} of {len(sample)} could not be read" if len(read) < len(sample) else ""
    tooled = {name: _tool_seconds(intake, name, read) for name, view in VIEWS.items() if view.tool}
    others = max((count for view, count in samples.items() if view not in tooled), default=0)
    estimate = (others * seconds + sum(samples.get(view, 0) * each for view, each in tooled.items())) / cores
    with_tools = ", ".join(f"{each * 1e3:.1f} ms {view}" for view, each in tooled.items())
    return (
        f"time: about {estimate:.0f} s on {cores} cores (measured on {len(read)} samples: "
        f"{seconds * 1e3:.1f} ms a sample without {', '.join(tooled)}, {with_tools}{unreadable})"
    )


def _image(source: Source, params: Any) -> npt.NDArray[np.uint8]:
    decisive = rows_view(VIEWS)
    assert decisive.compute is not None
    value = decisive.compute(Sample(row={}, facts=_NO_FILE, source=source), params).value
    assert not isinstance(value, dict)
    return value


def _tool_seconds(intake: Intake, name: str, samples: list[Sample]) -> float:
    """Measured seconds a sample of a view that a tool computes; 0 where it is not built, or only copies maps."""
    choice, view = intake.tools.get(name), VIEWS[name]
    if not samples or choice is None or choice.uses_maps or view.compute_batch is None:
        return 0.0
    tool, params = choice.open(), view.params_of(intake.plan.views[name].params)
    start = time.perf_counter()
    view.compute_batch(samples, params, tool)
    return (time.perf_counter() - start) / len(samples)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
