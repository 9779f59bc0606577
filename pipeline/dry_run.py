"""`bmrl-prep build --dry-run`: what was found, and what a build would write. Nothing is written under ROOT."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

from .build import estimate_bytes, free_bytes
from .intake import BuildOptions, Intake, resolve, source_counts
from .sources.rows import SPLITS
from .views.edge import compute_edge
from .views.errors import UnreadableImageError
from .views.image import ImageParams, compute_image, read_source
from .views.noise import compute_noise

NUM_TIMED = 16  # samples


def describe_plan(options: BuildOptions) -> str:
    """Counts per source and split, shards and bytes per view, and a time from a measured sample."""
    intake = resolve(options)
    plan = intake.plan
    counts = source_counts(plan.rows)
    lines = [f"{'generator':32} {'train':>8} {'val':>8} {'test':>8} {'all':>8}"]
    totals: Counter[str] = Counter()
    for name in sorted({generator for generator, _ in counts}):
        numbers = [counts[name, split] for split in SPLITS]
        totals.update(dict(zip(SPLITS, numbers, strict=True)))
        lines.append(f"{name:32} " + " ".join(f"{n:8d}" for n in (*numbers, sum(numbers))))
    lines.append(f"{'all':32} " + " ".join(f"{totals[split]:8d}" for split in SPLITS) + f" {totals.total():8d}")
    lines += [f"left out: {count} files ({reason})" for reason, count in sorted(intake.walk.unused.items())]
    lines += [f"warning: {warning}" for warning in intake.walk.warnings]
    lines.append(f"shards: {len(plan.shards)} of at most {plan.settings.shard_size} samples")
    sizes = estimate_bytes(plan.views)
    for view, size in sizes.items():
        lines.append(f"{view:8} {size * plan.rows.num_rows / 1e6:10.1f} MB")
    total = sum(sizes.values()) * plan.rows.num_rows
    lines.append(f"together {total / 1e6:10.1f} MB; free: {free_bytes(_existing(options.out)) / 1e6:.1f} MB")
    lines.append(_time_line(intake))
    return "\n".join(lines)


def _time_line(intake: Intake) -> str:
    plan = intake.plan
    paths = plan.rows["source_path"].to_pylist()
    sample = paths[:: max(1, len(paths) // NUM_TIMED)][:NUM_TIMED]
    crops = []
    start = time.perf_counter()
    for path in sample:
        try:
            source = read_source((intake.walk.root / path).read_bytes(), ImageParams(**plan.views["image"].params))
        except (UnreadableImageError, OSError):
            continue
        rgb = compute_image(source)
        compute_edge(rgb)
        compute_noise(rgb)
        crops.append(source.rgb)
    seconds = (time.perf_counter() - start) / max(1, len(sample))
    parsing = 0.0
    if crops and intake.parser is not None and not intake.parser.uses_maps:
        parser = intake.parser.open()
        start = time.perf_counter()
        parser.parse(crops)
        parsing = (time.perf_counter() - start) / len(crops)
    cores = os.cpu_count() or 1
    estimate = plan.rows.num_rows * (seconds + parsing) / cores
    return (
        f"time: about {estimate:.0f} s on {cores} cores (measured on {len(sample)} samples: "
        f"{seconds * 1e3:.1f} ms a sample without parsing, {parsing * 1e3:.1f} ms parsing)"
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
