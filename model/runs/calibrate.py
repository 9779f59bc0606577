"""The end of a training: what its training and validation rows say of the best weights, written as calibration.json,
calibration.parquet and statistics.safetensors."""

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
from ..evaluation.operating import operating_point
from ..evaluation.predictions import Predictions, spread
from ..evaluation.softmax import max_softmax
from ..evaluation.statistics import TRAIN_ROWS, Statistics
from ..training.checkpoint import load_weights
from ..training.trainer import writing
from .collect import collect
from .fitted import write_rows, write_statistics
from .folder import Run

BATCH = 64
LEAK_ROWS = 4_000  # of training and of validation rows each, at most: seconds
VALIDATION_ROWS = 20_000
NUM_CONFIDENCES = 1_001  # kept of the validation rows', at most: any threshold's acceptance to .1 %


def calibrate(
    model: Attributor,
    out: Path,
    *,
    train: ShardSet,
    validation: ShardSet,
    device: torch.device,
    run: Run,
    task: str,
    track: Track = untracked,
) -> None:
    """Statistics of the training rows; of seen validation rows that picked no checkpoint: accuracy, majority, temperature,
    the score and threshold at which the run works, and what a thumbnail or colours alone reach there. Nothing is written
    without validation rows."""
    if len(validation) == 0:
        return
    try:
        load_weights(model, out / "best.safetensors", meaning=run.meaning)
    except RunError:
        return
    trained = collect_rows(model, representatives(train, TRAIN_ROWS), device, track, "asking about training rows")
    found = collect_rows(model, representatives(validation, VALIDATION_ROWS), device, track, "judging the best weights")
    statistics = Statistics.fit(trained)
    operating = operating_point(trained, found, statistics)
    assert operating is not None  # there are validation rows
    temperature, threshold = fit_temperature(found.logits, found.labels), threshold_for_acceptance(found.logits)
    confidences = np.sort(max_softmax(found.logits))
    document = {
        "temperature": temperature,
        "threshold_95": threshold,
        "threshold_95_calibrated": threshold_for_acceptance(found.logits / temperature),
        "threshold_95_acceptance": float((confidences >= threshold).mean()),
        "n": len(found.labels),
        "accuracy": float(found.correct.mean()),
        "majority": float(np.bincount(found.labels).max() / len(found.labels)),
        "best_leak": coarse_leak(train, validation, track),
        "confidences": confidences[spread(len(confidences), NUM_CONFIDENCES)].tolist(),
        "operating_point": operating.document,
    }
    with writing(out):
        write_rows(out, run, train=trained, validation=found, task=task)
        write_statistics(out, statistics, run.meaning)
        write_readable_json(out / "calibration.json", document)


def collect_rows(model: Attributor, rows: ShardSet, device: torch.device, track: Track, what: str) -> Predictions:
    """What the model says of all rows, in their order."""
    loader = rows.loader(views=model.inference_views, batch_size=BATCH, shuffle=False)
    return collect(model, track(loader, what), device, groups_of(rows))


def groups_of(rows: ShardSet) -> dict[str, str]:
    """key -> whose face it is."""
    return dict(zip(rows.index["key"].to_pylist(), rows.index["group"].to_pylist(), strict=True))


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
