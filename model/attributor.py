"""What the trainer and the evaluation know of an attributor.

Losses that any attributor can add are modules: losses.CenterLoss (DFACC, VCC) over its features, logits and labels, and
losses.SamplePairAttention on a vision-text similarity matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .config import RunConfig
from .inputs import Batch


class Attributor(Protocol):
    """An nn.Module that turns batches of views into losses, logits and embeddings."""

    config: RunConfig
    num_classes: int
    record: dict[str, Tensor]  # detached scalars of the last `losses` call that are no losses, for the metrics
    training: bool

    @property
    def training_views(self) -> tuple[str, ...]: ...

    @property
    def inference_views(self) -> tuple[str, ...]: ...

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """name -> unweighted scalar; RunConfig.losses holds the weights."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """float (B, K)."""
        ...

    def embed(self, batch: Batch) -> Tensor:
        """float (B, D)."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """embed's output (B, D) -> logits (B, K)."""
        ...

    def level_features(self, tokens: Tensor) -> Tensor | None:
        """Prompts int (U, 4, 77) -> what embed's output is aligned with level by level, float (U, 4, D) of length 1; None
        for an attributor that has no such alignment."""
        ...

    def end_epoch(self) -> None: ...

    def undecayed(self) -> set[str]: ...

    # of nn.Module
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...

    def buffers(self) -> Iterator[Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...

    def to(self, device: torch.device) -> Any: ...
