"""Weights as safetensors, and the record of what they were trained on, which ships beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.local import write_bytes

if TYPE_CHECKING:
    from ..views.bisenet import BiSeNet

LICENSE = "non-commercial research only: trained on CelebAMask-HQ"
RECORD = Path(__file__).with_name("bisenet-lite.json")


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What a weight file has seen: stems of photographs, and the half-open range of drawn identities."""

    photographs: tuple[str, ...]
    held_out: tuple[str, ...]  # never trained on; the card's scores are theirs
    drawn_identities: tuple[int, int]  # first, one past the last; of bmrl.pipeline.demo

    def write(self, path: Path) -> None:
        document = {
            "license": LICENSE,
            "drawn_identities": list(self.drawn_identities),
            "held_out": list(self.held_out),
            "photographs": list(self.photographs),
        }
        write_bytes(path, (json.dumps(document, indent=1) + "\n").encode())


def read_record(path: Path = RECORD) -> TrainingRecord:
    """The record of the built-in weights."""
    document = json.loads(path.read_text(encoding="utf-8"))
    first, end = document["drawn_identities"]
    return TrainingRecord(
        photographs=tuple(document["photographs"]),
        held_out=tuple(document["held_out"]),
        drawn_identities=(first, end),
    )


def training_identities() -> list[str]:
    """File stems that `bisenet-lite` was trained on: photographs, and drawn identities as their numbers."""
    record = read_record()
    return [*record.photographs, *(str(identity) for identity in range(*record.drawn_identities))]


def find_leaks(groups: Sequence[str]) -> list[str]:
    """Those of a shard set's groups (file stems) that `bisenet-lite` was trained on, sorted."""
    return sorted(set(groups) & set(training_identities()))


def save_weights(net: BiSeNet, path: Path, *, input_size: int) -> None:
    """Write a network as safetensors: convolutions in float16, normalisation in float32.

    Counters of batches are set to zero: they say nothing about the function and would change the hash.
    """
    import torch
    from safetensors.torch import save

    state = {}
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value = torch.zeros_like(value)
        state[name] = value.half().contiguous() if value.ndim == 4 else value.contiguous()
    metadata = {
        "architecture": "BiSeNet",
        "backbone": net.backbone,
        "width": str(net.width),
        "input_size": str(input_size),
        "license": LICENSE,
    }
    write_bytes(path, save(state, metadata=metadata))
