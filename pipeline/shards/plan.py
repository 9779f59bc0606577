"""The plan of a shard set: which sample stands in which row of which shard, and every view's digest, fixed before work starts.

plan.parquet holds the rows, plan.json the settings, views and segments; both are append-only, and plan.json is written
last, so rows beyond the ones it counts do not exist.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..sources.rows import SPLITS
from ..store.documents import parse_json
from ..store.local import canonical_json, checkpoint, write_json, write_parquet
from ..store.reading import TABLE_BYTES, read_within
from ..store.tables import parse_table
from ..views import VIEWS
from ..views.column import ViewPlan
from .documents import check_plan
from .names import PLAN_JSON, PLAN_ROWS, shard_name

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
    group_regex: str = ""  # of --dataset folder; these two stand in plan.json only where they were given
    split_by: str = ""

    def document(self) -> dict[str, Any]:
        given = {name: value for name, value in asdict(self).items() if value != "" or name not in _OPTIONAL}
        return {**given, "splits": list(self.splits)}


_OPTIONAL = ("group_regex", "split_by")


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
            "settings": self.settings.document(),
            "views": {name: view.to_json() for name, view in sorted(self.views.items())},
            "segments": [asdict(segment) for segment in self.segments],
            "num_rows": self.rows.num_rows,
            "rows_sha256": rows_sha256(self.rows),
        }

    @property
    def id(self) -> str:
        """Workers compare it before they commit, so a worker of an abandoned plan writes nothing."""
        return hashlib.sha256(canonical_json(self.document()) + b"\n").hexdigest()


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


def write_plan(root: Path, plan: Plan) -> None:
    """Commit plan.parquet, then plan.json."""
    write_parquet(root / PLAN_ROWS, plan.rows)
    write_json(root / PLAN_JSON, plan.document())
    checkpoint("plan-written", root / PLAN_JSON)


def read_plan(root: Path) -> Plan | None:
    """The plan of ROOT, None where there is none yet. Raises PlanError where it is damaged or of another schema."""
    file = root / PLAN_JSON
    if not file.exists():
        return None
    try:
        document = parse_json(read_within(root, PLAN_JSON))
        version = document["schema_version"]
    except OSError as error:
        raise PlanError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise PlanError(f"{file} is damaged; restore it, or start anew with --overwrite") from None
    if version != SCHEMA_VERSION:
        raise PlanError(f"{file} has schema_version {str(version)[:40]}, this version of bmrl reads {SCHEMA_VERSION}")
    try:
        check_plan(document)
        rows = (
            parse_table(read_within(root, PLAN_ROWS, limit=TABLE_BYTES))
            .slice(0, document["num_rows"])
            .cast(ROW_SCHEMA)
            .combine_chunks()
        )
        plan = Plan(
            settings=PlanSettings(**{**document["settings"], "splits": tuple(document["settings"]["splits"])}),
            views={name: ViewPlan.from_json(view) for name, view in document["views"].items()},
            segments=tuple(Segment(**segment) for segment in document["segments"]),
            rows=rows,
        )
        _check_rows(plan)
        again = plan.document()
    except (OSError, pa.ArrowException, AttributeError, KeyError, TypeError, ValueError):
        raise PlanError(f"the plan in {root} is damaged; restore it, or start anew with --overwrite") from None
    if again != document or not set(plan.views) <= set(VIEWS):
        raise PlanError(
            f"plan.parquet and plan.json in {root} do not belong together; restore them, or use --overwrite"
        )
    return plan


def leaves_root(paths: pa.ChunkedArray) -> bool:
    """Whether a relative path is none, or climbs."""
    return bool(pc.any(pc.match_substring_regex(paths, r"\A/|(\A|/)\.\.(/|\z)|\A\z|\x00"), min_count=0).as_py())


def _check_rows(plan: Plan) -> None:
    """Raises ValueError where the rows have other shards than the segments say, or a path that leaves the sources."""
    num_shards = sum(segment.num_shards for segment in plan.segments)
    if any(plan.rows[name].null_count for name in plan.rows.column_names):
        raise ValueError("rows without a value")
    if list(plan.shard_sizes()) != [shard_name(i) for i in range(num_shards)] or leaves_root(plan.rows["source_path"]):
        raise ValueError("other shards than the segments say, or a path out of the sources")


def settings_differences(plan: Plan, settings: PlanSettings) -> list[str]:
    """One line a setting that differs from the plan's."""
    old, new = asdict(plan.settings), asdict(settings)
    return [
        f"{name}: the plan has {old[name] or 'none'}, asked for {new[name] or 'none'}"
        if name in _OPTIONAL
        else f"{name}: the plan has {old[name]}, asked for {new[name]}"
        for name in old
        if old[name] != new[name]
    ]
