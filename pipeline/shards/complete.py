"""Whether a shard set is the complete one of its plan: what a build that has nothing left to do relies on."""

from __future__ import annotations

from pathlib import Path

from ..store.local import file_sha256
from ..store.reading import check_no_link
from .finish import Finished
from .names import TABLES, sidecar_name
from .opening import TableError, read_tables
from .plan import Plan
from .sums import read_sums


def read_finished(root: Path, plan: Plan) -> Finished | None:
    """What `finalise` said when it wrote the tables; None where they are absent, damaged or of another plan, or do not name
    every column file of this one: they are then written again."""
    try:
        sums = read_sums(root)
        for name in TABLES:
            check_no_link(root, name)
            if file_sha256(root / name) != sums.pop(name):
                return None
        document = read_tables(root).document
    except (OSError, ValueError, KeyError, TableError):
        return None
    if document["plan_id"] != plan.id or [shard["name"] for shard in document["shards"]] != plan.shards:
        return None
    if {name for name in sums if name.endswith(".json")} != {
        sidecar_name(view, shard) for view in plan.views for shard in plan.shards
    }:
        return None
    return Finished(
        num_samples=document["counts"]["samples"],
        num_dropped=document["counts"]["dropped"],
        num_bytes=sum(sum(shard["bytes"].values()) for shard in document["shards"]),
    )
