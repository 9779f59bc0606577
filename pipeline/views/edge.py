"""The `edge` view: Sobel gradient magnitude of the gray image (BMRL's edge encoder reads it).

Gray is OpenCV's RGB2GRAY of the uint8 image, the kernel 3x3, the border reflected (OpenCV's default). Stored as uint16
fixed point, `SCALE` steps per unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from .codec import NPY, PNG
from .probe import probe_image
from .view import Computed, Params, Picture, Sample, View, gray_picture

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
SCALE = 14563  # steps per unit: 4.5 * SCALE fits uint16, rounding error 0.5 / SCALE = 3.4e-5


@dataclass(frozen=True, kw_only=True)
class EdgeParams:
    ksize: int = 3
    scale: int = SCALE


def gradient_squared(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """RGB uint8 (H, W, 3) -> dx^2 + dy^2 of the gray image, float32 (H, W): whole numbers below 2^24, exact."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    dx = cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=3)
    dx *= dx
    dy *= dy
    dx += dy
    return np.asarray(dx)


def sobel_magnitude(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """RGB uint8 (H, W, 3) -> sqrt(dx^2 + dy^2) / 255, float32 (H, W) in [0, 4.5]."""
    return (np.sqrt(gradient_squared(image), dtype=np.float64) / 255.0).astype(np.float32)


def compute_edge(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """RGB uint8 (H, W, 3) -> the stored column: sobel_magnitude * SCALE rounded to nearest, uint16 (H, W)."""
    magnitude = np.sqrt(gradient_squared(image), dtype=np.float64)
    magnitude *= SCALE / 255.0
    np.rint(magnitude, out=magnitude)
    return magnitude.astype(np.uint16)


def _array(params: Params) -> dict[str, Any]:
    return {"dtype": "uint16", "shape": [224, 224], "scale": SCALE, "unit": "Sobel magnitude in [0, 4.5]"}


def _compute(sample: Sample, params: EdgeParams) -> Computed:
    assert sample.image is not None
    return Computed(value=compute_edge(sample.image))


def _probe(params: EdgeParams) -> bytes:
    return compute_edge(probe_image()).tobytes()


def _arrange(stored: Tensor) -> Tensor:
    return stored[:, None]  # (B, H, W) -> (B, 1, H, W)


def _picture(stored: npt.NDArray[np.uint16]) -> Picture:
    return gray_picture(stored[0] / SCALE * 255.0 / 2.0)


VIEW = View(
    name="edge",
    version=VERSION,
    reads="image",
    params=EdgeParams,
    picture=_picture,
    compute=_compute,
    probe=_probe,
    array=_array,
    codecs={"raw": NPY, "png": PNG},
    arrange=_arrange,
)
