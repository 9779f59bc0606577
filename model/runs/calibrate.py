"""The end of a training: what its seen validation rows say of the best weights, written as calibration.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...pipeline.shardset import ShardSet
from ...pipeline.store.local import write_readable_json
from ..attributor import Attributor
from ..errors import RunError
from ..evaluation.calibration import fit_temperature, threshold_for_acceptance
from ..evaluation.case import Track, untracked
from ..evaluation.controls.features import COARSE_FEATURES, extract
from ..evaluation.predictions import collect
from ..evaluation.softmax import max_softmax
from ..training.checkpoint import load_weights
from ..training.trainer import writing

BATCH = 64
LEAK_ROWS = 4_000  # of training and of validation rows each, at most: seconds
NUM_CONFIDENCES = 1_001  # kept of the validation rows', at most: any threshold's acceptance to .1 %


def calibrate(
    model: Attributor,
    out: Path,
    *,
    train: ShardSet,
    validation: ShardSet,
    device: torch.device,
    meaning: str,
    track: Track = untracked,
) -> None:
    """Accuracy, majority, temperature and the 95 % threshold with its acceptance, on the seen validation rows; beside them
    what a thumbnail or colours alone reach there. Nothing is written without such rows."""
    if len(validation) == 0:
        return
    try:
        load_weights(model, out / "best.safetensors", meaning=meaning)
    except RunError:
        return
    loader = validation.loader(views=model.inference_views, batch_size=BATCH, shuffle=False)
    found = collect(model, track(loader, "judging the best weights"), device)
    temperature, threshold = fit_temperature(found.logits, found.labels), threshold_for_acceptance(found.logits)
    confidences = np.sort(max_softmax(found.logits))
    kept = np.linspace(0, len(confidences) - 1, min(len(confidences), NUM_CONFIDENCES)).round().astype(np.int64)
    document = {
        "temperature": temperature,
        "threshold_95": threshold,
        "threshold_95_calibrated": threshold_for_acceptance(found.logits / temperature),
        "threshold_95_acceptance": float((confidences >= threshold).mean()),
        "n": len(found.labels),
        "accuracy": float((found.logits.argmax(axis=1) == found.labels).mean()),
        "majority": float(np.bincount(found.labels).max() / len(found.labels)),
        "best_leak": coarse_leak(train, validation, track),
        "confidences": confidences[kept].tolist(),
    }
    with writing(out):
        write_readable_json(out / "calibration.json", document)


def coarse_leak(train: ShardSet, validation: ShardSet, track: Track = untracked) -> dict[str, Any] | None:
    """How many validation images the cheapest leak controls name right; None where the training rows are of one class."""
    from ..evaluation.controls.leaks import best_leak  # scikit-learn

    parts = [representatives(rows, LEAK_ROWS) for rows in (train, validation)]
    if len(set(parts[0].labels.tolist())) < 2:
        return None
    rows = [
        extract(
            track(part.loader(views=("image",), batch_size=BATCH, shuffle=False), "leak controls"),
            None,
            COARSE_FEATURES,
        )
        for part in parts
    ]
    return {**best_leak(*rows), "n_train": len(parts[0]), "n": len(parts[1])}


def representatives(rows: ShardSet, most: int) -> ShardSet:
    """`most` of them at most, drawn alike from all, the same ones each time."""
    if len(rows) <= most:
        return rows
    chosen = np.random.Generator(np.random.PCG64(0)).choice(len(rows), most, replace=False)
    return rows.take(np.sort(chosen))
