"""Classical features of the traces that a generator leaves in an image: what controls and probes are made of.

NumPy alone, so that an evaluation without torch has them too.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def log_spectrum(rgb: npt.NDArray[np.uint8]) -> F32:
    """Log power of the high-passed luma, averaged over half-overlapping 64x64 Hann windows -> (64 * 33,)."""
    luma = _luma(rgb)
    high = luma - cv2.GaussianBlur(luma, (0, 0), 1.0)
    window = np.outer(np.hanning(64), np.hanning(64)).astype(np.float32)
    tiles = np.stack([high[r : r + 64, c : c + 64] * window for r in range(0, 161, 32) for c in range(0, 161, 32)])
    power = np.mean(np.abs(np.fft.rfft2(tiles)) ** 2, axis=0)
    return np.log(power + 1e-3).astype(np.float32).ravel()


def srm_cooccurrences(rgb: npt.NDArray[np.uint8]) -> F32:
    """Co-occurrences of three neighbouring SRM residuals (Fridrich & Kodovsky 2012), quantised to -2..2 -> (1000,).

    First and second order along both axes, the 3x3 and 5x5 square kernels; roots of the frequencies.
    """
    luma = _luma(rgb)
    square3 = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]], dtype=np.float32) / 4
    square5 = (
        np.array(
            [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]],
            dtype=np.float32,
        )
        / 12
    )
    first = np.array([[0, -1, 1]], dtype=np.float32)
    second = np.array([[1, -2, 1]], dtype=np.float32) / 2
    counts = []
    for kernel in (first, first.T, second, second.T, square3, square5):
        residual = cv2.filter2D(luma, -1, kernel)[3:-3, 3:-3]
        levels = np.clip(np.rint(residual / 1.5), -2, 2).astype(np.int64) + 2
        along = 25 * levels[:, :-2] + 5 * levels[:, 1:-1] + levels[:, 2:]
        across = 25 * levels[:-2] + 5 * levels[1:-1] + levels[2:]
        pairs = (along,) if kernel.shape[0] == 1 else (across,) if kernel.shape[1] == 1 else (along, across)
        counts += [np.bincount(codes.ravel(), minlength=125) / codes.size for codes in pairs]
    return np.sqrt(np.concatenate(counts)).astype(np.float32)


def _luma(rgb: npt.NDArray[np.uint8]) -> F32:
    return np.asarray(rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32), dtype=np.float32)


TRACE_FEATURES: dict[str, Callable[[npt.NDArray[np.uint8]], F32]] = {
    "log-spectrum": log_spectrum,
    "SRM co-occurrences": srm_cooccurrences,
}
TRACE_SIZES = {"log-spectrum": 64 * 33, "SRM co-occurrences": 1000}  # numbers of each
