"""Everything that the sections of an evaluation look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .operating import OperatingPoint
from .predictions import Floats, Labels, Mask, Predictions
from .question import Question
from .scores import PAPERS_SCORE
from .statistics import Statistics, all_scores, told

if TYPE_CHECKING:
    from .controls.features import Rows
    from .estimates import Estimates

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
    origin: str = ""  # what the weights were before the training, such as `from scratch`; empty where nobody said


@dataclass(frozen=True, kw_only=True)
class Case:
    """Predictions of the parts of the test rows, and what the questions and controls need beside them."""

    seen: Predictions
    unseen: Predictions
    controls: Predictions  # control sources: never trained on, and no generator
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    about: About
    train: Predictions | None = None  # of training rows, or some of them
    validation: Predictions | None = None  # of seen validation rows that picked no checkpoint
    left_out: Mapping[str, Predictions] = field(
        default_factory=dict
    )  # source -> its validation rows, by a run without it
    statistics: Statistics | None = None  # of training rows
    operating: OperatingPoint | None = None
    temperature: float | None = None  # of the validation rows
    estimates: Estimates = field(default_factory=dict)  # path -> figure and interval; evaluate fills it
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> its kind and family
    text: tuple[list[Question], list[str]] | None = None  # questions by prompts, and names that cannot be read
    centres: tuple[list[Question], str] | None = None  # questions by class means, and the split of their rows
    control_rows: tuple[Rows, Rows, Rows] | None = None  # features of training, seen and unseen rows
    control_counts: Mapping[str, list[int]] = field(default_factory=dict)  # part -> [rows used, of how many]
    track: Track = untracked  # of what takes long

    @cached_property
    def scores(self) -> dict[str, dict[str, Floats]]:
        """seen, unseen -> score -> the value of each row."""
        return {"seen": all_scores(self.seen, self.statistics), "unseen": all_scores(self.unseen, self.statistics)}

    @cached_property
    def judged(self) -> dict[str, dict[str, Floats]]:
        """The same in the scale in which thresholds are told."""
        return {
            part: told(scores, rows)
            for (part, scores), rows in zip(self.scores.items(), (self.seen, self.unseen), strict=True)
        }

    @property
    def told_scores(self) -> tuple[str, ...]:
        """The papers' score, and that of the main row."""
        main = self.operating.score if self.operating else PAPERS_SCORE
        return tuple(dict.fromkeys((PAPERS_SCORE, main)))

    @cached_property
    def relation_codes(self) -> dict[str, list[int]]:
        """The first word of a relation (NEAR, FAR) -> its unseen sources, by their places."""
        found: dict[str, list[int]] = {}
        for code, source in enumerate(self.unseen.sources):
            if relation := self.about.relations.get(source, "").split(" ")[0]:
                found.setdefault(relation, []).append(code)
        return found

    @cached_property
    def kind_rows(self) -> dict[str, tuple[Mask, Mask, list[int]]]:
        """kind -> its seen rows, its unseen rows, and its unseen sources by their places; kinds that have both."""
        kinds = [str(self.sources.get(source, {}).get("kind", "unknown")) for source in self.unseen.sources]
        found = {}
        for kind in sorted(set(kinds) - {"unknown"}):
            seen = self._is_of(kind, self.seen)
            codes = [code for code, one in enumerate(kinds) if one == kind]
            if seen.any():
                found[kind] = seen, np.isin(self.unseen.codes, codes), codes
        return found

    def with_rows(self, *, seen: Labels, unseen: Labels | None) -> Case:
        """Of some seen and unseen rows; their scores are not computed again."""
        smaller = replace(
            self, seen=self.seen.where(seen), unseen=self.unseen if unseen is None else self.unseen.where(unseen)
        )
        chosen = {"seen": seen, "unseen": slice(None) if unseen is None else unseen}
        smaller.__dict__["scores"] = {
            part: {name: values[chosen[part]] for name, values in scores.items()}
            for part, scores in self.scores.items()
        }
        return smaller

    def _is_of(self, kind: str, rows: Predictions) -> Mask:
        of_source = [self.sources.get(source, {}).get("kind") == kind for source in rows.sources]
        return np.array(of_source, dtype=bool)[rows.codes] if len(rows) else np.zeros(0, dtype=bool)
