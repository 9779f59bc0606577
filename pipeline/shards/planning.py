"""Which sample goes into which row of which shard: a pure function of the sources found, the settings and a seed."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..sources.rows import SPLITS, SourceRow
from ..views.column import ViewPlan
from .names import shard_name
from .plan import ROW_SCHEMA, Plan, PlanSettings, Segment


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
