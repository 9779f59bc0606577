"""The names below ROOT, all of them, and nothing else may be there."""

from __future__ import annotations

import re

from ..store.lock import LOG
from ..views import VIEWS

PLAN_JSON = "plan.json"
PLAN_ROWS = "plan.parquet"
INDEX = "index.parquet"
FAILURES = "failures.parquet"
SUMS = "SHA256SUMS"
DATASET_JSON = "dataset.json"  # the last to come: it exists exactly when the shard set is complete

TABLES = (PLAN_JSON, PLAN_ROWS, INDEX, FAILURES, DATASET_JSON)
UNFINISHED = (DATASET_JSON, SUMS)  # removed before a build changes anything
_COLUMN_FILE = re.compile(r"([^/]+)/\d{6,}\.(tar|json)")


def shard_name(number: int) -> str:
    return f"{number:06d}"


def tar_name(view: str, shard: str) -> str:
    """Of a column's shard, below ROOT."""
    return f"{view}/{shard}.tar"


def sidecar_name(view: str, shard: str) -> str:
    """Of what says what is in that tar, and where."""
    return f"{view}/{shard}.json"


def is_column_file(name: str) -> bool:
    """Whether a path below ROOT is of a tar or sidecar of a view."""
    found = _COLUMN_FILE.fullmatch(name)
    return found is not None and found[1] in VIEWS


def is_ours(name: str) -> bool:
    """Whether an entry of ROOT is one that a build writes."""
    return name in VIEWS or name in TABLES or name in (SUMS, LOG)


__all__ = [
    "DATASET_JSON", "FAILURES", "INDEX", "LOG", "PLAN_JSON", "PLAN_ROWS", "SUMS", "TABLES", "UNFINISHED",
    "is_column_file", "is_ours", "shard_name", "sidecar_name", "tar_name",
]  # fmt: skip
