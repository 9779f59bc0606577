"""Augmentation for parser training: geometry for image and labels together, then damage to the image alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ..orders import Labels, flip

RGB = npt.NDArray[np.uint8]  # (H, W, 3)
IGNORE = 255  # label of pixels that come from outside the photograph


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges are uniform, probabilities a picture. The parser sees 512-pixel crops and 224-pixel images enlarged."""

    zoom: tuple[float, float] = (0.7, 1.45)  # photograph's side over the frame's, log-uniform
    rotation_deg: float = 18.0  # standard deviation of a normal, cut at two
    shift: float = 0.08  # of the frame's side, besides what the zoom leaves free
    flip: float = 0.5
    color: float = 0.8
    gray: float = 0.04
    low_resolution: float = 0.4  # down to 64..224 pixels a side and up again
    blur: float = 0.15
    noise: float = 0.15
    jpeg: float = 0.5  # quality 25..95

    def apply(self, rgb: RGB, labels: Labels, *, size: int, rng: np.random.Generator) -> tuple[RGB, Labels]:
        """(S, S, 3) and (S, S) uint8 -> (size, size, 3) and (size, size) uint8, labels with IGNORE outside."""
        if rng.random() < self.flip:
            rgb, labels = np.ascontiguousarray(rgb[:, ::-1]), flip(labels)
        rgb, labels = self._warp(rgb, labels, size=size, rng=rng)
        return self._damage(rgb, rng), labels

    def _warp(self, rgb: RGB, labels: Labels, *, size: int, rng: np.random.Generator) -> tuple[RGB, Labels]:
        zoom = math.exp(rng.uniform(math.log(self.zoom[0]), math.log(self.zoom[1])))
        angle = float(np.clip(rng.normal(0.0, self.rotation_deg / 2), -self.rotation_deg, self.rotation_deg))
        free = abs(zoom - 1.0) / 2 + self.shift
        shift = rng.uniform(-free, free, 2) * size
        # Shrink with an area mean first (no aliasing), then rotate at unit scale.
        side = min(rgb.shape[0], max(8, round(size * zoom)))
        small = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
        image_matrix = _similarity(side, size, scale=size * zoom / side, angle=angle, shift=shift)
        label_matrix = _similarity(labels.shape[0], size, scale=size * zoom / labels.shape[0], angle=angle, shift=shift)
        out = cv2.warpAffine(
            small, image_matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        out_labels = cv2.warpAffine(
            labels,
            label_matrix,
            (size, size),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(IGNORE,),
        )
        return np.asarray(out, dtype=np.uint8), np.asarray(out_labels, dtype=np.uint8)

    def _damage(self, rgb: RGB, rng: np.random.Generator) -> RGB:
        if rng.random() < self.color:
            rgb = _recolor(rgb, rng)
        if rng.random() < self.gray:
            rgb = np.repeat(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[..., None], 3, axis=2)
        if rng.random() < self.low_resolution:
            side = int(rng.integers(64, 225))
            up = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[rng.choice(3, p=(0.7, 0.2, 0.1))]
            small = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
            rgb = np.asarray(cv2.resize(small, (rgb.shape[1], rgb.shape[0]), interpolation=up), dtype=np.uint8)
        if rng.random() < self.blur:
            rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), float(rng.uniform(0.4, 2.0))), dtype=np.uint8)
        if rng.random() < self.noise:
            noise = rng.standard_normal(rgb.shape, dtype=np.float32) * float(rng.uniform(2, 14))
            rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
        if rng.random() < self.jpeg:
            quality = int(rng.integers(25, 96))
            data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            rgb = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1])
        return rgb


def _similarity(
    side: int, size: int, *, scale: float, angle: float, shift: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """2x3 matrix from a (side, side) picture's pixels to a (size, size) frame's, centre to centre plus shift."""
    center = (side - 1) / 2
    matrix = np.asarray(cv2.getRotationMatrix2D((center, center), angle, scale), dtype=np.float64)
    matrix[:, 2] += (size - 1) / 2 - center + shift
    return matrix


def _recolor(rgb: RGB, rng: np.random.Generator) -> RGB:
    """Brightness, contrast, saturation, white balance and gamma in one table a channel after a 3x3 mix."""
    saturation = rng.uniform(0.5, 1.5)
    gray = np.array([0.299, 0.587, 0.114])
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(gray, (3, 1))
    mix *= rng.uniform(0.88, 1.12, (3, 1)) * rng.uniform(0.65, 1.35)
    offset = rng.uniform(-25, 25)
    out = cv2.transform(rgb, np.hstack([mix, np.full((3, 1), offset)]))
    gamma = rng.uniform(0.7, 1.4)
    table = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    return np.asarray(cv2.LUT(out, table), dtype=np.uint8)
