"""What a person sees of a shard set: sample rows as text, and a picture of all five views side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..shardset import ShardSet, ShardSetError, is_within
from ..store.local import write_bytes
from ..store.printing import printable
from ..views import VIEWS
from ..views.column import ordered
from ..views.view import PICTURE_SIDE, Picture

CELL = PICTURE_SIDE  # pixels a side of one view in a grid


class GridError(ValueError):
    """A place that the picture must not be written to (exit code 2)."""


def describe_rows(shard_set: ShardSet, count: int) -> str:
    """The first rows of the index with their sentences, one block a sample."""
    prompts = shard_set.document["prompts"]
    blocks = []
    for row in shard_set.index.slice(0, count).to_pylist():
        facts = (
            f"{row['split']}/{row['shard']} row {row['row']}  {row['generator']} ({row['kind']}, {row['family']})  "
            f"{row['source_width']}x{row['source_height']} {row['source_format']}  {row['source_path']}"
        )
        sentences = prompts.get(row["generator"], {}).get("sentences", [])
        lines = [row["key"], "  " + facts, *(f"  {sentence}" for sentence in sentences if sentence)]
        blocks.append("\n".join(map(printable, lines)))
    return "\n".join(blocks)


def write_grid(shard_set: ShardSet, count: int, path: Path) -> None:
    """A PNG with one row a sample: image, edge, noise, parsing, text; every source is shown before any a second time."""
    if is_within(path, shard_set.root):
        raise GridError(f"--grid {path} is inside the shard set, whose files are fixed; give another file")
    rows = spread_rows(shard_set, count)
    if not rows:
        raise ShardSetError(f"{shard_set.root} has no samples to show; failures.parquet says why they were dropped")
    pictures = view_pictures(shard_set, rows)
    height, width = len(rows) * (CELL + 18), len(VIEWS) * CELL
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (row, views) in enumerate(zip(rows, pictures, strict=True)):
        top = number * (CELL + 18)
        record = shard_set.index.slice(row, 1).to_pylist()[0]
        draw.text((4, top + 3), f"{record['generator']}   {record['split']}   {record['key']}", fill="black")
        for column, view in enumerate(VIEWS):
            if view in views:
                canvas.paste(Image.fromarray(views[view]), (column * CELL, top + 18))
    png = io.BytesIO()
    canvas.save(png, format="PNG")
    write_bytes(path, png.getvalue())


def spread_rows(shard_set: ShardSet, count: int) -> list[int]:
    """Row numbers that go round the sources, so that every source is shown before any a second time."""
    by_source: dict[str, list[int]] = {}
    for number, name in enumerate(shard_set.index["generator"].to_pylist()):
        by_source.setdefault(name, []).append(number)
    chosen: list[int] = []
    turn = 0
    while len(chosen) < min(count, len(shard_set)):
        for name in sorted(by_source):
            if turn < len(by_source[name]) and len(chosen) < count:
                chosen.append(by_source[name][turn])
        turn += 1
    return chosen


def view_pictures(shard_set: ShardSet, rows: list[int]) -> list[dict[str, Picture]]:
    """view -> RGB uint8 (224, 224, 3) for each row, as a person can see it."""
    views = ordered(shard_set.views)
    arrays = [view for view in views if shard_set.plans[view].array]
    selected = shard_set.take(np.array(rows, dtype=np.int64))
    pictures: list[dict[str, Picture]] = []
    for batch in selected.loader(views=arrays, batch_size=len(rows), shuffle=False, num_threads=0):
        for i, generator in enumerate(batch["generator"]):
            shown: dict[str, Picture] = {}
            for name in views:
                view = VIEWS[name]
                if name in arrays:
                    shown[name] = view.picture(batch[name][i].numpy())
                elif view.catalogue is not None:
                    shown[name] = view.picture(shard_set.document[view.catalogue.key].get(generator, {}))
            pictures.append(shown)
    return pictures
