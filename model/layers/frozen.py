"""Features that nothing is trained of: classical co-occurrences, or a standard backbone as it was published.

Legend: B batch, D feature dimension.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from ..traces import TRACE_FEATURES, TRACE_SIZES
from .backbones import Backbone, make_backbone

SRM = "SRM co-occurrences"
BACKBONES = {"clip": "clip-vit-b32", "dinov2": "dinov2-b14"}
FEATURES = ("srm", *BACKBONES)


class Frozen(nn.Module):
    """uint8 images (B, 3, 224, 224) -> float (B, D), without gradients."""

    def __init__(self, features: str, *, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        self.backbone: Backbone | None = None
        self.dim = TRACE_SIZES[SRM]
        if features in BACKBONES:
            self.backbone = make_backbone(BACKBONES[features], width=width, depth=depth).requires_grad_(False)
            self.dim = self.backbone.dim

    def train(self, mode: bool = True) -> Frozen:
        """Always as in an evaluation."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if self.backbone is None:
            return trace_features(images, SRM)
        return self.backbone(images.float() / 255.0).float()


def trace_features(images: Tensor, feature: str) -> Tensor:
    """uint8 (B, 3, H, W) -> one of TRACE_FEATURES, float32 (B, D), computed on the CPU, an image a thread."""
    if images.is_meta:
        return torch.empty(len(images), TRACE_SIZES[feature], device="meta")
    arrays = np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())  # (B, 3, H, W) -> (B, H, W, 3)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.from_numpy(np.stack(list(pool.map(TRACE_FEATURES[feature], arrays)))).to(images.device)
