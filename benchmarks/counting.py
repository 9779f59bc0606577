"""Parameters and multiply-accumulates of an attributor: the true ones, and those that the papers' counter reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SIDE = 224


@dataclass(frozen=True, kw_only=True)
class Count:
    """Of one image."""

    parameters: int
    macs: float


def true_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def true_macs(model: Any, batch: dict[str, Any], samples: int) -> float:
    """Of `embed` and `classify`, an image: matrix products, convolutions and attention, as torch counts them."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.classify(model.embed(batch))
    return counter.get_total_flops() / 2 / samples


def reported(modules: Iterable[nn.Module], run: Any, *, samples: int, conv_bias: bool) -> Count:
    """As the library `thop` counts: convolutions, linear layers, and 4 a number of a norm that has weights; neither attention
    products, embeddings, bare parameters, nor the projections of torch's own attention.

    conv_bias: the released convolutions have biases that a batch norm behind them undoes, and ours have none.
    """
    macs = parameters = 0.0

    def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal macs, parameters
        own = sum(parameter.numel() for parameter in module.parameters())
        if isinstance(module, nn.Conv2d):
            macs += out.numel() * module.weight[0].numel()
            own += module.out_channels if conv_bias and module.bias is None else 0
        elif isinstance(module, nn.Linear):
            macs += out.numel() * module.in_features
        else:
            macs += 4 * given[0].numel()
        parameters += own

    counted = [m for m in modules if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm)]
    handles = [module.register_forward_hook(hook) for module in counted]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return Count(parameters=int(parameters), macs=macs / samples)


def meta_batch(samples: int = 2, patch: int = 112) -> dict[str, Any]:
    """Every view, on the meta device."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "image": ((samples, 3, SIDE, SIDE), torch.uint8),
        "edge": ((samples, 1, SIDE, SIDE), torch.uint16),
        "noise": ((samples, 3, patch, patch), torch.int16),
        "parsing": ((samples, SIDE, SIDE), torch.uint8),
    }
    return {name: torch.empty(shape, dtype=kind, device="meta") for name, (shape, kind) in shapes.items()}
