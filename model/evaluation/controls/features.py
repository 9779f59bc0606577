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

from ...traces import F32, TRACE_FEATURES

if TYPE_CHECKING:
    from ...inputs import Batch  # torch


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Features of some rows, one array (n, d) a feature."""

    labels: npt.NDArray[np.int64]  # -1: unseen
    generators: list[str]
    columns: dict[str, F32]


def thumbnail(rgb: npt.NDArray[np.uint8]) -> F32:
    """32x32 area means -> (3072,)."""
    return np.asarray(cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA), dtype=np.float32).ravel()


def blurred(rgb: npt.NDArray[np.uint8]) -> F32:
    """Gaussian of sigma 4, every 7th pixel (nothing is lost: it is below Nyquist) -> (3072,)."""
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 4.0)[3::7, 3::7], dtype=np.float32).ravel()


def color_means(rgb: npt.NDArray[np.uint8]) -> F32:
    return rgb.mean(axis=(0, 1)).astype(np.float32)


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
