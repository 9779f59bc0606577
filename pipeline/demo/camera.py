"""One camera for every drawn face: lens blur, Bayer mosaic, shot and read noise, demosaic, tone curve, one reduction.

The noise is the heteroscedastic model of Foi et al. (2008), variance = a * signal + b on the mosaic.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ..views.image import resize

RGB = npt.NDArray[np.uint8]  # (H, W, 3)

IMAGE_SIZE = 224  # pixels a side of a sample, the size of the `image` view
WHITE = 65535  # full scale of the raw mosaic


@dataclass(frozen=True, kw_only=True)
class Camera:
    blur: float  # sigma of the lens, pixels at the drawing's size
    phase: int  # 0: the top left of the mosaic is red (RGGB), 1: blue (BGGR)
    edge_aware: bool  # demosaic along edges, else bilinear
    shot: float  # a: noise variance a unit of signal, full scale 1
    read: float  # b: noise variance in the dark
    contrast: float  # of the tone curve; 0 is the plain sRGB curve
    warmth: float  # gain of red, and inverse gain of blue


CAMERA = Camera(blur=0.8, phase=0, edge_aware=True, shot=4e-4, read=2e-5, contrast=0.12, warmth=1.0)
# For the look-alike control only: another lens, mosaic, demosaic, sensor and tone curve.
SECOND_CAMERA = Camera(blur=1.25, phase=1, edge_aware=False, shot=1.1e-3, read=6e-5, contrast=0.22, warmth=1.03)


def photograph(rgb: RGB, rng: np.random.Generator, camera: Camera = CAMERA, *, size: int = IMAGE_SIZE) -> RGB:
    """A drawing, uint8 (H, H, 3) sRGB -> uint8 (size, size, 3), reduced once by the image view's kernel."""
    linear = np.asarray(cv2.LUT(rgb, _to_linear()))  # float32, 0..1
    linear = np.asarray(cv2.GaussianBlur(linear, (0, 0), camera.blur))
    top, bottom = (2, 0) if camera.phase else (0, 2)
    mosaic = np.ascontiguousarray(linear[..., 1])
    mosaic[0::2, 0::2] = linear[0::2, 0::2, top]
    mosaic[1::2, 1::2] = linear[1::2, 1::2, bottom]
    noise = rng.standard_normal(mosaic.shape, dtype=np.float32)
    mosaic += noise * np.sqrt(camera.shot * mosaic + camera.read)
    raw = np.clip(mosaic * WHITE, 0, WHITE).astype(np.uint16)
    developed = np.asarray(cv2.cvtColor(raw, _DEMOSAIC[camera.phase, camera.edge_aware]))
    curves = _tone_curves(camera)
    toned = np.stack([curve[developed[..., channel] >> 4] for channel, curve in enumerate(curves)], axis=2)
    return resize(toned, size)


# OpenCV names a Bayer pattern by its second row's second and third pixel: RGGB is its BayerBG, BGGR its BayerRG.
_DEMOSAIC = {
    (0, True): cv2.COLOR_BayerBG2RGB_EA,
    (0, False): cv2.COLOR_BayerBG2RGB,
    (1, True): cv2.COLOR_BayerRG2RGB_EA,
    (1, False): cv2.COLOR_BayerRG2RGB,
}


@lru_cache(maxsize=1)
def _to_linear() -> npt.NDArray[np.float32]:
    """The inverse sRGB curve (IEC 61966-2-1) on 0..255 -> (256,)."""
    v = np.arange(256) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4).astype(np.float32)


@lru_cache(maxsize=4)
def _tone_curves(camera: Camera) -> tuple[npt.NDArray[np.uint8], ...]:
    """Per channel, 12-bit linear -> uint8: white balance, sRGB curve, S-shaped contrast."""
    curves = []
    for gain in (camera.warmth, 1.0, 1 / camera.warmth):
        v = np.clip((np.arange(4096) + 0.5) / 4096 * gain, 0, 1)
        v = np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)
        v = v + camera.contrast * (v * v * (3 - 2 * v) - v)
        curves.append(np.rint(255 * v).astype(np.uint8))
    return tuple(curves)
