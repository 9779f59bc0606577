"""What a person sees of a shard set: sample rows as text, and a picture of all five views side by side."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..shardset import ShardSet, ShardSetError, is_within
from ..store.local import write_bytes
from ..store.printing import Cells, fit_lines, printable
from ..views import VIEWS
from ..views.column import ordered
from ..views.view import PICTURE_SIDE, Picture

CELL = PICTURE_SIDE  # pixels a side of one view in a grid


LINE = 18  # pixels above each sample, for its name
MAX_NAME = 300  # characters of a line, more than are seen
NUM_ROWS = 5  # samples that are shown where nobody says how many
MAX_SIDE = 16_384  # pixels of a picture; many programs open nothing larger
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


class GridError(ValueError):
    """A picture that cannot be, or not there (exit code 2)."""


def describe_rows(shard_set: ShardSet, count: int | None, width: int | None = None) -> str:
    """The first rows of the index, then the first one of every source that is not among them, as a table; below it the
    sentences of each source. width: of the terminal, which the table then fits."""
    count = count or NUM_ROWS
    prompts = shard_set.document["prompts"]
    names = shard_set.index["generator"].to_pylist()
    firsts = {name: names.index(name) for name in dict.fromkeys(names)}
    shown = [*range(min(count, len(names))), *(row for row in firsts.values() if row >= count)]
    rows = shard_set.index.take(shown).to_pylist()
    lines: list[str | Cells] = [*_aligned([HEADINGS, *(tuple(map(printable, _cells(row))) for row in rows)])]
    for name in dict.fromkeys(row["generator"] for row in rows):
        sentences = [sentence for sentence in prompts.get(name, {}).get("sentences", []) if sentence]
        if sentences:
            lines += ["", f"{printable(name)}:", *(f"  {printable(sentence)}" for sentence in sentences)]
    return fit_lines(lines, width)


HEADINGS = ("source", "kind", "family", "split", "shard", "row", "size", "format", "key", "file")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    size = f"{row['source_width']}x{row['source_height']}"
    labels = (row[name] for name in ("generator", "kind", "family", "split", "shard"))
    return (*labels, str(row["row"]), size, row["source_format"], row["key"], row["source_path"])


def _aligned(rows: list[tuple[str, ...]]) -> list[Cells]:
    """Columns as wide as what stands in them, two spaces apart."""
    widths = [max(map(len, column)) + 1 for column in zip(*rows, strict=True)]
    return [Cells(map(str.ljust, row, widths)) for row in rows]


def write_grid(shard_set: ShardSet, count: int | None, path: Path) -> None:
    """A picture with one row a sample: image, edge, noise, parsing, text; every source is shown before any a second time.

    count None: one of every source, and NUM_ROWS at least. The format is the one of its name. Raises GridError for another
    one, and for a picture that would be too high.
    """
    if is_within(path, shard_set.root):
        raise GridError(f"--grid {path} is inside the shard set, whose files are fixed; give another file")
    if (form := FORMATS.get(path.suffix.lower())) is None:
        raise GridError(f"--grid {path}: a picture is a {', '.join(FORMATS)} file")
    most = MAX_SIDE // (CELL + LINE)
    if count is None:
        count = min(most, max(NUM_ROWS, len(shard_set.counts)))
    if (shown := min(count, len(shard_set))) > most:
        raise GridError(
            f"-n {count}: a picture of {shown} samples would be {shown * (CELL + LINE)} pixels high; at most {MAX_SIDE} are "
            f"drawn, which is -n {most}"
        )
    rows = spread_rows(shard_set, count)
    if not rows:
        raise ShardSetError(f"{shard_set.root} has no samples to show; failures.parquet says why they were dropped")
    pictures = view_pictures(shard_set, rows)
    height, width = len(rows) * (CELL + LINE), len(VIEWS) * CELL
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (row, views) in enumerate(zip(rows, pictures, strict=True)):
        top = number * (CELL + LINE)
        record = shard_set.index.slice(row, 1).to_pylist()[0]
        name = printable(f"{record['generator']}   {record['split']}   {record['key']}")[:MAX_NAME]
        draw.text((4, top + 3), name, fill="black")
        for column, view in enumerate(VIEWS):
            if view in views:
                canvas.paste(Image.fromarray(views[view]), (column * CELL, top + LINE))
    picture = io.BytesIO()
    canvas.save(picture, format=form, **({"lossless": True} if form == "WEBP" else {}))
    write_bytes(path, picture.getvalue())


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
