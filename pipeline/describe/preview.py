"""What a person sees of a shard set: sample rows as text, and a picture of all five views side by side."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..shardset import ShardSet, ShardSetError, is_within
from ..views.column import ARRAYS
from ..views.parsing import colorize

CELL = 224  # pixels a side of one view in a grid
_VIEWS = ("image", "edge", "noise", "parsing", "text")
Picture = npt.NDArray[np.uint8]  # (H, W, 3)


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
        blocks.append("\n".join([row["key"], "  " + facts, *(f"  {sentence}" for sentence in sentences if sentence)]))
    return "\n".join(blocks)


def write_grid(shard_set: ShardSet, count: int, path: Path) -> None:
    """A PNG with one row a sample: image, edge, noise, parsing, text; every source is shown before any a second time."""
    if is_within(path, shard_set.root):
        raise GridError(f"--grid {path} is inside the shard set, whose files are fixed; give another file")
    rows = spread_rows(shard_set, count)
    if not rows:
        raise ShardSetError(f"{shard_set.root} has no samples to show; failures.parquet says why they were dropped")
    pictures = view_pictures(shard_set, rows)
    height, width = len(rows) * (CELL + 18), len(_VIEWS) * CELL
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (row, views) in enumerate(zip(rows, pictures, strict=True)):
        top = number * (CELL + 18)
        record = shard_set.index.slice(row, 1).to_pylist()[0]
        draw.text((4, top + 3), f"{record['generator']}   {record['split']}   {record['key']}", fill="black")
        for column, view in enumerate(_VIEWS):
            if view in views:
                canvas.paste(Image.fromarray(views[view]), (column * CELL, top + 18))
    canvas.save(path, format="PNG")


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
    views = [view for view in _VIEWS if view in shard_set.views]
    selected = shard_set.take(np.array(rows, dtype=np.int64))
    pictures: list[dict[str, Picture]] = []
    loader = selected.loader(
        views=[v for v in views if v != "text"], batch_size=len(rows), shuffle=False, num_threads=0
    )
    for batch in loader:
        for i, generator in enumerate(batch["generator"]):
            stored = {view: batch[view][i].numpy() for view in views if view != "text"}
            sentences = shard_set.document["prompts"].get(generator, {}).get("sentences", [])
            pictures.append({view: _picture(view, stored.get(view), sentences) for view in views})
    return pictures


def _picture(view: str, stored: Any, sentences: list[str]) -> Picture:
    draw = {
        "image": lambda: np.ascontiguousarray(stored.transpose(1, 2, 0)),
        "edge": lambda: _gray(stored[0] / ARRAYS["edge"]["scale"] * 255.0 / 2.0),
        "noise": lambda: _noise_picture(stored),
        "parsing": lambda: colorize(stored),
        "text": lambda: _text_picture(sentences),
    }
    return draw[view]()


def _gray(values: npt.NDArray[Any]) -> Picture:
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _noise_picture(numerators: npt.NDArray[np.int16]) -> Picture:
    """The three residuals as RGB around mid gray, (p, p) enlarged to a cell by repeating pixels."""
    scale = np.array(ARRAYS["noise"]["scale"], dtype=np.float64)[:, None, None]
    shown = np.clip(127.5 + 127.5 * 8.0 * numerators / scale, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    nearest = np.arange(CELL) * len(shown) // CELL
    return np.ascontiguousarray(shown[nearest][:, nearest])


def _text_picture(sentences: list[str]) -> Picture:
    canvas = Image.new("RGB", (CELL, CELL), "white")
    draw = ImageDraw.Draw(canvas)
    y = 8
    for number, sentence in enumerate(sentences, start=1):
        for line in textwrap.wrap(f"{number}  {sentence or '(unknown)'}", width=34):
            draw.text((6, y), line, fill="black")
            y += 14
        y += 8
    return np.asarray(canvas).copy()
