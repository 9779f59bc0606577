"""Lists that datasets ship (official splits, labels of videos): read into key -> fields."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..store.reading import JSON_BYTES, read_file, read_text
from .layout import Layout, Table, fill
from .rows import SPLIT_ALIASES, SourceError

Record = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a dataset that were found under the root."""

    by_row: tuple[tuple[Table, Mapping[str, Record]], ...]
    by_identity: Mapping[str, str]  # identity -> official split
    missing: tuple[str, ...]  # patterns of files that are not there

    def join(self, fields: Record) -> None:
        """Add the columns of every table that has the row; a later table may stand on a column of an earlier one."""
        for table, records in self.by_row:
            key = fill(table.by, fields)
            if key is not None and key in records:
                fields.update(records[key])


def read_tables(layout: Layout, root: Path, files: list[str]) -> Tables:
    """`files`: paths below the root that are no images. Raises SourceError where a list cannot be read."""
    by_row: list[tuple[Table, dict[str, Record]]] = []
    by_identity: dict[str, str] = {}
    missing = []
    for table in layout.tables:
        found = sorted(path for path in files if table.file.fullmatch(path))
        records: dict[str, Record] = {}
        for path in found:
            try:
                records.update(_read(table, root / path))
            except (
                OSError,
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                IndexError,
                RecursionError,
                csv.Error,
            ) as error:
                raise SourceError(f"{path} is not a list as {layout.name} ships it: {error!r}") from error
        if not found and not table.optional:
            missing.append(table.file.pattern)
        elif table.by == "ids":
            by_identity.update({key: record["split"] for key, record in records.items()})
        else:
            by_row.append((table, records))
    return Tables(by_row=tuple(by_row), by_identity=by_identity, missing=tuple(missing))


def _read(table: Table, file: Path) -> Iterator[tuple[str, Record]]:
    for key, record in _READERS[table.form](file, table.columns):
        if table.key is not None:
            match = table.key.fullmatch(key)
            if match is None:
                continue
            key = match["key"]
        record = {**record, **table.fields}
        if "split" in record:
            word = record["split"]
            record["split"] = table.values.get(word) or SPLIT_ALIASES[word.lower()]
        yield key, record


def _read_words(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Record]]:
    """Columns divided by blanks; the first is the key. A head line is a record that nothing stands on."""
    for line in read_text(file).splitlines():
        words = line.split()
        if len(words) >= len(columns):
            yield words[0], dict(zip(columns, words, strict=False))


def _read_lines(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Record]]:
    """Each line is a key."""
    for line in read_text(file).splitlines():
        yield line.strip(), {}


def _read_csv(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Record]]:
    """A head line names the columns; `columns` names the ones to take, the first is the key."""
    for record in csv.DictReader(io.StringIO(read_text(file), newline="")):
        yield record[columns[0]], {name: record[name] for name in columns}


def _read_pairs(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Record]]:
    """A JSON list of lists of identities: each is a key."""
    for identities in json.loads(read_file(file, limit=JSON_BYTES)):
        for identity in identities:
            yield str(identity), {}


def _read_records(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Record]]:
    """A JSON object name -> record."""
    for key, record in json.loads(read_file(file, limit=JSON_BYTES)).items():
        yield key, {name: str(record[name]) for name in columns if record.get(name)}


_READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[tuple[str, Record]]]] = {
    "words": _read_words,
    "lines": _read_lines,
    "csv": _read_csv,
    "pairs": _read_pairs,
    "records": _read_records,
}
