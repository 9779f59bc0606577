"""The training step that the description of the released code gives, written anew for benchmarks/train.py.

Per-image preprocessing on the CPU inside forward (Sobel, a GLCM a patch by scikit-image, SRM), every prompt encoded for
every sample with its padding, a U-Net whose output is thrown away (31 M parameters, on the patch), float32, default
memory layout, default Adam. Sizes and losses are those of our model, so that only the practices differ.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from skimage.feature import graycomatrix, graycoprops
from torch import Tensor, nn
from torch.nn.functional import conv2d

from bmrl.model.attributors.bmrl import Bmrl
from bmrl.model.layers.alignment import TextTargets
from bmrl.pipeline.views.edge import SCALE
from bmrl.pipeline.views.noise import DENOMINATORS, DIVISORS, KERNELS

PATCH = 112


class UNet(nn.Module):
    """Ronneberger's, 64 to 1024 channels."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        self.down = nn.ModuleList(_double(i, o) for i, o in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_double(2 * w, w) for w in reversed(widths[:-1]))
        self.out = nn.Conv2d(widths[0], 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else nn.functional.max_pool2d(x, 2))
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(kept[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.out(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in (inputs, outputs):
        layers += [nn.Conv2d(i, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def encode_every_prompt(language: Any, tokens: Tensor) -> list[TextTargets]:
    """One sequence of 308 tokens a sample."""
    _, groups = torch.unique(tokens.flatten(1), dim=0, return_inverse=True)
    return [TextTargets(rows=torch.arange(len(tokens)), features=language(tokens).float(), groups=groups)]


def preprocess(images: Tensor) -> dict[str, Tensor]:
    """uint8 (B, 3, 224, 224) -> the stored forms of edge and noise, image by image."""
    edges, noises = [], []
    kernels = torch.tensor(np.asarray(KERNELS), dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    for image in images:
        rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        gray = cv2.cvtColor(cv2.cvtColor(cv2.resize(rgb, (224, 224)), cv2.COLOR_RGB2BGR), cv2.COLOR_BGR2GRAY)
        dx, dy = cv2.Sobel(gray, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(gray, cv2.CV_64F, 0, 1, ksize=3)
        edges.append(torch.from_numpy(np.hypot(dx, dy) / 255.0 * SCALE).round().to(torch.int32).to(torch.uint16)[None])
        scores = {}
        for top in (0, PATCH):
            for left in (0, PATCH):
                patch = gray[top : top + PATCH, left : left + PATCH]
                matrix = graycomatrix(patch, [1], [0], levels=256, symmetric=True, normed=True)
                scores[top, left] = float(graycoprops(matrix, "homogeneity")[0, 0])
        top, left = min(scores, key=lambda place: scores[place])
        patch = image[None, :, top : top + PATCH, left : left + PATCH].float()
        residual = conv2d(patch, kernels / torch.tensor(DIVISORS).view(-1, 1, 1, 1) / 255.0, padding=2)[0].clamp(-3, 3)
        noises.append((residual * torch.tensor(DENOMINATORS).view(-1, 1, 1)).round().to(torch.int16))
    return {"edge": torch.stack(edges), "noise": torch.stack(noises)}


class ReferenceStep:
    """forward, backward and Adam of one batch."""

    def __init__(self, model: Bmrl) -> None:
        self.model, self.unet = model, UNet()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-3)

    def __call__(self, batch: dict[str, Any]) -> float:
        """The batch has its views already; whoever times the whole step calls `preprocess` before."""
        self.unet(batch["noise"].float() / 255.0)  # run in forward, its output discarded
        loss = torch.stack(list(self.model.losses(batch).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())
