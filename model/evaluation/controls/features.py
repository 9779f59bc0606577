"""Features of the controls: what content and container alone show of an image, and the traces of a classical baseline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ...inputs import Batch  # torch

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Features of some rows, one array (n, d) a feature."""

    labels: npt.NDArray[np.int64]  # -1: unseen
    generators: list[str]
    columns: dict[str, F32]


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


def thumbnail(rgb: npt.NDArray[np.uint8]) -> F32:
    """32x32 area means -> (3072,)."""
    return np.asarray(cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA), dtype=np.float32).ravel()


def blurred(rgb: npt.NDArray[np.uint8]) -> F32:
    """Gaussian of sigma 4, every 7th pixel (nothing is lost: it is below Nyquist) -> (3072,)."""
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 4.0)[3::7, 3::7], dtype=np.float32).ravel()


def color_means(rgb: npt.NDArray[np.uint8]) -> F32:
    return rgb.mean(axis=(0, 1)).astype(np.float32)


def _luma(rgb: npt.NDArray[np.uint8]) -> F32:
    return np.asarray(rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32), dtype=np.float32)


TRACE_FEATURES = {"log-spectrum": log_spectrum, "SRM co-occurrences": srm_cooccurrences}
LEAK_CLASSIFIERS = ("nearest centre", "logistic", "1-NN")  # of content features
COARSE_FEATURES = {"32x32 thumbnail": thumbnail, "colour means": color_means}  # the cheapest, which see no trace at all
CONTENT_FEATURES = {"32x32 thumbnail": thumbnail, "blurred, sigma 4": blurred, "colour means": color_means}
ALL_FEATURES = TRACE_FEATURES | CONTENT_FEATURES


def extract(
    batches: Iterable[Batch],
    containers: Mapping[str, tuple[float, ...]] | None,
    features: Mapping[str, Callable[[npt.NDArray[np.uint8]], F32]] = ALL_FEATURES,
) -> Rows:
    """Features of every row. containers: key -> native width, height, format number, JPEG quality (source_* of the index);
    None: they are left out."""
    labels: list[int] = []
    generators: list[str] = []
    columns: dict[str, list[F32]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in batches:
            images = np.ascontiguousarray(batch["image"].permute(0, 2, 3, 1).numpy())  # (B, 3, H, W) -> (B, H, W, 3)
            labels += batch["label"].tolist()
            generators += batch["generator"]
            for i, found in enumerate(pool.map(partial(_image_features, features), images)):
                if "parsing" in batch:
                    found["label-map areas"] = _areas(batch["parsing"][i].numpy())
                if containers is not None:
                    found["native size and format"] = np.array(containers[batch["key"][i]], dtype=np.float32)
                for name, values in found.items():
                    columns.setdefault(name, []).append(values)
    return Rows(
        labels=np.array(labels, dtype=np.int64),
        generators=generators,
        columns={name: np.stack(values) for name, values in columns.items()},
    )


def _image_features(
    features: Mapping[str, Callable[[npt.NDArray[np.uint8]], F32]], rgb: npt.NDArray[np.uint8]
) -> dict[str, F32]:
    return {name: make(rgb) for name, make in features.items()}


def _areas(labels: npt.NDArray[np.uint8]) -> F32:
    return (np.bincount(labels.ravel(), minlength=19) / labels.size).astype(np.float32)
