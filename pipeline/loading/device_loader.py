"""Batches on a device: while one is used, the next is copied; for a CUDA device on a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .loader import Batch, Loader


@dataclass(frozen=True, kw_only=True)
class _Sent:
    batch: Batch
    state: dict[str, Any]  # of the loader once the caller has received this batch
    done: torch.cuda.Event | None


class DeviceLoader:
    """Wraps a Loader; the same batches with their tensors on `device`, two of them there at a time.

    Copies overlap computation if the loader was made with pin_memory=True. The state counts what the caller received.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self._state = loader.state_dict()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def epoch(self) -> int:
        return int(self._state["epoch"])

    def state_dict(self) -> dict[str, Any]:
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)
        self._state = self._loader.state_dict()

    def __iter__(self) -> Iterator[Batch]:
        self._loader.load_state_dict(self._state)  # an iteration that was left early had read one batch ahead
        waiting: _Sent | None = None
        for batch in self._loader:
            sent = self._send(batch)
            if waiting is not None:
                yield self._received(waiting)
            waiting = sent
        if waiting is not None:
            yield self._received(waiting)
        self._state = self._loader.state_dict()

    def _send(self, batch: Batch) -> _Sent:
        """Start the copy. A pinned source may be dropped at once: torch keeps its memory until the copy has ended."""
        with torch.cuda.stream(self._copies):  # None: no stream, and the copy is done on return
            moved = {
                name: value.to(self._device, non_blocking=True) if torch.is_tensor(value) else value
                for name, value in batch.items()
            }
        done = self._copies.record_event() if self._copies is not None else None
        return _Sent(batch=moved, state=self._loader.state_dict(), done=done)

    def _received(self, sent: _Sent) -> Batch:
        """Let the caller's stream wait for this copy, not for the next, and tell the allocator who uses the memory."""
        self._state = sent.state
        if sent.done is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(sent.done)
            for value in sent.batch.values():
                if torch.is_tensor(value):
                    value.record_stream(current)
        return sent.batch
