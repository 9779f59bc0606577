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

from .columns import ViewPlan
from .commit import canonical_json, checkpoint, write_bytes, write_parquet
from .plan import SCHEMA_VERSION, Plan, ordered
from .tars import Sidecar, read_sidecar
from .views import text

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
UNFINISHED = ("dataset.json", "SHA256SUMS")  # removed before a build changes anything


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a complete shard set holds."""

    num_samples: int
    num_dropped: int  # sources whose last attempt failed
    num_bytes: int


def finalise(root: Path, plan: Plan) -> Finished:
    """Write the two tables, SHA256SUMS and dataset.json. Every (view, shard) must be committed."""
    sidecars = {view: [_sidecar(root, view, shard) for shard in plan.shards] for view in ordered(plan.views)}
    checkpoint("before-index", root / "index.parquet")
    index = _index_table(plan, sidecars)
    failures = pa.Table.from_pylist([drop for s in sidecars["image"] for drop in s["drops"]], schema=FAILURES_SCHEMA)
    write_parquet(root / "index.parquet", index)
    write_parquet(root / "failures.parquet", failures)
    checkpoint("after-index", root / "index.parquet")
    document = canonical_json(_dataset_document(plan, sidecars, index)) + b"\n"
    sums = _sums(root, plan, sidecars) | {"dataset.json": hashlib.sha256(document).hexdigest()}
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    write_bytes(root / "SHA256SUMS", "".join(lines).encode())
    checkpoint("after-sums", root / "SHA256SUMS")
    write_bytes(root / "dataset.json", document)
    return Finished(
        num_samples=index.num_rows,
        num_dropped=len(still_failing(plan, sidecars["image"])),
        num_bytes=sum(s["bytes"] for column in sidecars.values() for s in column),
    )


def begin_changes(root: Path) -> None:
    """A shard set that is about to change is not complete: dataset.json goes first."""
    for name in UNFINISHED:
        (root / name).unlink(missing_ok=True)


def still_failing(plan: Plan, image_sidecars: list[Sidecar]) -> dict[str, int]:
    """source_path -> last attempt, of the sources whose last attempt failed."""
    failed = {drop["source_path"]: drop["attempt"] for sidecar in image_sidecars for drop in sidecar["drops"]}
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


def _index_table(plan: Plan, sidecars: dict[str, list[Sidecar]]) -> pa.Table:
    planned = plan.rows.to_pydict()
    position = {key: i for i, key in enumerate(planned["key"])}
    columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
    noise = sidecars.get("noise")
    for number, image in enumerate(sidecars["image"]):
        patches = noise[number]["rows"] if noise else [dict.fromkeys(_PATCH)] * image["num_samples"]
        for row, (key, facts, patch) in enumerate(zip(image["keys"], image["rows"], patches, strict=True)):
            columns["key"].append(key)
            columns["shard"].append(image["shard"])
            columns["row"].append(row)
            for name in _PLANNED:
                columns[name].append(planned[name][position[key]])
            for name in _FACTS:
                columns[name].append(facts[name])
            for name in _PATCH:
                columns[name].append(patch[name])
    return pa.table(columns, schema=INDEX_SCHEMA)


def _dataset_document(plan: Plan, sidecars: dict[str, list[Sidecar]], index: pa.Table) -> dict[str, Any]:
    per_source: dict[str, Counter[str]] = defaultdict(Counter)
    labels: dict[str, tuple[str, str]] = {}
    licences: dict[str, str] = {}
    for generator, split, kind, family, licence in zip(
        *(index[name].to_pylist() for name in ("generator", "split", "kind", "family", "licence")), strict=True
    ):
        per_source[generator][split] += 1
        labels[generator] = (kind, family)
        licences[generator] = licence
    shard_splits = dict(zip(plan.rows["shard"].to_pylist(), plan.rows["split"].to_pylist(), strict=True))
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.settings.dataset,
        "classes": sorted(per_source),
        "generators": {
            name: {"kind": labels[name][0], "family": labels[name][1], "licence": licences[name]}
            for name in sorted(per_source)
        },
        "prompts": _prompts(plan.views["text"], labels) if "text" in plan.views else {},
        "views": {name: view.to_json() for name, view in sorted(plan.views.items())},
        "counts": {
            "samples": index.num_rows,
            "planned": plan.rows.num_rows,
            "dropped": len(still_failing(plan, sidecars["image"])),
            "per_generator": {name: dict(sorted(counts.items())) for name, counts in sorted(per_source.items())},
        },
        "shards": [
            {
                "name": image["shard"],
                "split": shard_splits[image["shard"]],
                "num_samples": image["num_samples"],
                "bytes": {view: column[number]["bytes"] for view, column in sidecars.items()},
            }
            for number, image in enumerate(sidecars["image"])
        ],
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


def _sums(root: Path, plan: Plan, sidecars: dict[str, list[Sidecar]]) -> dict[str, str]:
    sums = {
        f"{sidecar['view']}/{sidecar['shard']}.tar": sidecar["sha256"]
        for column in sidecars.values()
        for sidecar in column
        if sidecar["num_samples"]
    }
    small = ["plan.json", "plan.parquet", "index.parquet", "failures.parquet"]
    small += [f"{view}/{shard}.json" for view in sidecars for shard in plan.shards]
    return sums | {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in small}
