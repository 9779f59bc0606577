"""What a loader must know of selected rows: where they stand, their labels, and the digest that names the selection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..views.column import ViewPlan

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of a shard set. document: dataset.json. labels (len(index),): -1 for a row outside the classes."""

    root: Path
    document: dict[str, Any] = field(repr=False)
    index: pa.Table = field(repr=False)
    labels: Rows = field(repr=False)
    sums: Mapping[str, str] = field(repr=False)  # relative path -> sha256 of every file

    @property
    def plans(self) -> dict[str, ViewPlan]:
        return plans_of(self.document)

    @property
    def shard_names(self) -> list[str]:
        return shard_names_of(self.document)

    @property
    def digest(self) -> str:
        return selection_digest(self.index["key"].to_pylist(), self.labels)


def selection_digest(keys: Iterable[str], labels: Rows) -> str:
    """Identity of a selection: its (key, label) rows; views and codecs do not enter."""
    lines = (f"{key} {label}" for key, label in zip(keys, labels, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def plans_of(document: Mapping[str, Any]) -> dict[str, ViewPlan]:
    """The view plans that a dataset.json holds."""
    return {name: ViewPlan.from_json(view) for name, view in document["views"].items()}


def shard_names_of(document: Mapping[str, Any]) -> list[str]:
    """The shards of a dataset.json, in order."""
    return [shard["name"] for shard in document["shards"]]
