"""A predictions file -> predictions, held against its schema (predictions_file.py), block by block."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...pipeline.store.documents import DocumentError, check_schema, parse_json
from ...pipeline.store.memory import TooLargeError, check_memory
from ...pipeline.store.reading import open_regular
from ..errors import RunError
from .predictions import Predictions
from .predictions_file import BLOCK, METADATA, PARTS, SCHEMA, About, Contents

IN_MEMORY = 2**30  # bytes of embeddings; more lie in a file of the temporary folder


def read_predictions(path: Path, *, needs: str = "seen") -> Contents:
    """A file, held against its schema; it must have rows of the part `needs`. Raises RunError with one sentence.

    Embeddings that would fill the memory lie in a file of the temporary folder, so a million rows take as much as their logits
    and names."""
    try:
        with open_regular(path) as source:
            return _Reader(pq.ParquetFile(source), needs).read()
    except FileNotFoundError:
        raise RunError(f"{path} does not exist") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    except (pa.ArrowException, TooLargeError, DocumentError, ValueError) as error:
        text = " ".join(str(error).split())
        raise RunError(f"{path} cannot be used as predictions: {text}") from None


class _Reader:
    """One file, read block by block."""

    def __init__(self, file: pq.ParquetFile, needs: str) -> None:
        self._file, self._needs = file, needs
        schema = file.schema_arrow
        if missing := [name for name in SCHEMA.names if name not in schema.names]:
            raise ValueError(f"column {missing[0]} is missing; expected {', '.join(SCHEMA.names)}")
        for name in SCHEMA.names:
            if not _is_kind(schema.field(name).type, SCHEMA.field(name).type):
                raise ValueError(
                    f"column {name} is {schema.field(name).type}, expected {_words(SCHEMA.field(name).type)}"
                )
        document = (schema.metadata or {}).get(METADATA)
        if document is None:
            raise ValueError("the schema's metadata lack the JSON document `bmrl`, which names the classes")
        found = parse_json(document)
        check_schema(found, About)
        self._about = About(**{name: value for name, value in found.items() if name in About.__struct_fields__})
        if len(set(self._about.classes)) < len(self._about.classes):
            raise ValueError("classes names one source twice")

    def read(self) -> Contents:
        count = self._file.metadata.num_rows
        check_memory(count * (8 * len(self._about.classes) + 200), f"{count} rows")
        keys: list[str] = []
        texts: dict[str, list[str]] = {name: [] for name in ("generator", "kind", "family", "group", "part")}
        labels = np.zeros(count, dtype=np.int64)
        logits = np.zeros((count, len(self._about.classes)))
        features: npt.NDArray[np.float32] | None = None
        for start, block in self._blocks():
            end = start + len(block)
            keys += block["key"].to_pylist()
            for name, values in texts.items():
                values += _shared(block[name])
            labels[start:end] = block["label"].to_numpy()
            logits[start:end] = self._numbers(block, "logits", len(self._about.classes), start)
            found = self._numbers(block, "embedding", None, start)
            if features is None:
                features = _room(count, found.shape[1])
            if found.shape[1] != features.shape[1]:
                raise ValueError(
                    f"embedding of row {start} has {found.shape[1]} numbers, that of row 0 {features.shape[1]}"
                )
            features[start:end] = found
        if features is None:
            raise ValueError("it has no rows")
        self._check_keys(keys)
        parts = np.array(texts["part"], dtype=object)
        whole = Predictions(
            keys=keys,
            generators=texts["generator"],
            groups=texts["group"],
            labels=labels,
            logits=logits,
            features=features,
        )
        self._check_labels(whole, parts)
        facts = zip(texts["generator"], texts["kind"], texts["family"], strict=True)
        sources = {name: {"kind": kind, "family": family} for name, kind, family in set(facts)}
        return Contents(about=self._about, parts=_split(whole, parts), sources=dict(sorted(sources.items())))

    def _blocks(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        start = 0
        for block in self._file.iter_batches(batch_size=BLOCK, columns=SCHEMA.names):
            for name in SCHEMA.names:
                if block[name].null_count:
                    row = start + pc.index(pc.is_null(block[name]), value=True).as_py()
                    raise ValueError(f"{name} of row {row} is missing")
            yield start, block
            start += len(block)

    def _numbers(self, block: pa.RecordBatch, name: str, width: int | None, start: int) -> npt.NDArray[Any]:
        """Lists of one length as an array (rows, length)."""
        column = block[name]
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        expected = int(lengths[0]) if width is None else width
        if wrong := np.flatnonzero(lengths != expected).tolist():
            row = start + wrong[0]
            raise ValueError(f"{name} of row {row} has {lengths[wrong[0]]} numbers, expected {expected}")
        flat = column.flatten()
        values = flat.to_numpy(zero_copy_only=False).astype(np.float64 if name == "logits" else np.float32)
        values = values.reshape(len(block), expected)
        if flat.null_count or not np.isfinite(values).all():
            row = start + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise ValueError(f"{name} of row {row} holds what is no finite number")
        return values

    def _check_keys(self, keys: Sequence[str]) -> None:
        if len(set(keys)) < len(keys):
            twice = next(first for first, second in pairwise(sorted(keys)) if first == second)
            raise ValueError(f"key {twice} stands twice")

    def _check_labels(self, rows: Predictions, parts: npt.NDArray[np.object_]) -> None:
        classes = self._about.classes
        if unknown := sorted(set(parts.tolist()) - set(PARTS)):
            raise ValueError(f"part {unknown[0]!r} is none of {', '.join(PARTS)}")
        if wrong := np.flatnonzero((rows.labels < -1) | (rows.labels >= len(classes))).tolist():
            label = rows.labels[wrong[0]]
            raise ValueError(f"label {label} of {rows.keys[wrong[0]]} is none of -1 and the {len(classes)} classes")
        if not (parts == self._needs).any():
            raise ValueError(f"it has no rows of part {self._needs}")
        is_seen = np.isin(parts.astype(str), ("train", "validation", "seen"))
        if without := np.flatnonzero(is_seen & (rows.labels < 0)).tolist():
            raise ValueError(
                f"{rows.keys[without[0]]} of part {parts[without[0]]} has the label -1, which unseen rows have"
            )
        if self._about.task != "attribution":
            return
        place = {name: label for label, name in enumerate(classes)}
        expected = np.array([place.get(name, -1) for name in rows.sources], dtype=np.int64)[rows.codes]
        for row in np.flatnonzero((rows.labels >= 0) & (rows.labels != expected)).tolist()[:1]:
            said, name = classes[rows.labels[row]], rows.generators[row]
            known = "is another class" if name in place else "is none of the classes"
            raise ValueError(f"{rows.keys[row]} has the label of {said}, but its generator {name} {known}")
        if known_unseen := np.flatnonzero(np.asarray(parts == "unseen") & (rows.labels >= 0)).tolist():
            raise ValueError(f"{rows.keys[known_unseen[0]]} of part unseen has a label; unseen rows have -1")


def _is_kind(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(expected):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return is_list and pa.types.is_floating(found.value_type)
    if pa.types.is_string(expected):
        return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_dictionary(found)
    return pa.types.is_integer(found)


def _words(kind: pa.DataType) -> str:
    return "a list of numbers" if pa.types.is_list(kind) else "text" if pa.types.is_string(kind) else "whole numbers"


def _shared(column: pa.Array) -> list[str]:
    """Values as Python text, equal ones the same object: a million names of ten sources are ten."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    return [names[code] for code in encoded.indices.to_pylist()]


def _room(count: int, dim: int) -> npt.NDArray[np.float32]:
    """Zeros (count, dim), in a file that has no name where they would be more than IN_MEMORY."""
    if count * dim * 4 <= IN_MEMORY:
        return np.zeros((count, dim), dtype=np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=(count, dim))


def _split(whole: Predictions, parts: npt.NDArray[np.object_]) -> dict[str, Predictions]:
    """By part; a part whose rows stand together is a view of the whole, not a copy."""
    found = {}
    for part in PARTS:
        places = np.flatnonzero(parts == part)
        if len(places):
            found[part] = whole.between(places[0], places[-1] + 1) if _is_run(places) else whole.where(places)
    return found


def _is_run(places: npt.NDArray[np.int64]) -> bool:
    return len(places) == places[-1] - places[0] + 1
