"""Everything that the sections of an evaluation look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .controls.features import Rows
from .predictions import Predictions
from .question import Question

Track = Callable[[Any, str], Iterable[Any]]  # (steps, what is done in them) -> the steps, with a bar perhaps


def untracked(steps: Any, what: str) -> Any:
    """Shows nothing."""
    return steps


@dataclass(frozen=True, kw_only=True)
class About:
    """Whose answers they are, and on what: values that JSON knows."""

    attributor: str
    preset: str
    semantics: str
    protocol: str | None
    task: str  # attribution or detection
    published: Mapping[str, Any]  # sizes of the published data set
    relations: Mapping[str, str]  # unseen source -> what it is to the seen ones
    simulated: bool
    calibration: Mapping[str, Any] | None
    data: Mapping[str, Any]  # name, root_digest, n_per_generator, n_train, missing_sources, other_views and more


@dataclass(frozen=True, kw_only=True)
class Case:
    """Predictions of the three parts of the test rows, and what the questions and controls need beside them."""

    seen: Predictions
    unseen: Predictions
    controls: Predictions  # control sources: never trained on, and no generator
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    about: About
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> its kind and family
    text: tuple[list[Question], list[str]] | None = None  # questions by prompts, and names that cannot be read
    centres: tuple[list[Question], str] | None = None  # questions by class means, and the split of their rows
    control_rows: tuple[Rows, Rows, Rows] | None = None  # features of training, seen and unseen rows
    control_counts: Mapping[str, list[int]] = field(default_factory=dict)  # part -> [rows used, of how many]
    track: Track = untracked  # of what takes long
