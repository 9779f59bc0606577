"""Augmentations of float images on their device, drawn from torch's generator, which the trainer seeds by step.

What CViT's released trainer does with an image library, as far as it is a function of tensors: quarter turns, transposition,
flips, noise, a shift of colours, sharpening and embossing. Contrast-limited histogram equalisation is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

SHARPEN = ((0.0, -0.5, 0.0), (-0.5, 3.0, -0.5), (0.0, -0.5, 0.0))
EMBOSS = ((-0.5, -0.5, 0.0), (-0.5, 1.0, 0.5), (0.0, 0.5, 0.5))
NOISE = 0.02  # standard deviation, of images in [0, 1]
SHIFT = 0.08  # of a colour, at most


def strong(images: Tensor, share: float = 0.9) -> Tensor:
    """float (B, 3, S, S) in [0, 1] -> the same, `share` of the images changed, each by every step with probability 1/2."""
    count, device = len(images), images.device
    changed = torch.rand(count, device=device) < share

    def chosen() -> Tensor:
        return (changed & (torch.rand(count, device=device) < 0.5))[:, None, None, None]

    out = images
    out = torch.where(chosen(), out.rot90(1, (2, 3)), out)
    out = torch.where(chosen(), out.transpose(2, 3), out)
    out = torch.where(chosen(), out.flip(2), out)
    out = torch.where(chosen(), out.flip(3), out)
    out = torch.where(chosen(), out + NOISE * torch.randn_like(out), out)
    out = torch.where(chosen(), out + SHIFT * (2 * torch.rand(count, 3, 1, 1, device=device) - 1), out)
    for kernel in (SHARPEN, EMBOSS):
        out = torch.where(chosen(), _filtered(out, kernel), out)
    return out.clamp(0.0, 1.0)


def _filtered(images: Tensor, kernel: tuple[tuple[float, ...], ...]) -> Tensor:
    weight = torch.tensor(kernel, device=images.device)[None, None].expand(3, 1, 3, 3)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    return conv2d(padded, weight, groups=3)
