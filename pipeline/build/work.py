"""The work on one shard, in one process: sources -> the image, edge, noise and text columns; sources -> parsing.

Plain functions that read and write files; pipeline/build/build.py runs them on Ray.
"""

from __future__ import annotations

import errno
import hashlib
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..shards.tars import ColumnWriter, Sidecar, check_planned, is_done, read_members, read_sidecar
from ..store.local import TEMPORARY_PREFIX, checkpoint
from ..views import edge, image, noise, text
from ..views.column import ViewPlan
from ..views.errors import UnreadableImageError

Row = dict[str, Any]  # one row of plan.parquet
Parse = Callable[[list[npt.NDArray[np.uint8]]], list[npt.NDArray[np.uint8]]]  # crops (S, S, 3) -> labels (224, 224)
ReadMap = Callable[[str, int, int], npt.NDArray[np.uint8]]  # source path, width, height -> labels (224, 224)


class SourceChangedError(RuntimeError):
    """A source file is no longer the one that the image column was made of."""


class PlanChangedError(RuntimeError):
    """ROOT's plan was replaced while this worker worked; it must not commit."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard and the views of it that are to be written."""

    root: Path
    source_root: Path
    shard: str
    rows: list[Row]
    plans: dict[str, ViewPlan]
    views: tuple[str, ...]
    plan_id: str


@dataclass(kw_only=True)
class ShardResult:
    shard: str
    views: tuple[str, ...]
    num_samples: int = 0
    num_dropped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # per stage


class Stopwatch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


@contextmanager
def _trail(task: ShardTask, stage: str) -> Iterator[Callable[[str], None]]:
    """Note the source at hand under ROOT/.log, so that the driver can name it should this process die of it."""
    path = trail_path(task.root, stage, task.shard)
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:

        def note(source: str) -> None:
            file.seek(0)
            file.truncate()
            file.write(source)
            file.flush()

        try:
            yield note
        finally:
            path.unlink(missing_ok=True)


def trail_path(root: Path, stage: str, shard: str) -> Path:
    return root / ".log" / f"{TEMPORARY_PREFIX}at-{stage}-{shard}"


def build_cpu_views(task: ShardTask) -> ShardResult:
    """Write the missing ones of image, edge, noise and text for one shard, in one pass over its samples."""
    watch = Stopwatch()
    with ExitStack() as stack:
        note = stack.enter_context(_trail(task, "cpu"))
        writers = {view: stack.enter_context(ColumnWriter(task.root, view, task.shard)) for view in task.views}
        facts: dict[str, list[Row]] = {view: [] for view in task.views}
        drops: list[Row] = []
        prompts = task.plans["text"].params["prompts"] if "text" in task.views else {}
        for row, rgb, source_facts in _images(task, drops, watch, note):
            if "image" in writers:
                with watch("write"):
                    writers["image"].write(row["key"], task.plans["image"].encode(rgb))
                facts["image"].append(source_facts)
            if "edge" in writers:
                with watch("edge"):
                    column = edge.compute_edge(rgb)
                with watch("write"):
                    writers["edge"].write(row["key"], task.plans["edge"].encode(column))
                facts["edge"].append({})
            if "noise" in writers:
                with watch("noise"):
                    found = noise.compute_noise(rgb, noise.NoiseParams(**task.plans["noise"].params))
                with watch("write"):
                    writers["noise"].write(row["key"], task.plans["noise"].encode(found.numerators))
                facts["noise"].append(
                    {"patch_row": found.row, "patch_col": found.col, "patch_scores": found.scores.tolist()}
                )
            if "text" in writers:
                with watch("text"):
                    labels = text.Labels(**{name: row[name] for name in text.Labels.__dataclass_fields__})
                    members = {
                        "txt": text.encode_text(text.sentences(labels, prompts)),
                        "json": text.encode_labels(labels),
                    }
                    writers["text"].write(row["key"], members)
                facts["text"].append({})
        with watch("commit"):
            kept = 0
            for view in sorted(task.views, key=lambda view: view != "image"):  # the others follow image's rows
                sidecar = _commit(task, view, writers[view], facts[view], drops if view == "image" else [])
                kept = sidecar["num_samples"]
    return ShardResult(
        shard=task.shard, views=task.views, num_samples=kept, num_dropped=len(drops), seconds=dict(watch.seconds)
    )


def build_parsing(task: ShardTask, parse: Parse, batch_size: int) -> ShardResult:
    """Write the parsing column of one shard from the source files, for the rows that `image` kept."""
    watch = Stopwatch()
    rows, kept = _kept_rows(task)
    params = image.ImageParams(**task.plans["image"].params)
    with _trail(task, "parsing") as note, ColumnWriter(task.root, "parsing", task.shard) as writer:
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            note(", ".join(row["source_path"] for row in batch))
            with watch("read"):
                crops = [
                    image.read_source(_read_unchanged(task, row, facts["source_sha256"]), params).rgb
                    for row, facts in zip(batch, kept[start : start + batch_size], strict=True)
                ]
            with watch("parsing"):
                maps = parse(crops)
            with watch("write"):
                for row, labels in zip(batch, maps, strict=True):
                    writer.write(row["key"], task.plans["parsing"].encode(labels))
        with watch("commit"):
            _commit(task, "parsing", writer, [{} for _ in rows], [])
    return ShardResult(shard=task.shard, views=("parsing",), num_samples=len(rows), seconds=dict(watch.seconds))


def build_parsing_from_maps(task: ShardTask, read_map: ReadMap) -> ShardResult:
    """Write the parsing column of one shard from label maps that another tool made."""
    watch = Stopwatch()
    rows, kept = _kept_rows(task)
    with _trail(task, "parsing") as note, ColumnWriter(task.root, "parsing", task.shard) as writer:
        for row, facts in zip(rows, kept, strict=True):
            note(row["source_path"])
            with watch("parsing"):
                labels = read_map(row["source_path"], facts["source_width"], facts["source_height"])
            with watch("write"):
                writer.write(row["key"], task.plans["parsing"].encode(labels))
        with watch("commit"):
            _commit(task, "parsing", writer, [{} for _ in rows], [])
    return ShardResult(shard=task.shard, views=("parsing",), num_samples=len(rows), seconds=dict(watch.seconds))


def _images(
    task: ShardTask, drops: list[Row], watch: Stopwatch, note: Callable[[str], None]
) -> Iterator[tuple[Row, npt.NDArray[np.uint8], Row]]:
    """(plan row, the image view, facts of the source), from the sources or, where image is committed, from its column."""
    if "image" not in task.views:
        rows, _ = _kept_rows(task)
        sidecar = read_sidecar(task.root, "image", task.shard)
        assert sidecar is not None
        plan = task.plans["image"]
        with watch("read"):
            stored = read_members(task.root, sidecar, plan.suffix)
        for row, data in zip(rows, stored, strict=True):
            yield row, plan.decode(data), {}
        return
    params = image.ImageParams(**task.plans["image"].params)
    for row in task.rows:
        note(row["source_path"])
        checkpoint("reading", Path(row["source_path"]))
        try:
            with watch("read"):
                data = read_file(task.source_root / row["source_path"])
            with watch("hash"):
                sha256 = hashlib.sha256(data).hexdigest()
            with watch("decode"):
                source = image.read_source(data, params)
        except (UnreadableImageError, OSError) as error:
            reason = str(error) if isinstance(error, UnreadableImageError) else f"cannot be read: {error.strerror}"
            drops.append(
                {
                    "key": row["key"],
                    "source_path": row["source_path"],
                    "stage": "image",
                    "reason": reason,
                    "attempt": row["attempt"],
                }
            )
            continue
        with watch("resize"):
            rgb = image.compute_image(source, params)
        facts = {
            "source_sha256": sha256,
            "source_bytes": len(data),
            "source_width": source.width,
            "source_height": source.height,
            "source_format": source.format,
            "source_quality": source.quality,
        }
        yield row, rgb, facts


def read_file(path: Path) -> bytes:
    """As read_bytes, but a pipe or device, which may never end, is an OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def _kept_rows(task: ShardTask) -> tuple[list[Row], list[Row]]:
    """The plan rows that `image` kept, with the facts of their sources."""
    sidecar = read_sidecar(task.root, "image", task.shard)
    if not is_done(task.root, sidecar, task.plans["image"].digest):
        raise RuntimeError(f"image/{task.shard} is not committed: every other view follows the rows that image kept")
    assert sidecar is not None
    by_key = {row["key"]: row for row in task.rows}
    check_planned(sidecar, by_key)
    return [by_key[key] for key in sidecar["keys"]], sidecar["rows"]


def _read_unchanged(task: ShardTask, row: Row, sha256: str) -> bytes:
    path = task.source_root / row["source_path"]
    try:
        data = read_file(path)
    except OSError as error:
        raise SourceChangedError(f"{row['source_path']} disappeared during the build: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SourceChangedError(
            f"{row['source_path']} changed since its image was stored; put the old file back, or rebuild with --overwrite"
        )
    return data


def _commit(task: ShardTask, view: str, writer: ColumnWriter, facts: Sequence[Row], drops: Sequence[Row]) -> Sidecar:
    """Commit one column's shard, unless the plan was replaced or somebody has committed the same meanwhile."""
    current = task.root / "plan.json"
    if not current.exists() or hashlib.sha256(current.read_bytes()).hexdigest() != task.plan_id:
        raise PlanChangedError(f"the plan in {task.root} was replaced while {view}/{task.shard} was being written")
    digest = task.plans[view].digest
    committed = read_sidecar(task.root, view, task.shard)
    if committed is not None and is_done(task.root, committed, digest) and not _is_stale(task, view, committed):
        return committed
    return writer.commit(digest=digest, rows=list(facts), drops=list(drops))


def _is_stale(task: ShardTask, view: str, sidecar: Sidecar) -> bool:
    """Whether a committed column holds other rows than the image column it must follow."""
    if view == "image":
        return False
    followed = read_sidecar(task.root, "image", task.shard)
    return followed is None or followed["keys_sha256"] != sidecar["keys_sha256"]


def missing_views(root: Path, shard: str, plans: dict[str, ViewPlan]) -> set[str]:
    """The views of this shard that are not committed under the plan's digest and image's rows."""
    sidecars = {view: read_sidecar(root, view, shard) for view in plans}
    followed = sidecars.get("image")
    missing = set()
    for view, plan in plans.items():
        sidecar = sidecars[view]
        follows = followed is not None and sidecar is not None and followed["keys_sha256"] == sidecar["keys_sha256"]
        if not is_done(root, sidecar, plan.digest) or not follows:
            missing.add(view)
    return missing
