"""`--dataset manifest`: a csv, jsonl or parquet file with at least the columns `path` and `generator`."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from ..store.reading import TABLE_BYTES, read_file, read_text
from ..store.tables import parse_table
from ..taxonomy import FAMILIES, KINDS, Generator, Taxonomy
from .rows import (
    SPLIT_ALIASES,
    TWO_SPLITS,
    SourceError,
    SourceRow,
    Walk,
    check_relative,
    check_root,
    count_shared,
    finish_walk,
    group_split,
)

REQUIRED = ("path", "generator")
OPTIONAL = ("kind", "family", "split", "group", "source_id", "synthetic", "licence")
_MAX_BITS = 64  # of a number that names an identity; Python writes none of thousands of digits
FILE_NAMES = ("manifest.parquet", "manifest.csv", "manifest.jsonl")


def walk_manifest(root: Path | None, taxonomy: Taxonomy) -> Walk:
    """Rows of a manifest file, or of the manifest.* in a folder; paths are relative to the manifest's folder."""
    root = check_root(root, "manifest")
    file, *others = [root] if root.is_file() else _find_manifests(root)
    records = _read(file).to_pylist()
    walk = Walk(root=file.parent, rows=[])
    if others:
        names = ", ".join(other.name for other in others)
        walk.warnings.append(f"{file.name} is read and {names} beside it is not; give the one you mean as --root FILE")
    first: dict[str, tuple[int, SourceRow]] = {}  # by path: its row number and row
    labels: dict[str, tuple[int, SourceRow]] = {}  # the same by generator
    for number, record in enumerate(records, start=1):
        where = f"{file.name} row {number}"
        row = _row(record, where, file.parent, taxonomy)
        if row is None:
            walk.unused[TWO_SPLITS] += 1
            continue
        if not walk.takes(walk.root / row.path, where):
            continue
        before, other = first.setdefault(row.path, (number, row))
        if before != number:
            splits = f", as {other.split} there and {row.split} here" if other.split != row.split else ""
            raise SourceError(f"{where}: path {row.path!r} is in row {before} already{splits}")
        of_generator, other = labels.setdefault(row.generator, (number, row))
        if (other.kind, other.family) != (row.kind, row.family):
            raise SourceError(
                f"{where}: generator {row.generator!r} is {row.kind}, {row.family}, in row {of_generator} {other.kind}, "
                f"{other.family}; a generator has one kind and one family"
            )
        walk.rows.append(row)
    if any(record.get("group") or record.get("source_id") for record in records) and (
        shared := count_shared(walk.rows)
    ):
        walk.warnings.append(
            f"{shared} identities of {file.name} stand in more than one split; without the column split they would not"
        )
    return finish_walk(walk, "manifest")


def _row(record: dict[str, Any], where: str, root: Path, taxonomy: Taxonomy) -> SourceRow | None:
    path = check_relative(str(record["path"] or ""), where)
    generator = _generator(record, where, taxonomy)
    group = str(record.get("group") or record.get("source_id") or Path(path).stem)
    split = str(record.get("split") or "")
    if split and split.lower() not in SPLIT_ALIASES:
        raise SourceError(f"{where}: split {split!r} is none of train, val, test")
    decided = SPLIT_ALIASES[split.lower()] if split else group_split(group)
    if decided is None:
        return None
    return SourceRow(
        path=path,
        generator=generator.name,
        kind=generator.kind,
        family=generator.family,
        split=decided,
        group=group,
        synthetic=_truth(record.get("synthetic"), where),
        licence=str(record.get("licence") or "unknown"),
    )


def _generator(record: dict[str, Any], where: str, taxonomy: Taxonomy) -> Generator:
    name = str(record["generator"] or "")
    kind, family = record.get("kind"), record.get("family")
    found = taxonomy.find(name)
    if found is None and not (name and kind and family):
        raise SourceError(
            f"{where}: generator {name!r} is not in the taxonomy; add it with --generators FILE.yaml, "
            "or give columns kind and family"
        )
    if kind and kind not in KINDS:
        raise SourceError(f"{where}: kind {kind!r} is none of {', '.join(KINDS)}")
    if family and family not in FAMILIES:
        raise SourceError(f"{where}: family {family!r} is none of {', '.join(FAMILIES)}")
    if found is None:
        return Generator(name=name, kind=str(kind), family=str(family))
    for column, said, known in (("kind", kind, found.kind), ("family", family, found.family)):
        if said and said != known:
            raise SourceError(
                f"{where}: {column} {said!r}, but {found.name} is {known!r} in the taxonomy; leave the column empty, or change "
                "the taxonomy with --generators FILE.yaml"
            )
    return found


def _truth(value: Any, where: str) -> bool:
    if value is None or value == "":
        return False
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false", "1", "0"):
        return str(value).lower() in ("true", "1")
    raise SourceError(f"{where}: synthetic {value!r} is neither true nor false")


def _find_manifests(root: Path) -> list[Path]:
    found = [root / name for name in FILE_NAMES if (root / name).is_file()]
    if not found:
        raise SourceError(f"no {', '.join(FILE_NAMES)} in {root}")
    return found


def _read(file: Path) -> pa.Table:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise SourceError(f"{file.name}: a manifest is a .csv, .jsonl or .parquet file")
    try:
        table = reader(file)
    except (pa.ArrowException, ValueError, OSError, RecursionError) as error:
        raise SourceError(f"{file.name} cannot be read: {str(error).splitlines()[0]}") from error
    for column in (*REQUIRED, *OPTIONAL):
        if table.column_names.count(column) > 1:
            raise SourceError(f"{file.name}: column {column!r} stands there {table.column_names.count(column)} times")
    for column in REQUIRED:
        if column not in table.column_names:
            raise SourceError(f"{file.name}: column {column!r} is missing; found {', '.join(table.column_names)}")
    for column in set(table.column_names) - {*REQUIRED, *OPTIONAL}:
        meant = get_close_matches(column.lower(), set(OPTIONAL) - set(table.column_names), n=1, cutoff=0.8)
        if meant:
            raise SourceError(
                f"{file.name}: column {column!r} is unknown; rename it to {meant[0]!r}, or to something unlike it"
            )
    return table.select([name for name in (*REQUIRED, *OPTIONAL) if name in table.column_names])


def _read_csv(file: Path) -> pa.Table:
    data = read_file(file, limit=TABLE_BYTES)
    header = data.split(b"\n", 1)[0].decode("utf-8-sig").strip().split(",")  # spreadsheets put a byte order mark first
    strings = pyarrow.csv.ConvertOptions(column_types={name.strip('"'): pa.string() for name in header})
    return pyarrow.csv.read_csv(pa.BufferReader(data), convert_options=strings)


def _read_parquet(file: Path) -> pa.Table:
    return parse_table(read_file(file, limit=TABLE_BYTES))


def _read_jsonl(file: Path) -> pa.Table:
    text = read_text(file, limit=TABLE_BYTES, encoding="utf-8-sig")
    records = [json.loads(line) for line in text.split("\n") if line.strip()]
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise ValueError(f"row {number} is no object of column names and values")
    names = list(dict.fromkeys(name for record in records for name in record))  # pyarrow takes the first row's alone
    return pa.table({name: _jsonl_column(records, name) for name in names})


def _jsonl_column(records: list[dict[str, Any]], name: str) -> pa.Array:
    """Texts, or truths where all are; of a column that nobody reads nothing."""
    values = [record.get(name) for record in records]
    if name not in (*REQUIRED, *OPTIONAL):
        return pa.nulls(len(values))
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"row {number}: {name} is no text, number, true or false")
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise ValueError(f"row {number}: {name} is a number of {value.bit_length()} bits")
    if all(isinstance(value, bool | None) for value in values):
        return pa.array(values, pa.bool_())
    return pa.array([None if value is None else str(value) for value in values], pa.string())
