"""Predictions of anybody's model, evaluated from their file alone: no torch, no shard set, no run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..evaluation.case import Case, Track, untracked
from ..evaluation.evaluate import THRESHOLDS, completed, render
from ..evaluation.predictions import Predictions, counts
from ..evaluation.predictions_file import about_of
from ..evaluation.predictions_reader import read_predictions
from .write import Report


def judge_file(path: Path, *, thresholds: Iterable[float] | None = None, track: Track | None = None) -> Report:
    """The same figures as of a run; what needs images or the model itself (leak controls, questions by prompts) is null.
    Raises RunError."""
    contents = read_predictions(path)
    said, parts = contents.about, contents.parts
    none = Predictions.none(len(said.classes), parts["seen"].features.shape[1])
    data: dict[str, Any] = {
        "name": "predictions",
        "root_digest": said.data_digest,
        "missing_sources": [],
        "other_views": [],
        **said.data,
        "n_per_generator": counts(*(parts[part] for part in ("seen", "unseen", "controls") if part in parts)),
    }
    data["n_train"] = data.get("n_train") or counts(*([parts["train"]] if "train" in parts else []))
    case = Case(
        seen=parts["seen"],
        unseen=parts.get("unseen", none),
        controls=parts.get("controls", none),
        train=parts.get("train"),
        validation=parts.get("validation"),
        classes=tuple(said.classes),
        thresholds=tuple(sorted(set(thresholds or THRESHOLDS))),
        about=about_of(said, data),
        sources=contents.sources,
        track=track or untracked,
    )
    case = completed(case)
    return Report(case=case, result=render(case), about=said)
