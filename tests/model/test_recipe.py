"""The optimizer of preset `paper` against Adam as Kingma and Ba wrote it, with the decay in the gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from bmrl.model.resolve import resolve_config
from bmrl.model.training.optimizer import learning_rate, make_optimizer

EPOCH = 10  # steps


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, -2.0, 1.0]]))
        self.bias = nn.Parameter(torch.tensor([0.25, -0.5, 1.0]))
        self.spared: set[str] = set()

    def undecayed(self) -> set[str]:
        return self.spared


def plain_adam(start: list[float], gradients: list[list[float]], rates: list[float], decay: float) -> list[float]:
    """Algorithm 1; the L2 term is part of the gradient, so the moments see it (AdamW's would not)."""
    values, first, second = list(start), [0.0] * len(start), [0.0] * len(start)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for i, g in enumerate(gradient):
            g += decay * values[i]
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            values[i] -= rate * (first[i] / (1 - 0.9**t)) / (math.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
    return values


@pytest.mark.parametrize("spared", [set(), {"bias"}])
def test_papers_optimizer_is_adam_with_l2_and_steps(spared: set[str]) -> None:
    """Over the first drop of the rate; the last column has no gradient of its own and drifts to 0 by the decay alone."""
    config = resolve_config("bmrl", "paper", "strict").train
    model: Any = Weights()
    model.spared = spared
    start = {name: p.detach().flatten().tolist() for name, p in model.named_parameters()}
    _, optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(0)
    gradients: list[list[float]] = []
    rates = [1e-4] * 15 * EPOCH + [1e-5] * 2
    for step in range(15 * EPOCH + 2):
        gradients.append([*torch.randn(2, generator=generator).tolist(), 0.0])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, EPOCH)
        for parameter in model.parameters():
            parameter.grad = torch.tensor(gradients[-1]).view(parameter.shape)
        optimizer.step()
    for name, parameter in model.named_parameters():
        expected = plain_adam(start[name], gradients, rates, 0.0 if name in spared else 1e-3)
        assert parameter.detach().flatten().tolist() == pytest.approx(expected, abs=2e-6)
        drift = start[name][2] - float(parameter.detach().flatten()[2])
        assert drift == (0.0 if name in spared else pytest.approx(150e-4, rel=0.02)), "about lr a step"
