"""What a training leaves beside its weights for every later answer: what they say of training and validation rows
(calibration.parquet), and the statistics of the training rows (statistics.safetensors)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from ...pipeline.store.local import write_bytes
from ...pipeline.store.reading import check_safetensors, read_file
from ..errors import RunError
from ..evaluation.predictions import Predictions
from ..evaluation.predictions_file import About, Contents, write_predictions
from ..evaluation.predictions_reader import read_predictions
from ..evaluation.statistics import Statistics
from ..training.checkpoint import MEANING
from .folder import Run

ROWS = "calibration.parquet"
STATISTICS = "statistics.safetensors"
STATISTICS_BYTES = 2**30


def about_run(run: Run, **more: Any) -> About:
    """The metadata of predictions of a run."""
    return About(
        classes=list(run.classes),
        attributor=run.config.attributor,
        preset=run.config.preset,
        semantics=run.config.semantics,
        origin=run.config.own.origin,
        views=run.data.get("params", {}),
        recipe=run.recipe,
        **{"protocol": run.protocol, "data_digest": run.data["root_digest"], **more},
    )


def write_rows(folder: Path, run: Run, *, train: Predictions, validation: Predictions, task: str) -> None:
    facts = zip(run.classes, run.labels.kinds, run.labels.families, strict=True)
    sources = {name: {"kind": kind, "family": family} for name, kind, family in facts}
    parts = {"train": train, "validation": validation}
    write_predictions(folder / ROWS, Contents(about=about_run(run, task=task), parts=parts, sources=sources))


def read_rows(folder: Path, run: Run) -> dict[str, Predictions] | None:
    """train and validation rows; None where the run has none (of version 0.1). Raises RunError."""
    if not (folder / ROWS).exists():
        return None
    contents = read_predictions(folder / ROWS, needs="validation")
    if tuple(contents.about.classes) != run.classes:
        raise RunError(f"{folder / ROWS} has other classes than config.json beside it; restore it, or train again")
    return dict(contents.parts)


def write_statistics(folder: Path, statistics: Statistics, meaning: str) -> None:
    write_bytes(folder / STATISTICS, save_arrays(statistics.arrays(), metadata={MEANING: meaning}))


def read_statistics(folder: Path) -> Statistics | None:
    """None where the run has none. Raises RunError where they are damaged."""
    file = folder / STATISTICS
    if not file.exists():
        return None
    try:
        check_safetensors(file)
        return Statistics.of_arrays(load_arrays(read_file(file, limit=STATISTICS_BYTES)))
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError) as error:
        raise RunError(f"{file} is damaged: {error}; restore it, or train again into another --out") from None
