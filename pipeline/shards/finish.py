"""The last step of a build: index.parquet, failures.parquet, SHA256SUMS and dataset.json from plan and sidecars.

The two tables are pure concatenations of sidecars, so a crash loses no fact. dataset.json is computed and hashed first
and renamed into place last: it exists exactly when every column it names is complete.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..store.local import canonical_json, checkpoint, file_sha256, write_bytes, write_parquet
from ..views import VIEWS
from ..views.column import ViewPlan, ordered
from ..views.view import rows_view
from .names import DATASET_JSON, FAILURES, INDEX, SUMS, TABLES, UNFINISHED, sidecar_name, tar_name
from .plan import SCHEMA_VERSION, Plan
from .sums import write_sums
from .tars import Sidecar, check_planned, read_sidecar

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_PLANNED_COLUMNS = {
    "key": pa.string(),
    "split": _DICTIONARY,
    "shard": pa.string(),
    "row": pa.int32(),
    "generator": _DICTIONARY,
    "kind": _DICTIONARY,
    "family": _DICTIONARY,
    "group": pa.string(),
    "synthetic": pa.bool_(),
    "licence": _DICTIONARY,
    "source_path": pa.string(),
}
_FACT_TYPES = {
    "string": pa.string(),
    "name": _DICTIONARY,
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64 list": pa.list_(pa.float64()),
}
FAILURES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_path", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("attempt", pa.int32()),
    ]
)
_PLANNED = ("split", "generator", "kind", "family", "group", "synthetic", "licence", "source_path")


def index_schema(views: Iterable[str] = VIEWS) -> pa.Schema:
    """What was planned of a sample, then the facts that `views` record; a set that lacks a view has nulls there."""
    facts = [(name, _FACT_TYPES[kind]) for view in ordered(views) for name, kind in VIEWS[view].facts.items()]
    return pa.schema([*_PLANNED_COLUMNS.items(), *facts])


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a complete shard set holds."""

    num_samples: int
    num_dropped: int  # sources whose last attempt failed
    num_bytes: int


def finalise(root: Path, plan: Plan) -> Finished:
    """Write the two tables, SHA256SUMS and dataset.json. Every (view, shard) must be committed.

    One shard's sidecars are in memory at a time.
    """
    checkpoint("before-index", root / INDEX)
    gathered = _gather(root, plan)
    write_parquet(root / INDEX, gathered.index)
    write_parquet(root / FAILURES, pa.Table.from_pylist(gathered.drops, schema=FAILURES_SCHEMA))
    checkpoint("after-index", root / INDEX)
    num_dropped = len(_last_attempts(plan, gathered.drops))
    document = canonical_json(_dataset_document(plan, gathered, num_dropped)) + b"\n"
    sums = gathered.sums | {DATASET_JSON: hashlib.sha256(document).hexdigest()}
    for name in TABLES:
        if name != DATASET_JSON:
            sums[name] = file_sha256(root / name)
    write_sums(root, sums)
    checkpoint("after-sums", root / SUMS)
    write_bytes(root / DATASET_JSON, document)
    return Finished(
        num_samples=gathered.index.num_rows,
        num_dropped=num_dropped,
        num_bytes=sum(sum(shard["bytes"].values()) for shard in gathered.shards),
    )


def begin_changes(root: Path) -> None:
    """A shard set that is about to change is not complete: dataset.json goes first."""
    for name in UNFINISHED:
        (root / name).unlink(missing_ok=True)


def still_failing(root: Path, plan: Plan) -> dict[str, int]:
    """source_path -> last attempt, of the sources whose last attempt failed. Every image shard must be committed."""
    return _last_attempts(
        plan, [drop for shard in plan.shards for drop in _sidecar(root, rows_view(VIEWS).name, shard)["drops"]]
    )


def _last_attempts(plan: Plan, drops: list[dict[str, Any]]) -> dict[str, int]:
    failed = {drop["source_path"]: drop["attempt"] for drop in drops}
    last: dict[str, int] = {}
    if failed:
        for path, attempt in zip(plan.rows["source_path"].to_pylist(), plan.rows["attempt"].to_pylist(), strict=True):
            if path in failed:
                last[path] = max(attempt, last.get(path, 0))
    return {path: attempt for path, attempt in failed.items() if last[path] == attempt}


def _sidecar(root: Path, view: str, shard: str) -> Sidecar:
    sidecar = read_sidecar(root, view, shard)
    assert sidecar is not None, f"{view}/{shard} is not committed"
    return sidecar


@dataclass(kw_only=True)
class _Gathered:
    """What the sidecars of all shards say."""

    index: pa.Table
    drops: list[dict[str, Any]]
    shards: list[dict[str, Any]]  # entries of dataset.json
    sums: dict[str, str]  # of tars and sidecars


def _gather(root: Path, plan: Plan) -> _Gathered:
    tables: list[pa.Table] = []
    gathered = _Gathered(index=index_schema().empty_table(), drops=[], shards=[], sums={})
    for shard in plan.shards:
        rows = plan.shard_rows(shard)
        sidecars = {}
        for view in ordered(plan.views):
            sidecars[view] = sidecar = _sidecar(root, view, shard)
            gathered.sums[sidecar_name(view, shard)] = file_sha256(root / sidecar_name(view, shard))
            if sidecar["num_samples"]:
                gathered.sums[tar_name(view, shard)] = sidecar["sha256"]
        decisive = sidecars[rows_view(VIEWS).name]
        tables.append(_index_rows(rows, decisive, sidecars))
        gathered.drops += decisive["drops"]
        gathered.shards.append(
            {
                "name": shard,
                "split": rows["split"][0].as_py(),
                "num_samples": decisive["num_samples"],
                "bytes": {view: sidecar["bytes"] for view, sidecar in sidecars.items()},
            }
        )
    gathered.index = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return gathered


def _index_rows(planned: pa.Table, decisive: Sidecar, sidecars: dict[str, Sidecar]) -> pa.Table:
    """One shard's rows of the index: what was planned of the rows that were kept, joined with what the views recorded."""
    position = {key: i for i, key in enumerate(planned["key"].to_pylist())}
    check_planned(decisive, position)
    count = decisive["num_samples"]
    kept = planned.take(pa.array([position[key] for key in decisive["keys"]], pa.int64()))
    columns: dict[str, list[Any]] = {name: kept[name].to_pylist() for name in (*_PLANNED, "key", "shard")}
    columns["row"] = list(range(count))
    for name, view in VIEWS.items():
        rows = sidecars[name]["rows"] if name in sidecars else [dict.fromkeys(view.facts)] * count
        columns |= {fact: [row[fact] for row in rows] for fact in view.facts}
    return pa.table(columns, schema=index_schema())


def _dataset_document(plan: Plan, gathered: _Gathered, num_dropped: int) -> dict[str, Any]:
    index = gathered.index
    per_source: dict[str, Counter[str]] = defaultdict(Counter)
    labels: dict[str, tuple[str, str]] = {}
    licences: dict[str, set[str]] = defaultdict(set)
    for generator, split, kind, family, licence in zip(
        *(index[name].to_pylist() for name in ("generator", "split", "kind", "family", "licence")), strict=True
    ):
        per_source[generator][split] += 1
        labels[generator] = (kind, family)
        licences[generator].add(licence)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.settings.dataset,
        "classes": sorted(per_source),
        "generators": {
            name: {"kind": labels[name][0], "family": labels[name][1], "licence": "; ".join(sorted(licences[name]))}
            for name in sorted(per_source)
        },
        **_catalogues(plan.views, labels),
        "views": {name: view.to_json() for name, view in sorted(plan.views.items())},
        "counts": {
            "samples": index.num_rows,
            "planned": plan.rows.num_rows,
            "dropped": num_dropped,
            "per_generator": {name: dict(sorted(counts.items())) for name, counts in sorted(per_source.items())},
        },
        "shards": gathered.shards,
        "plan_id": plan.id,
    }


def _catalogues(plans: dict[str, ViewPlan], labels: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """What the views of the labels say of each source; an empty one for a view that the set lacks."""
    found: dict[str, Any] = {}
    for name, view in VIEWS.items():
        if view.catalogue is None:
            continue
        found[view.catalogue.key] = {}
        if name in plans:
            for generator, (kind, family) in sorted(labels.items()):
                entry = view.catalogue.entry(generator, kind, family, plans[name].params)
                found[view.catalogue.key][generator] = entry
    return found
