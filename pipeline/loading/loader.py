"""Deterministic, resumable batches of a shard set: memory-mapped tars, read by the sidecars' offsets; threads only.

Rank r of w takes its part of every global batch (batch_size * world_size samples); the state counts samples consumed
globally, so a run goes on with the very next sample, on another number of ranks too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ..shards.selection import Selection
from ..shards.tars import DamagedShardError
from ..store.memory import check_memory
from ..views import VIEWS
from .batch_memory import BatchMemory
from .order import balanced_order, epoch_order
from .reader import CHECKS, ColumnReader

Batch = dict[str, Any]
READ_AHEAD = 2  # batches a thread
MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    views: tuple[str, ...]
    batch_size: int  # per rank
    seed: int
    rank: int
    world_size: int
    shuffle: bool
    drop_last: bool
    num_threads: int  # 0: batches are gathered by the caller's own thread
    check: str  # never, first (every shard once a process, xxh3), always (every open)
    balanced: bool  # every class equally often
    window: int | None  # shards that are mixed; None: all
    pin_memory: bool  # page-locked batches, for asynchronous copies to a CUDA device


class Loader:
    """Iterates one epoch from where its state stands; a second `iter` begins the next epoch.

    Yields dicts: key and generator list[str]; label int64 (B,), -1 outside the classes; image uint8 (B, 3, 224, 224);
    edge uint16 (B, 1, 224, 224); noise int16 (B, 3, p, p), p the view's patch_size, 112 by default; parsing uint8
    (B, 224, 224); text int32 (B, 4, 77).
    With drop_last every rank gets equally many full batches; without, each sample comes exactly once over the ranks,
    the last global batch is shared out, and a rank may get a shorter one or none.
    """

    def __init__(self, shard_set: Selection, settings: LoaderSettings, *, epoch: int) -> None:
        _check(shard_set, settings)
        self.settings = settings
        self._set = shard_set
        self._selection = shard_set.digest
        self._epoch = epoch
        self._consumed = 0  # samples, over all ranks, within the epoch
        index = shard_set.index
        self._keys = index["key"].combine_chunks()
        generators = index["generator"].combine_chunks().dictionary_encode()
        self._generators: list[str] = generators.dictionary.to_pylist()
        self._generator = np.asarray(generators.indices.to_numpy(), dtype=np.int64)
        names = shard_set.shard_names
        shards = index["shard"].combine_chunks().dictionary_encode()
        number = {name: i for i, name in enumerate(names)}
        numbers = np.array([number[name] for name in shards.dictionary.to_pylist()], dtype=np.int64)
        self._shard = numbers[shards.indices.to_numpy()]
        self._row = np.asarray(index["row"].to_numpy(), dtype=np.int64)
        self._labels = shard_set.labels
        plans, sums = shard_set.plans, shard_set.sums
        self._readers = {
            view: ColumnReader(shard_set.root, plans[view], names, sums=sums, check=settings.check)
            for view in settings.views
            if plans[view].array
        }
        most = min(settings.batch_size, len(index))  # of a batch
        keep = READ_AHEAD * max(1, settings.num_threads) + 2  # batches, with those that the caller and the threads hold
        held = min(keep, -(-len(index) // most)) if most else 0
        sample = sum(prod(reader.shape) * reader.dtype.itemsize for reader in self._readers.values())
        check_memory(held * most * sample, f"{held} batches of {most} samples")
        self._memory = {
            view: BatchMemory(
                (most, *reader.shape),
                reader.dtype,
                keep=keep,
                pinned=settings.pin_memory,
            )
            for view, reader in self._readers.items()
        }
        self._looked_up = {view: self._table(view) for view in settings.views if view not in self._readers}

    def _table(self, view: str) -> npt.NDArray[Any]:
        """(sources, ...): what a view of the labels says of each source, from dataset.json."""
        catalogue = VIEWS[view].catalogue
        if catalogue is None:
            raise ValueError(f"the view {view!r} is stored as files, not as an array; the loader cannot batch it")
        entries = self._set.document[catalogue.key]
        return np.array([catalogue.batch_row(entries[name]) for name in self._generators], dtype=catalogue.dtype)

    def __len__(self) -> int:
        """Batches that this rank gets in a whole epoch."""
        return sum(1 for _ in self._spans(0))

    @property
    def epoch(self) -> int:
        return self._epoch

    def state_dict(self) -> dict[str, Any]:
        """What the caller has received, not what was read ahead."""
        return {
            "seed": self.settings.seed,
            "epoch": self._epoch,
            "selection": self._selection,
            "consumed": self._consumed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after `state`, whatever the batch size or world size it was saved under."""
        for name, own in (("seed", self.settings.seed), ("selection", self._selection)):
            if state[name] != own:
                raise ValueError(
                    f"the loader's state has {name} {state[name]!r}, this loader {own!r}: other data or seed"
                )
        self._epoch, self._consumed = int(state["epoch"]), int(state["consumed"])

    def __iter__(self) -> Iterator[Batch]:
        s, total = self.settings, len(self._row)
        if s.drop_last and total < s.batch_size * s.world_size:
            raise ValueError(
                f"{total} samples make no full batch of {s.batch_size} on {s.world_size} ranks; "
                "use a smaller batch_size or drop_last=False"
            )
        order = self._order()
        for end, rows in self._gathered(order):
            self._consumed = end
            if rows is not None:
                yield rows
        self._epoch += 1
        self._consumed = 0

    def _order(self) -> npt.NDArray[np.int64]:
        s = self.settings
        if s.balanced:
            return balanced_order(self._labels, seed=s.seed, epoch=self._epoch, selection_digest=self._selection)
        return epoch_order(
            self._shard,
            seed=s.seed,
            epoch=self._epoch,
            selection_digest=self._selection,
            shuffle=s.shuffle,
            window=s.window,
        )

    def _spans(self, start: int) -> Iterator[tuple[int, int, int]]:
        """(first, last, end) of this rank's part of each global batch from sample `start` on; end: of the global batch."""
        total, s = len(self._row), self.settings
        size = s.batch_size * s.world_size
        while start < total:
            end = min(start + size, total)
            if end - start < size and s.drop_last:
                return
            share, rest = divmod(end - start, s.world_size)
            first = start + s.rank * share + min(s.rank, rest)
            last = first + share + (s.rank < rest)
            if last > first:
                yield first, last, end
            start = end

    def _gathered(self, order: npt.NDArray[np.int64]) -> Iterator[tuple[int, Batch | None]]:
        spans = self._spans(self._consumed)
        if self.settings.num_threads == 0:
            for first, last, end in spans:
                yield end, self._gather(order[first:last])
            return
        pending: deque[tuple[int, Future[Batch]]] = deque()
        with ThreadPoolExecutor(self.settings.num_threads, thread_name_prefix="bmrl-loader") as pool:
            try:
                for first, last, end in spans:
                    pending.append((end, pool.submit(self._gather, order[first:last])))
                    if len(pending) > READ_AHEAD * self.settings.num_threads:
                        done, future = pending.popleft()
                        yield done, future.result()
                while pending:
                    done, future = pending.popleft()
                    yield done, future.result()
            finally:
                for _, future in pending:
                    future.cancel()

    def _gather(self, rows: npt.NDArray[np.int64]) -> Batch:
        keys: list[str] = self._keys.take(pa.array(rows)).to_pylist()
        generator = self._generator[rows]
        batch: Batch = {
            "key": keys,
            "generator": [self._generators[i] for i in generator.tolist()],
            "label": torch.from_numpy(self._labels[rows]),
        }
        shards, places = self._shard[rows], self._row[rows]
        for view, reader in self._readers.items():
            stored = self._memory[view].tensor(len(rows))
            reader.gather(stored.numpy(), shards, places, keys)
            batch[view] = VIEWS[view].arrange(stored)
        for view, table in self._looked_up.items():
            batch[view] = torch.from_numpy(table[generator])
        return batch


def _check(shard_set: Selection, settings: LoaderSettings) -> None:
    known = shard_set.document["views"]
    for view in settings.views:
        if view not in known:
            raise ValueError(
                f"{shard_set.root} has no view {view!r}, it has {', '.join(sorted(known))}; "
                f"add it with `bmrl-prep build --views {view}`"
            )
    if settings.batch_size < 1 or settings.world_size < 1 or not 0 <= settings.rank < settings.world_size:
        raise ValueError(
            f"batch_size {settings.batch_size}, rank {settings.rank} of {settings.world_size}: out of range"
        )
    if settings.check not in CHECKS:
        raise ValueError(f"unknown check {settings.check!r}; known are {', '.join(CHECKS)}")
    if not 0 <= settings.num_threads <= MAX_THREADS or (settings.window is not None and settings.window < 1):
        raise ValueError(f"num_threads {settings.num_threads} or window {settings.window}: out of range")
    if settings.pin_memory and not torch.cuda.is_available():
        raise ValueError("pin_memory needs a CUDA device, and torch finds none; leave it out")
    if settings.balanced and bool((shard_set.labels < 0).any()):
        raise ValueError("balanced loading needs every row inside the classes; select the seen part first")


__all__ = ["DamagedShardError", "Loader", "LoaderSettings"]
