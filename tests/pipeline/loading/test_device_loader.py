"""Reused and pinned batch memory, and batches on a device one copy ahead of the caller."""

from __future__ import annotations

import gc
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from bmrl.pipeline import ShardSet
from bmrl.pipeline.loading import batch_memory
from bmrl.pipeline.loading.batch_memory import BatchMemory
from bmrl.pipeline.loading.device_loader import DeviceLoader
from bmrl.pipeline.loading.loader import Loader

VIEWS = ("image", "edge", "noise", "parsing", "text")
CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")],
    ),
]


@pytest.fixture(scope="module")
def rows(small_set: ShardSet) -> ShardSet:
    return small_set.select(split="train")  # 29 rows


def make(rows: ShardSet, **options: Any) -> Loader:
    return rows.loader(**{"views": VIEWS, "batch_size": 4, "seed": 2, **options})


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in other:
            if torch.is_tensor(other[name]):
                assert torch.equal(one[name].cpu(), other[name]) and one[name].stride() == other[name].stride(), name
            else:
                assert one[name] == other[name]


def test_memory_is_used_again_once_the_batch_is_dropped() -> None:
    memory = BatchMemory((4, 3), np.dtype("<i2"), keep=2, pinned=False)
    first = memory.tensor(4)
    assert (first.dtype, tuple(first.shape)) == (torch.int16, (4, 3))
    place = first.data_ptr()
    view = first.permute(1, 0)[1:]
    del first
    gc.collect()
    assert memory.tensor(4).data_ptr() != place, "a view still looks at it"
    del view
    gc.collect()
    again = memory.tensor(2)
    assert again.data_ptr() == place and tuple(again.shape) == (2, 3)
    array = again.numpy()[:1]
    del again
    gc.collect()
    array[:] = 7
    assert memory.tensor(4).data_ptr() != place and array.tolist() == [[7, 7, 7]]


def test_at_most_so_many_blocks_are_kept() -> None:
    memory = BatchMemory((4, 3), np.dtype("u1"), keep=2, pinned=False)
    held = [memory.tensor(4) for _ in range(9)]
    held.clear()
    gc.collect()
    assert len(memory._free) == 2


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_that_the_caller_keeps_are_not_written_again(threads: int, rows: ShardSet) -> None:
    loader = make(rows, num_threads=threads)
    kept = list(loader)
    copies = [{n: v.clone() if torch.is_tensor(v) else list(v) for n, v in batch.items()} for batch in kept]
    for _ in range(3):
        assert len(list(loader)) == 7
    for batch, copy in zip(kept, copies, strict=True):
        assert all(torch.equal(batch[n], copy[n]) for n in (*VIEWS, "label"))


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("threads", [0, 2])
def test_the_same_batches_on_the_device(where: str, threads: int, rows: ShardSet) -> None:
    pinned = where == "cuda"
    on_device = DeviceLoader(make(rows, num_threads=threads, pin_memory=pinned), torch.device(where))
    plain = make(rows)
    assert len(on_device) == len(plain) == 7
    for epoch in range(3):
        assert on_device.epoch == plain.epoch == epoch
        found = list(on_device)
        assert {value.device.type for value in found[0].values() if torch.is_tensor(value)} == {where}
        assert_same(found, list(plain))
    assert on_device.state_dict() == plain.state_dict()


@pytest.mark.parametrize("where", DEVICES)
def test_the_state_counts_what_was_received(where: str, rows: ShardSet) -> None:
    whole = list(make(rows))
    running = DeviceLoader(make(rows, num_threads=1), torch.device(where))
    states = [running.state_dict()]
    for number, _ in enumerate(running, 1):
        states.append(running.state_dict())
        assert states[-1]["consumed"] == 4 * number and running.epoch == 0
    for step, state in enumerate(states):
        again = DeviceLoader(make(rows), torch.device(where))
        again.load_state_dict(state)
        assert_same(list(again), whole[step:])
        plain = make(rows)  # a state of one is a state of the other
        plain.load_state_dict(state)
        assert_same(list(plain), whole[step:])


def test_an_iteration_left_early_goes_on_with_the_next_batch(rows: ShardSet) -> None:
    running = DeviceLoader(make(rows, num_threads=1), CPU)
    first = list(islice(running, 3))
    assert_same(first + list(running), list(make(rows)))
    assert running.epoch == 1


def test_the_next_copy_is_started_before_a_batch_is_handed_over(rows: ShardSet, monkeypatch: Any) -> None:
    events: list[str] = []
    loader = DeviceLoader(make(rows), CPU)
    send, received = loader._send, loader._received
    monkeypatch.setattr(loader, "_send", lambda batch: (events.append(f"send {batch['key'][0]}"), send(batch))[1])
    monkeypatch.setattr(
        loader, "_received", lambda sent: (events.append(f"use {sent.batch['key'][0]}"), received(sent))[1]
    )
    keys = [batch["key"][0] for batch in loader]
    assert events[:4] == [f"send {keys[0]}", f"send {keys[1]}", f"use {keys[0]}", f"send {keys[2]}"]
    assert events[-2:] == [f"use {keys[-2]}", f"use {keys[-1]}"] and len(events) == 14


class FakeStream:
    """Writes down what a CUDA stream would be asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.events = name, log, 0

    def record_event(self) -> str:
        self.events += 1
        return f"copy {self.events}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


def test_the_caller_waits_for_its_own_copy_only(rows: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    loader = DeviceLoader(make(rows, views=["text"]), CPU)
    loader._copies = FakeStream("copies", log)  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: pytest.MonkeyPatch.context())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("caller", log))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append(stream.name))
    assert_same(list(loader), list(make(rows, views=["text"])))
    assert log == [line for n in range(1, 8) for line in (f"caller waits for copy {n}", "caller", "caller")]


def test_pinned_batches_are_gathered_in_place(rows: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a CUDA device: every array of a batch must come from an allocation that asked for pinned memory."""
    allocated: set[int] = set()
    empty = torch.empty

    def pinned_empty(shape: tuple[int, ...], *, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        tensor = empty(shape, dtype=dtype)
        allocated.add(tensor.data_ptr())
        return tensor

    plain = list(make(rows))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(batch_memory.torch, "empty", pinned_empty)
    pinned = list(make(rows, pin_memory=True, num_threads=1))
    assert_same(pinned, plain)
    assert {batch[view].data_ptr() for batch in pinned for view in VIEWS if view != "text"} <= allocated
    assert len(allocated) == 4 * len(pinned)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_pinning_without_a_device_is_refused(rows: ShardSet) -> None:
    with pytest.raises(ValueError, match="pin_memory needs a CUDA device, and torch finds none"):
        make(rows, pin_memory=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_pinned_batches_are_pinned(rows: ShardSet) -> None:
    batch = next(iter(make(rows, pin_memory=True)))
    assert all(batch[view].is_pinned() for view in VIEWS if view != "text")
