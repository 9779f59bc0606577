"""The last step of a build: index.parquet, failures.parquet, SHA256SUMS and dataset.json from plan and sidecars.

The two tables are pure concatenations of sidecars, so a crash loses no fact. dataset.json is computed and hashed first
and renamed into place last: it exists exactly when every column it names is complete.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..store.local import canonical_json, checkpoint, write_bytes, write_parquet
from ..views import text
from ..views.column import ViewPlan
from .plan import SCHEMA_VERSION, Plan, ordered
from .sums import read_sums, write_sums
from .tars import Sidecar, check_planned, read_sidecar

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", _DICTIONARY),
        ("shard", pa.string()),
        ("row", pa.int32()),
        ("generator", _DICTIONARY),
        ("kind", _DICTIONARY),
        ("family", _DICTIONARY),
        ("group", pa.string()),
        ("synthetic", pa.bool_()),
        ("licence", _DICTIONARY),
        ("source_path", pa.string()),
        ("source_sha256", pa.string()),
        ("source_bytes", pa.int64()),
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_format", _DICTIONARY),
        ("source_quality", pa.int16()),
        ("patch_row", pa.int16()),
        ("patch_col", pa.int16()),
        ("patch_scores", pa.list_(pa.float64())),
    ]
)
FAILURES_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source_path", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("attempt", pa.int32()),
    ]
)
_FACTS = ("source_sha256", "source_bytes", "source_width", "source_height", "source_format", "source_quality")
_PATCH = ("patch_row", "patch_col", "patch_scores")
_PLANNED = ("split", "generator", "kind", "family", "group", "synthetic", "licence", "source_path")
TABLES = ("plan.json", "plan.parquet", "index.parquet", "failures.parquet", "dataset.json")
UNFINISHED = ("dataset.json", "SHA256SUMS")  # removed before a build changes anything


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
    checkpoint("before-index", root / "index.parquet")
    gathered = _gather(root, plan)
    write_parquet(root / "index.parquet", gathered.index)
    write_parquet(root / "failures.parquet", pa.Table.from_pylist(gathered.drops, schema=FAILURES_SCHEMA))
    checkpoint("after-index", root / "index.parquet")
    num_dropped = len(_last_attempts(plan, gathered.drops))
    document = canonical_json(_dataset_document(plan, gathered, num_dropped)) + b"\n"
    sums = gathered.sums | {"dataset.json": hashlib.sha256(document).hexdigest()}
    for name in TABLES:
        if name != "dataset.json":
            sums[name] = _sha256(root / name)
    write_sums(root, sums)
    checkpoint("after-sums", root / "SHA256SUMS")
    write_bytes(root / "dataset.json", document)
    return Finished(
        num_samples=gathered.index.num_rows,
        num_dropped=num_dropped,
        num_bytes=sum(sum(shard["bytes"].values()) for shard in gathered.shards),
    )


def is_finished(root: Path, plan: Plan) -> bool:
    """Whether what `finalise` writes is there, undamaged, and names every column file of the plan."""
    try:
        sums = read_sums(root)
        if any(_sha256(root / name) != sums.pop(name) for name in TABLES):
            return False
    except (OSError, ValueError, KeyError):
        return False
    return {name for name in sums if name.endswith(".json")} == {
        f"{view}/{shard}.json" for view in plan.views for shard in plan.shards
    }


def begin_changes(root: Path) -> None:
    """A shard set that is about to change is not complete: dataset.json goes first."""
    for name in UNFINISHED:
        (root / name).unlink(missing_ok=True)


def still_failing(root: Path, plan: Plan) -> dict[str, int]:
    """source_path -> last attempt, of the sources whose last attempt failed. Every image shard must be committed."""
    return _last_attempts(plan, [drop for shard in plan.shards for drop in _sidecar(root, "image", shard)["drops"]])


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
    gathered = _Gathered(index=INDEX_SCHEMA.empty_table(), drops=[], shards=[], sums={})
    for shard in plan.shards:
        rows = plan.shard_rows(shard)
        sidecars = {}
        for view in ordered(plan.views):
            sidecars[view] = sidecar = _sidecar(root, view, shard)
            gathered.sums[f"{view}/{shard}.json"] = _sha256(root / view / f"{shard}.json")
            if sidecar["num_samples"]:
                gathered.sums[f"{view}/{shard}.tar"] = sidecar["sha256"]
        image = sidecars["image"]
        tables.append(_index_rows(rows, image, sidecars.get("noise")))
        gathered.drops += image["drops"]
        gathered.shards.append(
            {
                "name": shard,
                "split": rows["split"][0].as_py(),
                "num_samples": image["num_samples"],
                "bytes": {view: sidecar["bytes"] for view, sidecar in sidecars.items()},
            }
        )
    gathered.index = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    return gathered


def _index_rows(planned: pa.Table, image: Sidecar, noise: Sidecar | None) -> pa.Table:
    """One shard's rows of the index: what was planned, joined by key with the facts that image and noise recorded."""
    position = {key: i for i, key in enumerate(planned["key"].to_pylist())}
    check_planned(image, position)
    kept = planned.take(pa.array([position[key] for key in image["keys"]], pa.int64()))
    patches = noise["rows"] if noise else [dict.fromkeys(_PATCH)] * image["num_samples"]
    columns: dict[str, list[Any]] = {name: kept[name].to_pylist() for name in (*_PLANNED, "key", "shard")}
    columns["row"] = list(range(image["num_samples"]))
    columns |= {name: [facts[name] for facts in image["rows"]] for name in _FACTS}
    columns |= {name: [patch[name] for patch in patches] for name in _PATCH}
    return pa.table(columns, schema=INDEX_SCHEMA)


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
        "prompts": _prompts(plan.views["text"], labels) if "text" in plan.views else {},
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


def _prompts(view: ViewPlan, labels: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """generator -> its four sentences and their 4 x 77 CLIP BPE ids."""
    prompts = {}
    for name, (kind, family) in sorted(labels.items()):
        one = text.Labels(
            key="", generator=name, kind=kind, family=family, split="", group="", source_path="", synthetic=False,
            licence="",
        )  # fmt: skip
        lines = text.sentences(one, view.params["prompts"])
        prompts[name] = {"sentences": list(lines), "tokens": text.tokenize(lines).tolist()}
    return prompts


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
