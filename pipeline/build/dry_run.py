"""`bmrl-prep build --dry-run`: what was found, and what a build would write. Nothing is written under ROOT."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..sources import DATASETS, SourceRow
from ..sources.layout import Layout
from ..sources.rows import SPLITS
from ..views.edge import compute_edge
from ..views.errors import UnreadableImageError
from ..views.image import ImageParams, compute_image, read_source
from ..views.noise import NoiseParams, compute_noise
from .build import estimate_bytes, free_bytes, used_bytes
from .resolve import BuildOptions, Intake, resolve
from .work import missing_views, read_file

NUM_TIMED = 16  # samples


def describe_plan(options: BuildOptions, *, workers: int | None = None) -> str:
    """What was found against what is expected, what is missing, shards and bytes per view, a time from a measured sample."""
    intake = resolve(options)
    plan = intake.plan
    lines = [*_found_lines(DATASETS[options.dataset].tree, intake.walk.rows)]
    lines += [f"left out: {count} files ({reason})" for reason, count in sorted(intake.walk.unused.items())]
    lines += [f"warning: {warning}" for warning in intake.walk.warnings]
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
    lines.append(_time_line(intake, samples, workers or os.cpu_count() or 1))
    return "\n".join(lines)


def _found_lines(tree: Layout | None, rows: list[SourceRow]) -> Iterator[str]:
    """A table of found (of expected) images or videos per source and split, then what is missing."""
    unit = tree.unit if tree else "images"
    if unit == "videos":  # one a folder
        found = Counter((g, s) for g, s, _ in {(row.generator, row.split, row.path.rpartition("/")[0]) for row in rows})
    else:
        found = Counter((row.generator, row.split) for row in rows)
    expected = tree.expected if tree else {}
    columns = (*SPLITS, "all")
    yield f"{'found/expected ' + unit if tree else 'found images':32}" + "".join(f" {column:>15}" for column in columns)
    for name in sorted({*expected, *(generator for generator, _ in found)}):
        numbers = {split: found[name, split] for split in SPLITS}
        numbers["all"] = sum(numbers.values())
        cells = [_cell(numbers[column], expected.get(name, {}).get(column), bool(tree)) for column in columns]
        yield f"{name:32}" + "".join(f" {cell:>15}" for cell in cells)
    numbers = {split: sum(count for (_, of), count in found.items() if of == split) for split in SPLITS}
    numbers["all"] = found.total()
    totals = {column: _total([expected[name].get(column) for name in expected]) for column in columns}
    cells = [_cell(numbers[column], totals[column], bool(tree)) for column in columns]
    yield f"{'all sources':32}" + "".join(f" {cell:>15}" for cell in cells)
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
    crops = []
    image_params = ImageParams(**plan.views["image"].params)
    start = time.perf_counter()
    for path in sample:
        try:
            source = read_source(read_file(intake.walk.root / path), image_params)
        except (UnreadableImageError, OSError):
            continue
        rgb = compute_image(source, image_params)
        if "edge" in plan.views:
            compute_edge(rgb)
        if "noise" in plan.views:
            compute_noise(rgb, NoiseParams(**plan.views["noise"].params))
        crops.append(source.rgb)
    seconds = (time.perf_counter() - start) / max(1, len(crops))
    unreadable = f"; {len(sample) - len(crops)} of {len(sample)} could not be read" if len(crops) < len(sample) else ""
    parsing = 0.0
    if crops and intake.parser is not None and not intake.parser.uses_maps:
        parser = intake.parser.open()
        start = time.perf_counter()
        parser.parse(crops)
        parsing = (time.perf_counter() - start) / len(crops)
    others = max((count for view, count in samples.items() if view != "parsing"), default=0)
    estimate = (others * seconds + samples.get("parsing", 0) * parsing) / cores
    return (
        f"time: about {estimate:.0f} s on {cores} cores (measured on {len(crops)} samples: "
        f"{seconds * 1e3:.1f} ms a sample without parsing, {parsing * 1e3:.1f} ms parsing{unreadable})"
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
