"""The order of the samples: exact resume at every step, exact unions over ranks, nothing that a view or a rebuild changes.

In the manner of grain: save at every step, restore each state, and compare the whole remainder as tensors.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bmrl.pipeline import ShardSet
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.loading.loader import Loader
from bmrl.pipeline.loading.order import balanced_order, epoch_order
from bmrl.pipeline.shardset import ShardSetError

VIEWS = ("image", "edge", "noise", "parsing", "text")
WORLDS = (1, 2, 4)
Options = dict[str, Any]


@pytest.fixture(scope="module")
def rows(small_set: ShardSet) -> ShardSet:
    return small_set.select(split="train")  # 29 rows in four shards


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if torch.is_tensor(one[name]):
                assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name
            else:
                assert one[name] == other[name], name


def resumed(make: Callable[[], Loader], state: dict[str, Any]) -> Loader:
    loader = make()
    loader.load_state_dict(json.loads(json.dumps(state)))  # as it comes back from a checkpoint
    return loader


def take(loader: Loader, count: int) -> list[Any]:
    return list(islice(loader, count))


def keys_of(rows: ShardSet, world: int, state: dict[str, Any] | None = None, **options: Any) -> list[list[list[str]]]:
    """rank -> batches -> keys, of the epoch or of what is left of it after `state`."""
    out = []
    for rank in range(world):
        loader = rows.loader(views=[], rank=rank, world_size=world, **options)
        if state is not None:
            loader.load_state_dict(state)
        out.append([batch["key"] for batch in loader])
    return out


def flat(ranks: list[list[list[str]]]) -> list[str]:
    return [key for batches in ranks for batch in batches for key in batch]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("world", WORLDS)
def test_every_step_can_be_resumed_three_times(world: int, threads: int, shuffle: bool, rows: ShardSet) -> None:
    for rank in range(world):

        def make(rank: int = rank) -> Loader:
            return rows.loader(
                views=["noise", "text"],
                batch_size=3,
                seed=3,
                rank=rank,
                world_size=world,
                shuffle=shuffle,
                num_threads=threads,
            )

        running = make()
        states, batches = [running.state_dict()], []
        for batch in running:
            batches.append(batch)
            states.append(running.state_dict())
        assert len(batches) == len(running) == {1: 9, 2: 4, 4: 2}[world] + (not shuffle)
        for step, state in enumerate(states):
            assert_same(list(resumed(make, state)), batches[step:])
            # Go on from here, stop after one more batch, and again after two: each time the whole rest must be the same.
            place = step
            for further in (1, 2):
                if place + further > len(batches):
                    break
                again = resumed(make, state)
                taken = take(again, further)
                assert_same(taken, batches[place : place + further])
                state = again.state_dict()
                place += further
                assert_same(list(resumed(make, state)), batches[place:])


@pytest.mark.parametrize("threads", [0, 3])
def test_all_five_views_resume(threads: int, rows: ShardSet) -> None:
    def make() -> Loader:
        return rows.loader(views=VIEWS, batch_size=5, num_threads=threads, balanced=False, window=2)

    running = make()
    states, batches = [], []
    for batch in running:
        batches.append(batch)
        states.append(running.state_dict())
    for step, state in enumerate(states, 1):
        assert_same(list(resumed(make, state)), batches[step:])


def test_a_resumed_run_goes_on_into_the_next_epochs(rows: ShardSet) -> None:
    def make() -> Loader:
        return rows.loader(views=[], batch_size=4, num_threads=1)

    straight = make()
    epochs = [[batch["key"] for batch in straight] for _ in range(3)]
    stopped = make()
    head = [batch["key"] for batch in take(stopped, 5)]
    again = resumed(make, stopped.state_dict())
    tail = [[batch["key"] for batch in again] for _ in range(3)]
    assert [head + tail[0], tail[1], tail[2]] == epochs
    assert again.epoch == 3 and again.state_dict()["consumed"] == 0


@pytest.mark.parametrize("batch_size", [1, 3, 7, 40])
@pytest.mark.parametrize("world", WORLDS)
def test_evaluation_sees_each_row_once(world: int, batch_size: int, rows: ShardSet) -> None:
    expected = rows.index["key"].to_pylist()
    ranks = keys_of(rows, world, batch_size=batch_size, shuffle=False)
    assert sorted(flat(ranks)) == sorted(expected) and len(set(expected)) == 29
    assert max(len(batches) for batches in ranks) - min(len(batches) for batches in ranks) <= 1
    # Round by round the ranks' parts, one after the other, are the selection in its own order.
    rounds = [key for number in range(30) for batches in ranks for key in (*batches, *[[]] * 30)[number]]
    assert rounds == expected


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("world", WORLDS)
def test_training_gives_every_rank_equally_many_full_batches(world: int, batch_size: int, rows: ShardSet) -> None:
    ranks = keys_of(rows, world, batch_size=batch_size, shuffle=True)
    full = 29 // (batch_size * world)  # the remainder of an epoch is left out; which rows those are changes every epoch
    assert [[len(batch) for batch in batches] for batches in ranks] == [[batch_size] * full] * world
    assert len(set(flat(ranks))) == full * batch_size * world


def test_the_global_batch_does_not_depend_on_the_number_of_ranks(rows: ShardSet) -> None:
    one = flat(keys_of(rows, 1, batch_size=8))
    for world in (2, 4):
        ranks = keys_of(rows, world, batch_size=8 // world)
        steps = [[key for batches in ranks for key in batches[step]] for step in range(3)]
        assert [key for step in steps for key in step] == one[:24]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("after", WORLDS)
@pytest.mark.parametrize("before", WORLDS)
def test_another_world_size_loses_and_repeats_nothing(before: int, after: int, shuffle: bool, rows: ShardSet) -> None:
    options: Options = {"batch_size": 2, "shuffle": shuffle, "drop_last": False, "seed": 5}
    whole = keys_of(rows, 1, **options)
    steps = len(keys_of(rows, before, **options)[0])
    for step in range(1, steps + 1):
        runs = [rows.loader(views=[], rank=rank, world_size=before, **options) for rank in range(before)]
        seen = [[batch["key"] for batch in take(run, step)] for run in runs]
        states = [run.state_dict() for run in runs if len(run) >= step]
        assert all(state == states[0] for state in states), "every rank saves the same state"
        rest = keys_of(rows, after, state=states[0], **options)
        if states[0]["consumed"] < 29:
            assert sorted(flat(seen) + flat(rest)) == sorted(flat(whole))


def test_epochs_and_seeds_differ_and_come_again(rows: ShardSet) -> None:
    def order(**options: Any) -> list[str]:
        return flat(keys_of(rows, 1, batch_size=29, **options))

    orders = [order(), order(epoch=1), order(epoch=2), order(seed=1), order(window=1), order(shuffle=False)]
    assert all(sorted(one) == sorted(other) and one != other for one, other in pairwise(orders))
    assert [order(), order(epoch=1)] == orders[:2]
    running = rows.loader(views=[], batch_size=29)
    assert [next(iter([batch["key"] for batch in running])) for _ in range(3)] == orders[:3]


def test_a_state_of_other_data_or_another_seed_is_refused(small_set: ShardSet, rows: ShardSet) -> None:
    state = rows.loader(views=[], batch_size=4).state_dict()
    with pytest.raises(ValueError, match="seed 0, this loader 9"):
        rows.loader(views=[], batch_size=4, seed=9).load_state_dict(state)
    with pytest.raises(ValueError, match="selection"):
        small_set.select(split="test").loader(views=[], batch_size=4).load_state_dict(state)


def test_neither_another_view_nor_a_rebuild_changes_the_order(
    small_options: Callable[..., BuildOptions],
    build_here: Callable[[BuildOptions], Path],
    tmp_path: Path,
    rows: ShardSet,
) -> None:
    def orders(root: Path) -> list[list[str]]:
        chosen = ShardSet.open(root).select(split="train")
        return [flat(keys_of(chosen, 1, batch_size=29, epoch=epoch)) for epoch in range(3)]

    root = build_here(small_options(tmp_path / "set", views=("image",), parser=None))
    first = orders(root)
    state = ShardSet.open(root).select(split="train").loader(views=["image"], batch_size=4).state_dict()
    (root / "dataset.json").unlink()  # as a build that will change something does
    (root / "SHA256SUMS").unlink()
    build_here(small_options(root, views=("image", "edge"), parser=None))
    assert orders(root) == first
    with_edge = ShardSet.open(root).select(split="train").loader(views=["image", "edge"], batch_size=4)
    with_edge.load_state_dict({**state, "consumed": 8})
    assert [key for batch in with_edge for key in batch["key"]] == first[0][8:28]
    png = build_here(small_options(tmp_path / "png", codec="png"))
    assert orders(png) == first == [flat(keys_of(rows, 1, batch_size=29, epoch=epoch)) for epoch in range(3)]


def test_the_order_is_the_same_in_every_process() -> None:
    """Golden: neither the hash seed nor another numpy may change an order, or a resumed run would repeat samples."""
    shards = np.arange(12) // 4
    golden = epoch_order(shards, seed=7, epoch=3, selection_digest="abc", shuffle=True)
    assert golden.tolist() == [7, 4, 8, 11, 0, 9, 5, 2, 10, 1, 6, 3]
    windows = epoch_order(shards, seed=7, epoch=3, selection_digest="abc", shuffle=True, window=1)
    assert windows.tolist() == [7, 4, 5, 6, 3, 0, 2, 1, 9, 8, 10, 11]
    balanced = balanced_order(np.array([0, 0, 0, 0, 1, 2]), seed=7, epoch=3, selection_digest="abc")
    assert balanced.tolist() == [1, 4, 2, 4, 5, 5]


def test_fewer_rows_than_one_global_batch_are_refused(rows: ShardSet) -> None:
    loader = rows.loader(views=[], batch_size=8, world_size=4)
    assert len(loader) == 0
    with pytest.raises(ValueError, match="29 samples make no full batch of 8 on 4 ranks"):
        list(loader)
    assert len(rows.loader(views=[], batch_size=8, world_size=4, drop_last=False)) == 1


def test_windows_mix_whole_shards_only() -> None:
    shards = np.repeat(np.arange(7), 10)
    order = epoch_order(shards, seed=0, epoch=0, selection_digest="x", shuffle=True, window=2)
    assert sorted(order.tolist()) == list(range(70))
    groups = [set(shards[order[start : start + 20]].tolist()) for start in range(0, 70, 20)]
    assert [len(group) for group in groups] == [2, 2, 2, 1] and set.union(*groups) == set(range(7))


@pytest.mark.parametrize("case", range(20))
def test_balanced_orders_draw_evenly_and_without_early_repeats(case: int) -> None:
    labels = np.array([random.Random(case).choice([0, 0, 0, 1, 4]) for _ in range(30)])
    order = balanced_order(labels, seed=case, epoch=1, selection_digest="x")
    classes = np.unique(labels)
    drawn = [int((labels[order] == label).sum()) for label in classes]
    assert sum(drawn) == 30 and max(drawn) - min(drawn) <= 1
    for label, count in zip(classes, drawn, strict=True):
        times = np.bincount(order[labels[order] == label], minlength=30)[labels == label]
        assert times.max() - times.min() <= 1 and times.sum() == count
    assert order.tolist() != balanced_order(labels, seed=case, epoch=2, selection_digest="x").tolist()


def test_a_balanced_epoch_resumes_too(rows: ShardSet) -> None:
    seen = rows.select(generators=["real", "mystery"])  # 7 and 1

    def make() -> Loader:
        return seen.loader(views=[], batch_size=2, balanced=True)

    running = make()
    states, batches = [], []
    for batch in running:
        batches.append(batch)
        states.append(running.state_dict())
    assert torch.bincount(torch.cat([batch["label"] for batch in batches])).tolist() == [4, 4]
    for step, state in enumerate(states, 1):
        assert_same(list(resumed(make, state)), batches[step:])


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
def test_no_rows_are_no_batches(balanced: bool, threads: int, rows: ShardSet) -> None:
    nothing = rows.take(np.arange(0))
    loader = nothing.loader(views=(), batch_size=3, drop_last=False, balanced=balanced, num_threads=threads)
    assert (len(loader), list(loader), loader.epoch) == (0, [], 1)


def test_a_generator_twice_is_refused(rows: ShardSet) -> None:
    """Its rows would all have had the second label, and the first class none."""
    with pytest.raises(ShardSetError, match="generators names one twice: real, real"):
        rows.select(generators=["real", "real"])
