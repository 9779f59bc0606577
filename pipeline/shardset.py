"""A complete shard set on disk: open it, select rows, verify it, load batches from it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .protocols import Protocol, load_protocol
from .shards.names import DATASET_JSON, PLAN_JSON, SUMS
from .shards.opening import TableError, read_tables
from .shards.selection import Selection, plans_of, selection_digest, shard_names_of
from .shards.sums import SUMS_BYTES, read_sums
from .store.lock import lock_holder
from .store.reading import read_within
from .views.column import ViewPlan

if TYPE_CHECKING:
    from .loading.loader import Loader
    from .shards.verify import Damage


class ShardSetError(ValueError):
    """A folder that is no complete shard set of a schema this version reads, or a selection it cannot serve."""


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Rows of a shard set, with the classes they are labelled by.

    index: one row a sample (finish.index_schema). classes: label -> generator. views: name -> parameters, dtype, shape, scale.
    """

    root: Path
    document: dict[str, Any] = field(repr=False)
    index: pa.Table = field(repr=False)
    classes: tuple[str, ...]
    protocol: Protocol | None = None

    @classmethod
    def open(cls, root: str | Path) -> ShardSet:
        """Raises ShardSetError where dataset.json is absent (the build did not end) or of another schema_version."""
        root = Path(root)
        file = root / DATASET_JSON
        if not root.is_dir():
            raise ShardSetError(f"{root} does not exist or is no folder")
        if not file.exists():
            what = "its build is not complete: run it again" if (root / PLAN_JSON).exists() else "no shard set is there"
            if holder := lock_holder(root):
                what = f"it is being built by {holder}; wait for the build to end"
            raise ShardSetError(f"{root} has no dataset.json ({what})")
        try:
            tables = read_tables(root)
        except TableError as error:
            raise ShardSetError(f"{root / error.name} {error.problem}") from error.__cause__
        document = tables.document
        return cls(root=root, document=document, index=tables.index, classes=tuple(document["classes"]))

    @property
    def views(self) -> dict[str, dict[str, Any]]:
        """Name -> its entry in dataset.json: params, digest, codec, and dtype, shape, scale and unit of stored arrays."""
        return dict(self.document["views"])

    @property
    def plans(self) -> dict[str, ViewPlan]:
        return plans_of(self.document)

    @property
    def shard_names(self) -> list[str]:
        return shard_names_of(self.document)

    @property
    def root_digest(self) -> str:
        """Identity of the data: the hash of SHA256SUMS, which lists every file."""
        return hashlib.sha256(read_within(self.root, SUMS, limit=SUMS_BYTES)).hexdigest()

    @property
    def sums(self) -> dict[str, str]:
        """Relative path -> sha256 of every file, as SHA256SUMS says."""
        return _sums(self.root)

    @property
    def missing_sources(self) -> tuple[str, ...]:
        """Sources that the protocol names and this shard set lacks."""
        if self.protocol is None:
            return ()
        return tuple(source for source in self.protocol.sources if source not in self.document["generators"])

    def __len__(self) -> int:
        return int(self.index.num_rows)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(len(self),): index in `classes`, -1 for a row outside."""
        number = {name: i for i, name in enumerate(self.classes)}
        if self.protocol is not None:
            kinds = {name: facts["kind"] for name, facts in self.document["generators"].items()}
            number = {name: self.protocol.label_of(name, kind) for name, kind in kinds.items()}
        return np.array([number.get(name, -1) for name in self.index["generator"].to_pylist()], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """generator -> selected rows."""
        return dict(sorted(Counter(self.index["generator"].to_pylist()).items()))

    def select(
        self,
        split: str | None = None,
        generators: Sequence[str] | None = None,
        protocol: str | Protocol | None = None,
        part: str | None = None,
    ) -> ShardSet:
        """The rows of a split, of some generators, or of a protocol's part: seen, unseen or controls.

        classes: with a protocol its seen sources in file order (real and fake where its task is detection); else
        `generators` in the order given; else every generator of ROOT by name. split and part never change them. Raises
        ShardSetError for an unknown name.
        """
        chosen = load_protocol(protocol) if isinstance(protocol, str) else protocol or self.protocol
        rows, classes = self.index, self.classes
        if split is not None:
            if split not in ("train", "val", "test"):
                raise ShardSetError(f"unknown split {split!r}; known are train, val, test")
            rows = rows.filter(pc.equal(rows["split"].cast(pa.string()), split))
        if generators is not None:
            for name in generators:
                if name not in self.document["generators"]:
                    known = ", ".join(sorted(self.document["generators"]))
                    raise ShardSetError(f"{self.root} has no generator {name!r}; it has {known}")
            if len(set(generators)) < len(generators):
                raise ShardSetError(f"generators names one twice: {', '.join(generators)}")
            rows = _among(rows, generators)
            classes = tuple(generators)
        if chosen is not None:
            chosen = chosen.over(self._known_kinds())
            classes = chosen.classes
            parts = {"seen": chosen.seen, "unseen": chosen.unseen, "controls": chosen.controls}
            if part is not None and part not in parts:
                raise ShardSetError(f"unknown part {part!r}; known are {', '.join(parts)}")
            rows = _among(rows, parts[part] if part else (*chosen.seen, *chosen.unseen, *chosen.controls))
        elif part is not None:
            raise ShardSetError("part= needs protocol=: it is the protocol that says what is seen")
        return dataclasses.replace(self, index=rows.combine_chunks(), classes=classes, protocol=chosen)

    def take(self, rows: npt.NDArray[np.int64]) -> ShardSet:
        """The rows of those numbers, in that order."""
        return dataclasses.replace(self, index=self.index.take(pa.array(rows)).combine_chunks())

    def _known_kinds(self) -> list[str]:
        """Sources that a protocol over all of them takes: one of unknown kind is neither real nor fake."""
        return [name for name, facts in self.document["generators"].items() if facts["kind"] != "unknown"]

    @property
    def digest(self) -> str:
        """Identity of the selection: the selected (key, label) rows; views and codecs do not enter."""
        return selection_digest(self.index["key"].to_pylist(), self.labels)

    def loader(
        self,
        *,
        views: Sequence[str],
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool | None = None,
        num_threads: int = 1,
        check: str = "first",
        balanced: bool = False,
        window: int | None = None,
        pin_memory: bool = False,
    ) -> Loader:
        """Batches of the selected rows; see Loader. drop_last None means: as shuffle."""
        from .loading.loader import Loader, LoaderSettings

        settings = LoaderSettings(
            views=tuple(views),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            drop_last=shuffle if drop_last is None else drop_last,
            num_threads=num_threads,
            check=check,
            balanced=balanced,
            window=window,
            pin_memory=pin_memory,
        )
        selection = Selection(
            root=self.root, document=self.document, index=self.index, labels=self.labels, sums=self.sums
        )
        return Loader(selection, settings, epoch=epoch)

    def verify(self, deep: bool = False, source_root: Path | None = None) -> list[Damage]:
        """Every damaged, missing or extra file; empty where all is well."""
        from .shards.verify import verify

        return verify(self.root, deep=deep, source_root=source_root)


def is_within(path: Path, root: Path) -> bool:
    """Whether a file or folder that is to be written would be one of a shard set's."""
    return path.resolve().is_relative_to(root.resolve())


def _sums(root: Path) -> dict[str, str]:
    try:
        return read_sums(root)
    except ValueError as error:
        raise ShardSetError(f"{root / SUMS} is {error}; `bmrl-prep build` writes it again") from None


def _among(rows: pa.Table, generators: Sequence[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows["generator"].cast(pa.string()), value_set=pa.array(list(generators), pa.string())))
