"""Predictions as a parquet file: what `bmrl-eval` writes, and what it evaluates of anybody's model (docs/evaluation.md).

One row an image: key, generator, kind, family, group, split, part (text), label (int32, -1: none of the classes), logits and
embedding (lists of float32, of one length each). The schema's metadata hold the JSON document `bmrl`.

Legend: N rows, K classes, D embedding dimension.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta, Struct

from ...pipeline.store.local import AtomicFile
from . import case
from .predictions import Predictions

PARTS = ("train", "validation", "seen", "unseen", "controls")
METADATA = b"bmrl"
_TEXT = ("key", "generator", "kind", "family", "group", "split", "part")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT),
        ("label", pa.int32()),
        ("logits", pa.list_(pa.float32())),
        ("embedding", pa.list_(pa.float32())),
    ]
)
BLOCK = 16_384  # rows written and read at a time
_SPLIT_OF = {"train": "train", "validation": "val"}  # part -> split; the others are test rows
_MAX_CLASSES = 100_000

Name = Annotated[str, Meta(min_length=1, max_length=1000)]


class About(Struct, frozen=True):
    """The metadata. The last ones may be missing in a file of another program."""

    classes: Annotated[list[Name], Meta(min_length=2, max_length=_MAX_CLASSES)]
    attributor: Name
    preset: str = ""
    semantics: str = ""
    protocol: str | None = None
    data_digest: str = ""
    views: dict[str, Any] = {}
    task: str = "attribution"
    recipe: str = ""  # what two runs share that differ by their seed alone
    simulated: bool = False
    relations: dict[str, str] = {}
    published: dict[str, int | float | str] = {}
    origin: str = ""  # what the weights were before the training
    data: dict[str, Any] = {}
    calibration: dict[str, Any] | None = None


def about_of(said: About, data: Mapping[str, Any]) -> case.About:
    """The same for the sections; data: what stands there of the rows."""
    return case.About(
        attributor=said.attributor,
        preset=said.preset,
        semantics=said.semantics,
        protocol=said.protocol,
        task=said.task,
        published=said.published,
        relations=said.relations,
        simulated=said.simulated,
        calibration=said.calibration,
        origin=said.origin,
        data=data,
    )


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A file: who said it, and the rows of each part that it has."""

    about: About
    parts: Mapping[str, Predictions]
    sources: Mapping[str, Mapping[str, str]]  # generator -> its kind and family


def write_predictions(path: Path, contents: Contents) -> None:
    """Whole or not at all. Equal contents give equal bytes with one version of pyarrow."""
    about = {name: getattr(contents.about, name) for name in About.__struct_fields__}
    metadata = {METADATA: json.dumps(about, sort_keys=True).encode()}
    with AtomicFile(path, hashed=False) as file:
        with pq.ParquetWriter(_Sink(file), SCHEMA.with_metadata(metadata), compression="zstd") as out:
            for part in PARTS:
                rows = contents.parts.get(part)
                for start in range(0, 0 if rows is None else len(rows), BLOCK):
                    assert rows is not None
                    out.write_table(_table(rows, part, contents.sources, slice(start, start + BLOCK)))
        file.commit()


class _Sink(io.RawIOBase):
    """An atomic file as pyarrow writes to one."""

    def __init__(self, file: AtomicFile) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(bytes(data))

    def tell(self) -> int:
        return self._file.tell()


def _table(rows: Predictions, part: str, sources: Mapping[str, Mapping[str, str]], chosen: slice) -> pa.Table:
    generators = list(rows.generators[chosen])
    columns = {
        "key": list(rows.keys[chosen]),
        "generator": generators,
        **{name: [str(sources.get(one, {}).get(name, "unknown")) for one in generators] for name in ("kind", "family")},
        "group": list((rows.groups or rows.keys)[chosen]),
        "split": [_SPLIT_OF.get(part, "test")] * len(generators),
        "part": [part] * len(generators),
        "label": rows.labels[chosen].astype(np.int32),
        "logits": _lists(rows.logits[chosen]),
        "embedding": _lists(rows.features[chosen]),
    }
    return pa.table(columns, schema=SCHEMA)


def _lists(values: npt.NDArray[np.floating]) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.float32).ravel()))
