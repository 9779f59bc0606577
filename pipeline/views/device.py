"""`edge` and `noise` as torch functions of the uint8 image batch, on its device: equal to the stored columns bit for bit.

For augmentation and corruption, which change the image after it was stored. Integer sums, tables computed by NumPy and
single rounded float64 steps only: no convolution or scalar division, whose last bits depend on the device.
Not for torch.compile, which may fuse a multiplication and an addition into one rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from .edge import SCALE
from .noise import CLIP, DENOMINATORS, GRAY_TERMS, KERNELS, WEIGHT_HALVES, NoiseParams

# OpenCV's RGB2GRAY of uint8: weights in 2^-15, rounded to nearest.
_OPENCV_GRAY = (9798, 19235, 3735)
_WEIGHT_BITS = 60  # an entry of WEIGHT_HALVES is (high, low) of a weight in 2^-60, high * 2^32 + low


@dataclass(frozen=True, kw_only=True)
class DeviceNoise:
    numerators: Tensor  # int16 (B, 3, p, p)
    patch: Tensor  # int64 (B,), row-major number of the richest patch
    scores: Tensor  # float64 (B, n), homogeneity of every patch, row-major


def device_edge(image: Tensor) -> Tensor:
    """RGB uint8 (B, 3, H, W) -> the `edge` column, uint16 (B, 1, H, W)."""
    red, green, blue = image.to(torch.int32).unbind(1)
    weighted = red * _OPENCV_GRAY[0] + green * _OPENCV_GRAY[1] + blue * _OPENCV_GRAY[2]
    gray = (weighted + (1 << 14)) >> 15  # (B, H, W)
    gray = _reflected(_reflected(gray, 1), 2)  # (B, H + 2, W + 2)
    rows = gray[:, :-2] + 2 * gray[:, 1:-1] + gray[:, 2:]
    columns = gray[:, :, :-2] + 2 * gray[:, :, 1:-1] + gray[:, :, 2:]
    dx = rows[:, :, 2:] - rows[:, :, :-2]
    dy = columns[:, 2:] - columns[:, :-2]
    magnitude = torch.sqrt((dx * dx + dy * dy).double())
    stored = torch.round(magnitude * (SCALE / 255.0)).to(torch.int32)  # float to uint16 is undefined on some devices
    return stored.to(torch.uint16)[:, None]


def device_patch_scores(image: Tensor, patch_size: int = NoiseParams().patch_size) -> Tensor:
    """RGB uint8 (B, 3, H, W) -> homogeneity of each patch, float64 (B, n), as `patch_homogeneity` rounds it.

    Raises ValueError where no patch fits.
    """
    height, width = image.shape[2:]
    if patch_size < 2 or height < patch_size or width < patch_size:
        raise ValueError(f"patch_size {patch_size} does not fit an image of {width}x{height} pixels")
    terms = [_look_up(torch.from_numpy(table), plane) for table, plane in zip(GRAY_TERMS, image.unbind(1), strict=True)]
    gray = ((terms[0] + terms[1] + terms[2]) * 255).to(torch.int32)  # truncates, (B, H, W)
    gray = _patches(gray[:, None], patch_size)[..., 0, :, :]  # (B, rows, cols, p, p)
    step = (gray[..., 1:] - gray[..., :-1]).abs()
    high, low = (
        _look_up(torch.from_numpy(half.copy()), step).sum(dim=(3, 4)).flatten(1) for half in WEIGHT_HALVES.T
    )  # (B, n) each
    return _rounded_quotient(high, low, patch_size * (patch_size - 1))


def device_noise(
    image: Tensor, patch_size: int = NoiseParams().patch_size, chosen: Tensor | None = None
) -> DeviceNoise:
    """RGB uint8 (B, 3, H, W) -> the `noise` column with the choice behind it; ties go to the first patch.

    chosen: int64 (B,), row-major numbers of patches to take in place of the richest ones.
    """
    scores = device_patch_scores(image, patch_size)
    if chosen is None:
        chosen = scores.argmin(dim=1)  # the first of equal scores
    columns = image.shape[3] // patch_size
    samples = torch.arange(len(image), device=image.device)
    patches = _patches(image, patch_size)  # (B, rows, cols, 3, p, p)
    richest = patches[samples, chosen // columns, chosen % columns]  # (B, 3, p, p)
    return DeviceNoise(numerators=_residual(richest), patch=chosen, scores=scores)


def _residual(patch: Tensor) -> Tensor:
    """uint8 (B, 3, p, p) -> clipped SRM numerators, int16 (B, 3, p, p): three kernels on R + G + B, zero padding 2."""
    size = patch.shape[-1]
    total = pad(patch.sum(dim=1, dtype=torch.int32), (2, 2, 2, 2))  # (B, p + 4, p + 4)
    out = torch.empty(patch.shape, dtype=torch.int16, device=patch.device)
    for k, kernel in enumerate(KERNELS.tolist()):
        residual = torch.zeros(len(patch), size, size, dtype=torch.int32, device=patch.device)
        for i, row in enumerate(kernel):
            for j, weight in enumerate(row):
                if weight:
                    residual.add_(total[:, i : i + size, j : j + size], alpha=weight)
        limit = CLIP * int(DENOMINATORS[k])
        out[:, k] = residual.clamp_(-limit, limit)
    return out


def _rounded_quotient(high: Tensor, low: Tensor, pairs: int) -> Tensor:
    """(high * 2^32 + low) / (pairs * 2^60) correctly rounded to float64, as Python divides integers; high, low int64.

    Long division to an integer of at least 55 bits whose last bit says whether anything is left (rounding to odd);
    its conversion to float64 is then the only rounding. A quotient here is at least 2^44: 1 / (1 + 255^2) in 2^-60.
    """
    high, low = high + (low >> 32), low & (2**32 - 1)
    quotient, rest = _divided(((high % pairs) << 32) + low, pairs)
    quotient = quotient + (torch.div(high, pairs, rounding_mode="floor") << 32)
    small = quotient < 2**52
    bits = torch.where(small, 11, 2)  # further bits, so that 2^54 <= quotient < 2^63
    more, rest = _divided(rest << bits, pairs)
    quotient = ((quotient << bits) + more) | (rest != 0)
    return quotient.double() * torch.where(small, 2.0 ** -(_WEIGHT_BITS + 11), 2.0 ** -(_WEIGHT_BITS + 2)).double()


def _divided(value: Tensor, by: int) -> tuple[Tensor, Tensor]:
    return torch.div(value, by, rounding_mode="floor"), value % by


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    return table.to(index.device)[index.long()]


def _patches(image: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> its non-overlapping patches (B, H // size, W // size, C, size, size)."""
    rows, columns = image.shape[2] // size, image.shape[3] // size
    cut = image[:, :, : rows * size, : columns * size]
    return cut.reshape(*image.shape[:2], rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)


def _reflected(plane: Tensor, dim: int) -> Tensor:
    """One line more on both sides of `dim`, mirrored about the outermost (gfe|efgh: OpenCV's default border)."""
    first, last = plane.narrow(dim, 1, 1), plane.narrow(dim, plane.shape[dim] - 2, 1)
    return torch.cat([first, plane, last], dim=dim)
