"""Agreement of label maps: confusion matrix, IoU per class, mean IoU, pixel accuracy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..orders import CLASSES, NUM_CLASSES, Labels

Counts = npt.NDArray[np.int64]  # (19, 19): rows true, columns predicted


def confusion(truth: Labels, predicted: Labels) -> Counts:
    """Pixel counts (19, 19); pixels whose true label is above 18 are left out."""
    keep = truth < NUM_CLASSES
    pairs = truth[keep].astype(np.int64) * NUM_CLASSES + predicted[keep]
    return np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def iou(counts: Counts) -> npt.NDArray[np.float64]:
    """(19,): intersection over union of each class; nan where a class is in neither map."""
    hits = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - hits
    ratio = np.full(NUM_CLASSES, np.nan)
    occurs = union > 0
    ratio[occurs] = hits[occurs] / union[occurs]
    return ratio


def summarize(counts: Counts) -> dict[str, float]:
    """{"miou", "accuracy", and each class name}: fractions in [0, 1]; miou over the classes that occur."""
    per_class = iou(counts)
    scores = {"miou": float(np.nanmean(per_class)), "accuracy": float(np.diag(counts).sum() / max(counts.sum(), 1))}
    return scores | {name: float(value) for name, value in zip(CLASSES, per_class, strict=True)}
