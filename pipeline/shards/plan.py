"""The plan of a shard set: which sample stands in which row of which shard, and every view's digest, fixed before work starts.

plan.parquet holds the rows, plan.json the settings, views and segments; both are append-only, and plan.json is written
last, so rows beyond the ones it counts do not exist.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..sources.rows import SPLITS, SourceRow
from ..store.local import canonical_json, checkpoint, write_json, write_parquet
from ..views.column import VIEWS, ViewPlan

SCHEMA_VERSION = 1
ROW_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int32()),
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("generator", pa.dictionary(pa.int32(), pa.string())),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
        ("family", pa.dictionary(pa.int32(), pa.string())),
        ("group", pa.string()),
        ("source_path", pa.string()),
        ("synthetic", pa.bool_()),
        ("licence", pa.dictionary(pa.int32(), pa.string())),
        ("attempt", pa.int32()),
    ]
)


class PlanError(ValueError):
    """ROOT's plan and what was asked for do not agree (exit code 2); the text names the differences."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What decides which sample stands where."""

    dataset: str
    seed: int = 0
    shard_size: int = 256  # samples
    splits: tuple[str, ...] = SPLITS
    limit: int = 0  # samples per generator and split; 0 means all


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Shards that were planned in one go."""

    cause: str  # build, extend or retry
    first_shard: int
    num_shards: int
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    settings: PlanSettings
    views: dict[str, ViewPlan]
    segments: tuple[Segment, ...]
    rows: pa.Table = field(repr=False)  # ROW_SCHEMA, in (shard, row) order

    @property
    def shards(self) -> list[str]:
        return [shard_name(i) for i in range(sum(segment.num_shards for segment in self.segments))]

    def shard_rows(self, shard: str) -> pa.Table:
        """The planned rows of one shard, in row order."""
        first, count = self._places[shard]
        return self.rows.slice(first, count)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Shard -> its first row in `rows` and their number: a filter for each shard would be quadratic over a build."""
        sizes = self.shard_sizes()
        starts = accumulate(sizes.values(), initial=0)
        return {shard: (start, count) for (shard, count), start in zip(sizes.items(), starts, strict=False)}

    def shard_sizes(self) -> dict[str, int]:
        """Shard -> planned rows, in shard order."""
        counts = self.rows.group_by("shard", use_threads=False).aggregate([("key", "count")])
        return dict(zip(counts["shard"].to_pylist(), counts["key_count"].to_pylist(), strict=True))

    def document(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "settings": {**asdict(self.settings), "splits": list(self.settings.splits)},
            "views": {name: view.to_json() for name, view in sorted(self.views.items())},
            "segments": [asdict(segment) for segment in self.segments],
            "num_rows": self.rows.num_rows,
            "rows_sha256": rows_sha256(self.rows),
        }

    @property
    def id(self) -> str:
        """Workers compare it before they commit, so a worker of an abandoned plan writes nothing."""
        return hashlib.sha256(canonical_json(self.document()) + b"\n").hexdigest()


def shard_name(number: int) -> str:
    return f"{number:06d}"


def rows_sha256(rows: pa.Table) -> str:
    """Identity of the planned rows, independent of parquet's encoding."""
    digest = hashlib.sha256()
    for column in ("key", "shard", "split", "generator", "kind", "family", "group", "source_path", "licence"):
        values = rows[column].cast(pa.string()).combine_chunks()
        digest.update(column.encode())
        for chunk in [values] if isinstance(values, pa.Array) else values.chunks:
            digest.update("\n".join(chunk.to_pylist()).encode())
    digest.update(np.asarray(rows["row"].to_numpy(), dtype="<i4").tobytes())
    digest.update(np.asarray(rows["attempt"].to_numpy(), dtype="<i4").tobytes())
    digest.update(np.asarray(rows["synthetic"].to_numpy(), dtype="u1").tobytes())
    return digest.hexdigest()


def plan_rows(
    source_rows: Iterable[SourceRow], settings: PlanSettings, *, first_shard: int = 0, attempt: int = 0
) -> pa.Table:
    """Assign samples to shards: one split a shard, samples mixed over generators by a seeded permutation."""
    by_split: dict[str, list[SourceRow]] = {split: [] for split in SPLITS}
    for row in source_rows:
        by_split[row.split].append(row)
    columns: dict[str, list[Any]] = {name: [] for name in ROW_SCHEMA.names}
    shard = first_shard
    for split in SPLITS:
        chosen = sorted(by_split[split], key=lambda row: row.path) if split in settings.splits else []
        order = _seeded_generator(settings.seed, split, first_shard).permutation(len(chosen))
        for start in range(0, len(chosen), settings.shard_size):
            for position, index in enumerate(order[start : start + settings.shard_size]):
                row = chosen[index]
                for name, value in (
                    ("key", sample_key(row, attempt)),
                    ("shard", shard_name(shard)),
                    ("row", position),
                    ("split", split),
                    ("generator", row.generator),
                    ("kind", row.kind),
                    ("family", row.family),
                    ("group", row.group),
                    ("source_path", row.path),
                    ("synthetic", row.synthetic),
                    ("licence", row.licence),
                    ("attempt", attempt),
                ):
                    columns[name].append(value)
            shard += 1
    return pa.table(columns, schema=ROW_SCHEMA)


def sample_key(row: SourceRow, attempt: int = 0) -> str:
    """generator_stem_hash: readable, [a-z0-9_-]+, and unique through the hash of path and attempt."""
    tag = hashlib.sha256(f"{row.path}\n{attempt}".encode()).hexdigest()[:12]
    stem = row.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{_slug(row.generator)[:30]}_{_slug(stem)[:30]}_{tag}"


def apply_limit(rows: Sequence[SourceRow], settings: PlanSettings) -> list[SourceRow]:
    """At most `limit` samples per generator and split, chosen by a seeded hash of the path."""
    if not settings.limit:
        return list(rows)
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{settings.seed}:{row.path}".encode()).digest())
    taken: Counter[tuple[str, str]] = Counter()
    kept = []
    for row in ranked:
        if taken[row.generator, row.split] < settings.limit:
            taken[row.generator, row.split] += 1
            kept.append(row)
    return kept


def new_plan(source_rows: Sequence[SourceRow], settings: PlanSettings, views: dict[str, ViewPlan]) -> Plan:
    """The plan of an empty ROOT."""
    rows = plan_rows(apply_limit(source_rows, settings), settings)
    return Plan(settings=settings, views=views, segments=(_segment("build", 0, rows),), rows=_check_keys(rows))


def extend_plan(plan: Plan, new_rows: Sequence[SourceRow], *, cause: str, attempt: int = 0) -> Plan:
    """New samples as new shards at the end; no frozen row moves."""
    first = len(plan.shards)
    rows = plan_rows(new_rows, plan.settings, first_shard=first, attempt=attempt)
    return Plan(
        settings=plan.settings,
        views=plan.views,
        segments=(*plan.segments, _segment(cause, first, rows)),
        rows=_check_keys(pa.concat_tables([plan.rows, rows], promote_options="none")),
    )


def write_plan(root: Path, plan: Plan) -> None:
    """Commit plan.parquet, then plan.json."""
    write_parquet(root / "plan.parquet", plan.rows)
    write_json(root / "plan.json", plan.document())
    checkpoint("plan-written", root / "plan.json")


def read_plan(root: Path) -> Plan | None:
    """The plan of ROOT, None where there is none yet. Raises PlanError where it is damaged or of another schema."""
    file = root / "plan.json"
    if not file.exists():
        return None
    try:
        document = json.loads(file.read_bytes())
        version = document["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise PlanError(f"{file} is damaged; restore it, or start anew with --overwrite") from None
    if version != SCHEMA_VERSION:
        raise PlanError(f"{file} has schema_version {version}, this version of bmrl reads {SCHEMA_VERSION}")
    try:
        rows = pq.read_table(root / "plan.parquet").slice(0, document["num_rows"]).cast(ROW_SCHEMA).combine_chunks()
        plan = Plan(
            settings=PlanSettings(**{**document["settings"], "splits": tuple(document["settings"]["splits"])}),
            views={name: ViewPlan.from_json(view) for name, view in document["views"].items()},
            segments=tuple(Segment(**segment) for segment in document["segments"]),
            rows=rows,
        )
        again = plan.document()
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        raise PlanError(f"the plan in {root} is damaged; restore it, or start anew with --overwrite") from None
    if again != document or not set(plan.views) <= set(VIEWS):
        raise PlanError(
            f"plan.parquet and plan.json in {root} do not belong together; restore them, or use --overwrite"
        )
    return plan


def settings_differences(plan: Plan, settings: PlanSettings) -> list[str]:
    """One line a setting that differs from the plan's."""
    old, new = asdict(plan.settings), asdict(settings)
    return [f"{name}: the plan has {old[name]}, asked for {new[name]}" for name in old if old[name] != new[name]]


def ordered(views: Iterable[str]) -> list[str]:
    """View names in the fixed order."""
    chosen = set(views)
    return [view for view in VIEWS if view in chosen]


def _segment(cause: str, first_shard: int, rows: pa.Table) -> Segment:
    num_shards = len(set(rows["shard"].to_pylist()))
    return Segment(cause=cause, first_shard=first_shard, num_shards=num_shards, num_rows=rows.num_rows)


def _check_keys(rows: pa.Table) -> pa.Table:
    keys = rows["key"].to_pylist()
    assert len(set(keys)) == len(keys), "two samples have one key: sample_key must be injective over paths"
    return rows


def _seeded_generator(seed: int, split: str, first_shard: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{split}/{first_shard}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "x"
