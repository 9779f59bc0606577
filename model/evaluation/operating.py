"""The point at which an attributor is used, declared before any test row is seen: which score rejects, and below which value.

The score is chosen by leaving seen sources out, for seen validation rows alone hold nothing to be rejected: each source in
turn is taken out of the training rows' statistics and of the logits, and its validation rows are the unseen ones. The network
itself was trained on that source, so the figures of this choice are too high and serve no other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .predictions import Floats, Predictions, spread
from .resampling import represented
from .scores import PAPERS_SCORE, auroc
from .statistics import Statistics, all_scores, told

ACCEPTED = 0.95  # of seen validation rows
LEFT_OUT = 20  # sources at most, evenly chosen
CHOICE_ROWS = 5_000  # validation rows that the score is chosen on, at most


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Which score rejects below which threshold, and how it was found."""

    score: str
    thresholds: Mapping[str, float]  # of every score: it accepts ACCEPTED of the seen validation rows
    n: int  # of them
    acceptance: float  # of them at the threshold: ACCEPTED or a little more
    left_out: Mapping[str, float] = field(default_factory=dict)  # score -> mean AUROC of sources left out
    reason: str = ""  # why no score was chosen by leaving sources out; else empty

    @property
    def threshold(self) -> float:
        return self.thresholds[self.score]

    @property
    def document(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "threshold": self.threshold,
            "n": self.n,
            "acceptance": self.acceptance,
            "thresholds": dict(self.thresholds),
            "left_out": dict(self.left_out),
            "reason": self.reason,
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> OperatingPoint:
        """What `document` gave."""
        return cls(
            **{name: document[name] for name in ("score", "thresholds", "n", "acceptance", "left_out", "reason")}
        )


def operating_point(
    train: Predictions | None, validation: Predictions, statistics: Statistics | None
) -> OperatingPoint | None:
    """None without validation rows. validation: of seen sources, which picked no checkpoint."""
    if not len(validation):
        return None
    scores = told(all_scores(validation, statistics), validation)
    thresholds = {name: threshold_for(values) for name, values in scores.items()}
    left_out, reason = _left_out(train, validation)
    best = max(left_out, key=lambda name: left_out[name]) if left_out else PAPERS_SCORE
    return OperatingPoint(
        score=best,
        thresholds=thresholds,
        n=len(validation),
        acceptance=float((scores[best] >= thresholds[best]).mean()),
        left_out=left_out,
        reason=reason,
    )


def threshold_for(scores: Floats, share: float = ACCEPTED) -> float:
    """The highest value of a seen row that still accepts `share` of them."""
    return float(np.quantile(scores, 1.0 - share, method="lower"))


def _left_out(train: Predictions | None, validation: Predictions) -> tuple[dict[str, float], str]:
    """score -> mean AUROC over the seen sources left out, or why there is none."""
    classes = np.intersect1d(validation.labels, train.labels if train is not None else validation.labels)
    if train is None:
        return {}, "no training rows, so the score is that of the papers"
    if len(classes) < 3:
        return {}, f"{len(classes)} classes have training and validation rows, of which none can be left out"
    validation = validation.where(represented(validation, CHOICE_ROWS))
    found: dict[str, list[float]] = {}
    for label in classes[spread(len(classes), LEFT_OUT)]:
        rest = train.where(np.asarray((train.labels != label) & (train.labels >= 0)))
        statistics = Statistics.fit(rest)
        is_out = validation.labels == label
        for name, values in all_scores(validation.blind_to(label), statistics).items():
            found.setdefault(name, []).append(auroc(values[~is_out], values[is_out]))
    return {name: float(np.mean(values)) for name, values in found.items()}, ""
