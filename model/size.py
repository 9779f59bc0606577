"""How much memory an attributor takes, told on torch's meta device, where tensors have shapes and no memory.

Settings come from the command line and from files: what they add up to is held against what is free before it is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pipeline.store.memory import TooLargeError, check_memory, free_bytes, size_text
from .attributor import Attributor
from .config import TrainConfig
from .inputs import Batch

MOMENTS = 2  # of Adam, beside the gradient


@dataclass(frozen=True, kw_only=True)
class Size:
    """In bytes; activations are those of `embed` that a backward pass needs, a sample: what a training takes at least."""

    parameters: int  # their number
    weights: int  # parameters and buffers
    trained: int  # parameters with gradients
    activations: int

    def of_training(self, train: TrainConfig, samples: int) -> int:
        """Weights, gradients, the optimizer's moments, and the activations of one part of a batch; samples: of a batch here."""
        share = 2 if train.precision == "bfloat16" else 1
        return self.weights + (1 + MOMENTS) * self.trained + self.activations // share * (samples // train.accumulate)


def check_size(make: Callable[[], Attributor]) -> None:
    """Raises TooLargeError where the attributor that `make` makes does not fit into memory."""
    size = measure(make)
    check_memory(size.weights, f"an attributor of {size.parameters} parameters")


def measure(make: Callable[[], Attributor], batch: Batch | None = None) -> Size:
    """batch: two samples on the meta device, for the activations. Neither memory nor random numbers are used up."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            model = make()
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise TooLargeError(
                f"an attributor of these settings would take more than {size_text(2**63)} of memory, "
                f"{size_text(free_bytes())} are free"
            ) from None
        parameters = list(model.parameters())
        return Size(
            parameters=sum(p.numel() for p in parameters),
            weights=sum(map(_bytes, (*parameters, *model.buffers()))),
            trained=sum(_bytes(p) for p in parameters if p.requires_grad),
            activations=_activations(model, batch) if batch is not None and model.steps else 0,
        )


def _activations(model: nn.Module, batch: Batch) -> int:
    """A sample; 0 for an attributor whose `embed` asks for values, which nothing on this device has."""
    weights = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage()._cdata) not in weights:
            saved[place] = tensor  # held, so that no other takes its place
        return tensor

    assert isinstance(model, Attributor)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.embed(batch)
    except NotImplementedError:
        return 0
    except RuntimeError as error:  # of `item`, which asks for a value in a library's own code
        if "meta tensors" not in str(error):
            raise
        return 0
    return sum(map(_bytes, saved.values())) // 2


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
