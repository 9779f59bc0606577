"""The 170 image transformations that DNA-Det learns to tell apart before it sees a generator (2202.07912, IV-A).

24 JPEG qualities, 24 pairs of them, 14 Gaussian and 14 median windows, 20 scales by 4 kernels, 14 strengths of noise. The
counts are the paper's; the values, which its text does not list, are ours.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

U8 = npt.NDArray[np.uint8]
QUALITIES = tuple(range(30, 100, 3))  # 24
WINDOWS = tuple(range(3, 30, 2))  # 14, pixels a side
SCALES = tuple(np.linspace(0.3, 1.9, 21).round(3).tolist()[:8] + np.linspace(0.3, 1.9, 21).round(3).tolist()[9:])  # 20
KERNELS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC)
DEVIATIONS = tuple(range(1, 15))  # 14, gray levels


def _jpeg(image: U8, quality: int) -> U8:
    _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)


def _twice(image: U8, quality: int) -> U8:
    """First at a quality that is far from the second."""
    return _jpeg(_jpeg(image, QUALITIES[(QUALITIES.index(quality) + len(QUALITIES) // 2) % len(QUALITIES)]), quality)


def _gaussian(image: U8, window: int) -> U8:
    return np.asarray(cv2.GaussianBlur(image, (window, window), 0), dtype=np.uint8)


def _median(image: U8, window: int) -> U8:
    return np.asarray(cv2.medianBlur(image, window), dtype=np.uint8)


def _resized(image: U8, scale: float, kernel: int) -> U8:
    """There and back, so that the size stays."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=kernel)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _noisy(image: U8, deviation: int, seed: int) -> U8:
    noise = np.random.default_rng(seed).normal(0.0, deviation, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


TRANSFORMS: tuple[Callable[[U8], U8], ...] = (
    *(partial(_jpeg, quality=quality) for quality in QUALITIES),
    *(partial(_twice, quality=quality) for quality in QUALITIES),
    *(partial(_gaussian, window=window) for window in WINDOWS),
    *(partial(_median, window=window) for window in WINDOWS),
    *(partial(_resized, scale=scale, kernel=kernel) for scale in SCALES for kernel in KERNELS),
)
NUM_TRANSFORMS = len(TRANSFORMS) + len(DEVIATIONS)  # noise has a seed beside


def transformed(images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (B, 3, H, W) -> each by a transformation drawn from torch's generator, and its number, int64 (B,)."""
    chosen = torch.randint(NUM_TRANSFORMS, (len(images),))
    seeds = torch.randint(2**31, (len(images),)).tolist()
    arrays = np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())  # (B, 3, H, W) -> (B, H, W, 3)
    done = [
        TRANSFORMS[k](image) if k < len(TRANSFORMS) else _noisy(image, DEVIATIONS[k - len(TRANSFORMS)], seed)
        for image, k, seed in zip(arrays, chosen.tolist(), seeds, strict=True)
    ]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2).to(images.device), chosen.to(images.device)
