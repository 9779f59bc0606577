"""From a loader's batch of stored integers to the float tensors the encoders read, on the model's device.

The scales are those of the stored columns (dataset.json, views.*.scale).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pipeline.views import VIEWS
from ..pipeline.views.edge import SCALE as EDGE_SCALE
from ..pipeline.views.noise import DENOMINATORS
from ..pipeline.views.parsing import PALETTE

Batch = dict[str, Any]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors of a batch on `device`; lists stay."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def image_input(batch: Batch) -> Tensor:
    """uint8 (B, 3, 224, 224) RGB -> float32 in [0, 1]; the paper divides by 255 and nothing else."""
    return batch["image"].float() / 255.0


def edge_input(batch: Batch) -> Tensor:
    """uint16 (B, 1, 224, 224) -> float32 Sobel magnitude in [0, 4.5]."""
    return batch["edge"].float() / EDGE_SCALE


def noise_input(batch: Batch) -> Tensor:
    """int16 numerators (B, 3, p, p) -> float32 SRM residual of patch / 255 in [-3, 3]."""
    noise = batch["noise"]
    return noise.float() / torch.tensor(DENOMINATORS, dtype=torch.float32, device=noise.device)[:, None, None]


def parsing_input(batch: Batch) -> Tensor:
    """uint8 labels (B, 224, 224) -> float32 palette colours / 255, (B, 3, 224, 224): the map alone, no photograph (D20)."""
    parsing = batch["parsing"]
    palette = torch.tensor(PALETTE.tolist(), dtype=torch.float32, device=parsing.device) / 255.0
    return palette[parsing.long()].permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)


def flip(batch: Batch, chosen: Tensor) -> Batch:
    """Mirror the samples where `chosen` (bool (B,)) is true, all views alike, each by its own rule (left and right parsing
    classes change places).

    The SRM kernels are symmetric, so the mirrored residual is the residual of the mirrored patch (borders included).
    """
    flipped = dict(batch)
    for name, view in VIEWS.items():
        if name in batch and view.mirror is not None:
            flipped[name] = _where(chosen, view.mirror(batch[name]), batch[name])
    return flipped


def _where(chosen: Tensor, mirrored: Tensor, stored: Tensor) -> Tensor:
    kind = stored.dtype
    if kind == torch.uint16:  # torch chooses among no uint16
        mirrored, stored = mirrored.view(torch.int16), stored.view(torch.int16)
    return torch.where(chosen.view([-1] + [1] * (stored.ndim - 1)), mirrored, stored).view(kind)


INPUTS = {"image": image_input, "edge": edge_input, "noise": noise_input, "parsing": parsing_input}
