"""The work on one shard, in one process: sources -> the columns that are computed here, then those that a tool computes.

Plain functions that read and write files; a runner calls them in this process or on Ray. A task carries the records of
its views, so nothing here knows a view by its name.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..shards.names import LOG, PLAN_JSON
from ..shards.tars import ColumnWriter, Sidecar, check_planned, is_done, read_members, read_sidecar
from ..store.local import TEMPORARY_PREFIX, checkpoint
from ..store.reading import read_file, read_within
from ..views import VIEWS
from ..views.column import ViewPlan
from ..views.errors import UnreadableImageError
from ..views.image import Source
from ..views.view import Computed, Sample, View, rows_view

Row = dict[str, Any]  # one row of plan.parquet
TOOL_BATCH = 16  # samples handed to a tool at once; its own batch size, a declared parameter, decides bytes


class SourceChangedError(RuntimeError):
    """A source file is no longer the one that the image column was made of."""


class PlanChangedError(RuntimeError):
    """ROOT's plan was replaced while this worker worked; it must not commit."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard and the views of it that are to be written.

    records: of every view of the plan at least; they travel with the task.
    """

    root: Path
    source_root: Path
    shard: str
    rows: list[Row]
    plans: dict[str, ViewPlan]
    views: tuple[str, ...]
    plan_id: str
    records: dict[str, View] = field(default_factory=lambda: dict(VIEWS))

    @property
    def rows_view(self) -> View:
        """The view that decides which rows there are."""
        return rows_view(self.records)

    def params(self, view: str) -> Any:
        return self.records[view].params_of(self.plans[view].params)


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
    return root / LOG / f"{TEMPORARY_PREFIX}at-{stage}-{shard}"


def build_views(task: ShardTask) -> ShardResult:
    """Write the views of a task that need no tool, in one pass over the shard's samples."""
    watch = Stopwatch()
    with ExitStack() as stack:
        note = stack.enter_context(_trail(task, "cpu"))
        writers = {view: stack.enter_context(ColumnWriter(task.root, view, task.shard)) for view in task.views}
        params = {view: task.params(view) for view in task.views}
        facts: dict[str, list[Row]] = {view: [] for view in task.views}
        drops: list[Row] = []
        decisive = task.rows_view.name
        samples = _decided_rows(task, drops, watch, note) if decisive in writers else _committed_rows(task, watch, note)
        for sample in samples:
            for view in task.views:
                record = task.records[view]
                if record.decides_rows:
                    assert sample.image is not None
                    computed = Computed(value=sample.image, facts=sample.facts)
                else:
                    assert record.compute is not None
                    with watch(record.stage or view):
                        computed = record.compute(sample, params[view])
                with watch("write"):
                    writers[view].write(sample.row["key"], task.plans[view].encode(computed.value))
                facts[view].append(dict(computed.facts))
        with watch("commit"):
            kept = 0
            for view in sorted(task.views, key=lambda view: view != decisive):  # the others follow its rows
                sidecar = _commit(task, view, writers[view], facts[view], drops if view == decisive else [])
                kept = sidecar["num_samples"]
    return ShardResult(
        shard=task.shard, views=task.views, num_samples=kept, num_dropped=len(drops), seconds=dict(watch.seconds)
    )


def build_with_tool(task: ShardTask, tool: Any) -> ShardResult:
    """Write the one view of a task that a tool computes, for the rows that were kept; sources are read once more."""
    watch = Stopwatch()
    (view,) = task.views
    record, params = task.records[view], task.params(view)
    assert record.compute_batch is not None
    rows, kept = _kept_rows(task)
    batch_size = TOOL_BATCH if tool.reads_source else 1
    facts: list[Row] = []
    with _trail(task, view) as note, ColumnWriter(task.root, view, task.shard) as writer:
        for start in range(0, len(rows), batch_size):
            batch = list(zip(rows, kept, strict=True))[start : start + batch_size]
            note(", ".join(row["source_path"] for row, _ in batch))
            with watch("read"):
                samples = [
                    Sample(row=row, facts=found, source=_source_again(task, row, found) if tool.reads_source else None)
                    for row, found in batch
                ]
            with watch(record.stage or view):
                computed = record.compute_batch(samples, params, tool)
            with watch("write"):
                for (row, _), one in zip(batch, computed, strict=True):
                    writer.write(row["key"], task.plans[view].encode(one.value))
                    facts.append(dict(one.facts))
        with watch("commit"):
            _commit(task, view, writer, facts, [])
    return ShardResult(shard=task.shard, views=task.views, num_samples=len(rows), seconds=dict(watch.seconds))


def _decided_rows(task: ShardTask, drops: list[Row], watch: Stopwatch, note: Callable[[str], None]) -> Iterator[Sample]:
    """The samples whose source can be read, with the image and what it recorded; the others become `drops`."""
    record = task.rows_view
    params = task.params(record.name)
    assert record.decode is not None and record.compute is not None
    for row in task.rows:
        note(row["source_path"])
        checkpoint("reading", Path(row["source_path"]))
        try:
            with watch("read"):
                data = read_file(task.source_root / row["source_path"])
            with watch("hash"):
                sha256 = hashlib.sha256(data).hexdigest()
            with watch("decode"):
                source = record.decode(data, params)
        except (UnreadableImageError, OSError) as error:
            reason = str(error) if isinstance(error, UnreadableImageError) else f"cannot be read: {error.strerror}"
            drop = {"key": row["key"], "source_path": row["source_path"], "stage": record.name, "reason": reason}
            drops.append({**drop, "attempt": row["attempt"]})
            continue
        with watch(record.stage or record.name):
            file = {"source_sha256": sha256, "source_bytes": len(data)}
            computed = record.compute(Sample(row=row, facts=file, source=source), params)
        assert not isinstance(computed.value, dict)
        yield Sample(row=row, facts=computed.facts, source=source, image=computed.value)


def _committed_rows(task: ShardTask, watch: Stopwatch, note: Callable[[str], None]) -> Iterator[Sample]:
    """The samples that were kept, with the image from its column; their sources too where a view reads them."""
    record = task.rows_view
    rows, kept = _kept_rows(task)
    sidecar = read_sidecar(task.root, record.name, task.shard)
    assert sidecar is not None
    plan = task.plans[record.name]
    reads_source = any(task.records[view].reads == "source" for view in task.views)
    with watch("read"):
        stored = read_members(task.root, sidecar, plan.suffix)
    for row, facts, data in zip(rows, kept, stored, strict=True):
        note(row["source_path"])
        source = _source_again(task, row, facts) if reads_source else None
        yield Sample(row=row, facts=facts, source=source, image=plan.decode(data))


def _kept_rows(task: ShardTask) -> tuple[list[Row], list[Row]]:
    """The plan rows that were kept, with the facts of their sources."""
    name = task.rows_view.name
    sidecar = read_sidecar(task.root, name, task.shard)
    if not is_done(task.root, sidecar, task.plans[name].digest):
        raise RuntimeError(f"{name}/{task.shard} is not committed: every other view follows the rows that {name} kept")
    assert sidecar is not None
    by_key = {row["key"]: row for row in task.rows}
    check_planned(sidecar, by_key)
    return [by_key[key] for key in sidecar["keys"]], sidecar["rows"]


def _source_again(task: ShardTask, row: Row, facts: Mapping[str, Any]) -> Source:
    """The decoded source of a row that was kept. Raises SourceChangedError where the file is another by now."""
    path = task.source_root / row["source_path"]
    try:
        data = read_file(path)
    except OSError as error:
        raise SourceChangedError(f"{row['source_path']} disappeared during the build: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != facts["source_sha256"]:
        raise SourceChangedError(
            f"{row['source_path']} changed since its image was stored; put the old file back, or rebuild with --overwrite"
        )
    record = task.rows_view
    assert record.decode is not None
    return record.decode(data, task.params(record.name))


def _commit(task: ShardTask, view: str, writer: ColumnWriter, facts: Sequence[Row], drops: Sequence[Row]) -> Sidecar:
    """Commit one column's shard, unless the plan was replaced or somebody has committed the same meanwhile."""
    current = task.root / PLAN_JSON
    if not current.exists() or hashlib.sha256(read_within(task.root, PLAN_JSON)).hexdigest() != task.plan_id:
        raise PlanChangedError(f"the plan in {task.root} was replaced while {view}/{task.shard} was being written")
    digest = task.plans[view].digest
    committed = read_sidecar(task.root, view, task.shard)
    if committed is not None and is_done(task.root, committed, digest) and not _is_stale(task, view, committed):
        return committed
    return writer.commit(digest=digest, rows=list(facts), drops=list(drops))


def _is_stale(task: ShardTask, view: str, sidecar: Sidecar) -> bool:
    """Whether a committed column holds other rows than the one it must follow."""
    if task.records[view].decides_rows:
        return False
    followed = read_sidecar(task.root, task.rows_view.name, task.shard)
    return followed is None or followed["keys_sha256"] != sidecar["keys_sha256"]
