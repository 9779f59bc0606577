"""dataset.json, SHA256SUMS and index.parquet of a shard set: read once, checked against each other, for every command."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..sources.rows import SPLITS
from ..store.documents import DocumentError, parse_json
from ..store.reading import TABLE_BYTES, read_within
from ..store.tables import parse_table
from ..views import VIEWS
from .documents import check_dataset
from .finish import index_schema
from .names import DATASET_JSON, INDEX, SUMS, shard_name
from .plan import SCHEMA_VERSION, leaves_root
from .sums import read_sums

FIELDS = {"name", "classes", "generators", "prompts", "views", "counts", "shards", "plan_id"}  # of dataset.json
AGAIN = "; `bmrl-prep build` writes it again"


class TableError(ValueError):
    """One of ROOT's tables is not what it should be: `name`, and in words what is wrong with it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem


@dataclass(frozen=True, kw_only=True)
class Tables:
    """document: dataset.json. index: of finish.index_schema, in the order of the shards."""

    document: dict[str, Any] = field(repr=False)
    index: pa.Table = field(repr=False)


def read_tables(root: Path) -> Tables:
    """Raises TableError for whatever a later step would stumble over: all commands refuse alike."""
    data = _read(root, DATASET_JSON)
    document = _parse(data)
    try:
        sums = read_sums(root)
    except ValueError as error:
        raise TableError(SUMS, f"is {error}{AGAIN}") from None
    index_data = _read(root, INDEX)
    for name, content in ((DATASET_JSON, data), (INDEX, index_data)):  # a flipped bit in either would be another epoch
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            raise TableError(name, f"is not the one that SHA256SUMS lists{AGAIN}")
    _check_names(document)
    try:
        check_dataset(document)
    except DocumentError as error:
        raise TableError(DATASET_JSON, f"is damaged: {error}{AGAIN}") from None
    try:
        index = parse_table(index_data, max_rows=document["counts"]["samples"]).combine_chunks()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TableError(INDEX, f"cannot be read: {str(error).splitlines()[0]}") from error
    _check_index(index, document)
    return Tables(document=document, index=index)


def keys_by_shard(tables: Tables) -> dict[str, list[str]]:
    """Shard -> the keys of its rows, in order; `read_tables` has seen that they stand there in the shards' order."""
    keys, start, found = tables.index["key"].to_pylist(), 0, {}
    for shard in tables.document["shards"]:
        found[shard["name"]] = keys[start : start + shard["num_samples"]]
        start += shard["num_samples"]
    return found


def _read(root: Path, name: str) -> bytes:
    try:
        return read_within(root, name, limit=TABLE_BYTES)
    except OSError as error:
        raise TableError(name, f"cannot be read: {error.strerror}") from error


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document = parse_json(data)
    except DocumentError:
        raise TableError(DATASET_JSON, f"is damaged{AGAIN}") from None
    if not isinstance(document, dict) or "schema_version" not in document:
        raise TableError(DATASET_JSON, f"is damaged{AGAIN}")
    if document["schema_version"] != SCHEMA_VERSION:
        found = str(document["schema_version"])[:40]
        raise TableError(DATASET_JSON, f"has schema_version {found}, this version of bmrl reads {SCHEMA_VERSION}")
    if absent := sorted(FIELDS - set(document)):
        raise TableError(DATASET_JSON, f"has no {absent[0]!r}{AGAIN}")
    return document


def _check_names(document: Mapping[str, Any]) -> None:
    """Names of views and shards become paths."""
    views, shards = document["views"], document["shards"]
    if not isinstance(views, dict) or not isinstance(shards, list):
        return  # the schema says it
    names: list[tuple[str, Any, tuple[str, ...]]] = [("view", name, tuple(VIEWS)) for name in views]
    names += [
        ("shard", one.get("name") if isinstance(one, dict) else one, (shard_name(i),)) for i, one in enumerate(shards)
    ]
    for what, name, allowed in names:
        if name not in allowed:
            raise TableError(DATASET_JSON, f"says {str(name)[:100]!r}, which is not a name of a {what}")


def _check_index(index: pa.Table, document: Mapping[str, Any]) -> None:
    schema = index_schema(document["views"])
    if absent := sorted(set(schema.names) - set(index.column_names)):
        raise TableError(INDEX, f"has no column {absent[0]!r}{AGAIN}")
    if len(set(index.column_names)) < len(index.column_names):
        raise TableError(INDEX, f"has a column twice{AGAIN}")
    for column in schema:
        if index.schema.field(column.name).type != column.type:
            raise TableError(INDEX, f"has another type in the column {column.name!r}{AGAIN}")
        if index[column.name].null_count and index.num_rows:
            raise TableError(INDEX, f"has empty values in the column {column.name!r}{AGAIN}")
    try:
        index.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise TableError(INDEX, f"is damaged: {str(error).splitlines()[0]}{AGAIN}") from None
    sizes = [shard["num_samples"] for shard in document["shards"]]
    if index.num_rows != sum(sizes):
        raise TableError(INDEX, f"has {index.num_rows} rows, {DATASET_JSON} counts {sum(sizes)}{AGAIN}")
    rows = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.array([], np.int64)
    names = pa.array(np.repeat([shard["name"] for shard in document["shards"]], sizes).tolist(), pa.string())
    if not (index["row"].to_numpy() == rows).all() or not index["shard"].combine_chunks().equals(names):
        raise TableError(INDEX, f"does not have the rows of the shards in their order{AGAIN}")
    for name, known in (("split", SPLITS), ("generator", tuple(document["generators"]))):
        if strange := sorted(set(pc.unique(index[name]).to_pylist()) - set(known)):
            raise TableError(INDEX, f"has {strange[0]!r} in the column {name!r}, which {DATASET_JSON} lacks{AGAIN}")
    keys = index["key"]
    if not pc.all(pc.match_substring_regex(keys, r"\A[a-z0-9_-]{1,90}\z"), min_count=0).as_py():
        raise TableError(INDEX, f"has a key that is none{AGAIN}")
    if pc.count_distinct(keys).as_py() != index.num_rows:
        raise TableError(INDEX, f"has a key twice{AGAIN}")
    if leaves_root(index["source_path"]):
        raise TableError(INDEX, f"has a source_path that leads out of the sources{AGAIN}")
