"""The `noise` view: SRM residual of the richest patch (MFCLIP's patch selector and noise branch, taken over by BMRL).

The richest of the non-overlapping patches is the one of lowest GLCM homogeneity (ties: first in row-major order); its
residual under three SRM kernels, each summed over RGB, is stored as exact int16 numerators.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .codec import NPY
from .probe import probe_image
from .view import PICTURE_SIDE, Computed, Params, Picture, Sample, View

VERSION = 1
IMAGE_SIDE = 224  # pixels of the image view that the patches are taken from
SCORE_BYTES = 30  # of one patch's score in sidecar and index, roughly, for the estimate

# Fridrich & Kodovsky 2012 (SRM), the three of Zhou et al. 2018; divisors 4, 12 and 2 stand apart to keep integers.
KERNELS = np.zeros((3, 5, 5), dtype=np.int64)
KERNELS[0, 1:4, 1:4] = [[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]
KERNELS[1] = [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
KERNELS[2, 2, 1:4] = [1, -2, 1]
DIVISORS = (4, 12, 2)
DENOMINATORS = np.array([255 * d for d in DIVISORS], dtype=np.int64)  # residual = numerator / denominator
_FLOAT_KERNELS = KERNELS.astype(np.float32)
_SUM = np.ones((1, 3), dtype=np.float32)  # R + G + B
CLIP = 3  # Hardtanh(-3, 3): numerators are at most 3 * 12 * 255 = 9,180

# 1 / (1 + d^2) for a gray difference d, the weight of a co-occurrence in the homogeneity (Haralick 1973), rounded to
# 2^-60 and split in two: an image's counts (at most 2^26) times either half fit int64, so sums are exact everywhere.
_WEIGHT_ONE = 2**60
WEIGHT_HALVES = np.array([divmod(round(Fraction(_WEIGHT_ONE, 1 + d * d)), 2**32) for d in range(256)], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class NoiseParams:
    patch_size: int = 112  # p in the paper
    clip: int = CLIP


@dataclass(frozen=True, kw_only=True)
class NoisePatch:
    numerators: npt.NDArray[np.int16]  # (3, p, p)
    row: int  # of the patch, in patches
    col: int
    scores: npt.NDArray[np.float64]  # homogeneity of every patch, row-major


def glcm_gray(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """RGB uint8 (H, W, 3) -> trunc(255 * (0.2989 R + 0.587 G + 0.114 B)) in float32 on RGB / 255, uint8 (H, W).

    Not OpenCV's gray: the choice of the patch differs (methods sheet, D17).
    """
    near = cv2.transform(image.astype(np.float32), _GRAY)
    near -= _DOUBT
    gray: npt.NDArray[np.uint8] = near.astype(np.uint8)
    near += 2 * _DOUBT
    # Where the steps of float32 rounding may decide (one pixel in a thousand), they are followed to the letter.
    doubtful = np.flatnonzero(cv2.absdiff(near.astype(np.uint8), gray).reshape(-1).view(np.bool_))
    red, green, blue = image.reshape(-1, 3)[doubtful].T
    exact = GRAY_TERMS[0][red] + GRAY_TERMS[1][green] + GRAY_TERMS[2][blue]
    gray.reshape(-1)[doubtful] = (exact * np.float32(255)).astype(np.uint8)
    return gray


def patch_homogeneity(image: npt.NDArray[np.uint8], patch_size: int = 112) -> npt.NDArray[np.float64]:
    """GLCM homogeneity (distance 1, angle 0, symmetric, 256 levels) of each patch, float64 (n,), row-major, in (0, 1].

    Equals the mean of 1 / (1 + dx^2) over horizontal neighbours, so no co-occurrence matrix is built. The differences
    are counted and the weighted counts summed exactly, so every machine finds the same number.
    """
    height, width = image.shape[:2]
    if patch_size < 2 or height < patch_size or width < patch_size:
        raise ValueError(f"patch_size {patch_size} does not fit an image of {width}x{height} pixels")
    gray = glcm_gray(image)
    difference = cv2.absdiff(gray[:, 1:], gray[:, :-1])
    counts = np.stack(
        [
            cv2.calcHist([difference[top : top + patch_size, left : left + patch_size - 1]], [0], None, [256], [0, 256])
            for top in range(0, height - patch_size + 1, patch_size)
            for left in range(0, width - patch_size + 1, patch_size)
        ]
    ).reshape(-1, 256)  # (n, 256): OpenCV 4 gives columns, 5 vectors; whole numbers in float32, exact below 2^24
    pairs = patch_size * (patch_size - 1) * _WEIGHT_ONE
    sums = (counts.astype(np.int64) @ WEIGHT_HALVES).tolist()
    return np.array([(high * 2**32 + low) / pairs for high, low in sums], dtype=np.float64)


def srm_numerators(patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """RGB uint8 (p, p, 3) -> clipped integer residuals (3, p, p); divide by DENOMINATORS for the residual on patch/255.

    Channel k is kernel k applied to R + G + B (each SRM kernel is replicated over RGB and summed), zero padding 2.
    """
    total = cv2.transform(patch.astype(np.float32), _SUM)  # <= 765; every product below is an exact float32
    border = cv2.BORDER_CONSTANT | cv2.BORDER_ISOLATED
    out = np.empty((3, *total.shape), dtype=np.int16)
    for k in range(3):
        residual = cv2.filter2D(total, cv2.CV_32F, _FLOAT_KERNELS[k], borderType=border)
        limit = float(CLIP * DENOMINATORS[k])
        out[k] = np.clip(residual, -limit, limit, out=residual)
    return out


def srm_residual(patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """RGB uint8 (p, p, 3) -> SRM residual on patch / 255, float32 (3, p, p), zero padding 2, clipped to [-3, 3]."""
    return (srm_numerators(patch) / DENOMINATORS[:, None, None].astype(np.float64)).astype(np.float32)


def compute_noise(image: npt.NDArray[np.uint8], params: NoiseParams | None = None) -> NoisePatch:
    """RGB uint8 (H, W, 3) -> the richest patch's numerators with its place and all scores."""
    size = (params or NoiseParams()).patch_size
    scores = patch_homogeneity(image, size)
    row, col = divmod(int(np.argmin(scores)), image.shape[1] // size)  # argmin: the first of equal scores
    patch = image[row * size : (row + 1) * size, col * size : (col + 1) * size]
    return NoisePatch(numerators=srm_numerators(patch), row=row, col=col, scores=scores)


def _gray_terms() -> list[npt.NDArray[np.float32]]:
    # float32 weight times float32 (value / 255): a table gives the same bits as the formula, 256 values a channel.
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    return [np.float32(weight) * values for weight in (0.2989, 0.587, 0.114)]


GRAY_TERMS = _gray_terms()
_GRAY = np.array([[0.2989, 0.587, 0.114]], dtype=np.float32)
# Over the error of either way, and under the 1e-4 from a whole number to the next gray value.
_DOUBT = np.float32(7.5e-5)


def _array(params: Params) -> dict[str, Any]:
    size = params["patch_size"]
    unit = "SRM residual of patch/255 in [-3, 3], one scale a channel"
    return {"dtype": "int16", "shape": [3, size, size], "scale": DENOMINATORS.tolist(), "unit": unit}


def _compute(sample: Sample, params: NoiseParams) -> Computed:
    assert sample.image is not None
    found = compute_noise(sample.image, params)
    facts = {"patch_row": found.row, "patch_col": found.col, "patch_scores": found.scores.tolist()}
    return Computed(value=found.numerators, facts=facts)


def _probe(params: NoiseParams) -> bytes:
    found = compute_noise(probe_image(), params)
    return np.concatenate([found.numerators.ravel().astype(np.float64), found.scores]).tobytes()


def _extra_bytes(params: Params) -> int:
    """At small patches their scores are most of a sample."""
    return SCORE_BYTES * (IMAGE_SIDE // int(params["patch_size"])) ** 2


def _picture(numerators: npt.NDArray[np.int16]) -> Picture:
    """The three residuals as RGB around mid gray, (p, p) enlarged to the side of a picture by repeating pixels."""
    scale = DENOMINATORS.astype(np.float64)[:, None, None]
    shown = np.clip(127.5 + 127.5 * 8.0 * numerators / scale, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    nearest = np.arange(PICTURE_SIDE) * len(shown) // PICTURE_SIDE
    return np.ascontiguousarray(shown[nearest][:, nearest])


VIEW = View(
    name="noise",
    version=VERSION,
    reads="image",
    params=NoiseParams,
    picture=_picture,
    compute=_compute,
    probe=_probe,
    array=_array,
    codecs={"raw": NPY, "png": NPY},
    facts={"patch_row": "int16", "patch_col": "int16", "patch_scores": "float64 list"},
    extra_bytes=_extra_bytes,
    options={"patch_size": "patch_size"},
)
