"""The optimizer and its learning rates, both functions of the settings and the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..attributor import Attributor
from ..config import TrainConfig


def make_optimizer(model: Attributor, config: TrainConfig) -> tuple[list[str], torch.optim.Optimizer]:
    """Parameter names in the optimizer's order, and the optimizer; `undecayed` parameters get no weight decay."""
    spared = model.undecayed()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [(name, p) for name, p in named if name not in spared]
    free = [(name, p) for name, p in named if name in spared]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    groups = [
        {"params": [p for _, p in decayed], "weight_decay": config.weight_decay},
        {"params": [p for _, p in free], "weight_decay": 0.0},
    ]
    return [name for name, _ in (*decayed, *free)], kinds[config.optimizer](groups, lr=config.lr, fused=True)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of step 0, 1, ...: step (the paper's StepLR), cosine with one epoch of warm-up, or constant."""
    epoch = step // steps_per_epoch
    if config.schedule == "step":
        return config.lr * 0.1 ** (epoch // config.step_epochs)
    if config.schedule == "constant":
        return config.lr
    warm = min(steps_per_epoch, config.epochs * steps_per_epoch // 10 + 1)
    if step < warm:
        return config.lr * (step + 1) / warm
    share = (step - warm) / max(1, config.epochs * steps_per_epoch - warm)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * share))
