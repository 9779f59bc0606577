"""What a run is worth: its seen validation accuracy, held against guessing and against what content alone tells.

A training writes the figures into calibration.json; every answer of `bmrl-attribute` carries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from .result import percent

ONE_SIDED_95, TWO_SIDED_95 = 1.6448536269514722, 1.959963984540054  # quantiles of the normal distribution
BETTER, UNRELIABLE, NOT_KNOWN = "better than guessing", "unreliable run", "worth not known"


def wilson(share: float, n: int, z: float = TWO_SIDED_95) -> tuple[float, float]:
    """The interval of a measured share of n trials (Wilson 1927); (0, 1) where nothing was measured."""
    if n == 0:
        return 0.0, 1.0
    middle = share + z * z / (2 * n)
    reach = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


LEAK_WORDS = {  # feature of a leak control -> who does it
    "32x32 thumbnail": "a 32x32 thumbnail names",
    "blurred, sigma 4": "a blurred image names",
    "colour means": "the colour means alone name",
    "label-map areas": "the areas of the face's parts alone name",
    "native size and format": "the native size and format alone name",
}


def leak_warning(leak: Mapping[str, Any] | None, accuracy: float, n: int) -> str | None:
    """A sentence where the best leak control reaches the 95 % interval of the attributor's accuracy on n images."""
    low, high = wilson(accuracy, n)
    if leak is None or leak["accuracy"] < low:
        return None
    feature, _, classifier = str(leak["control"]).rpartition(", ")
    return (
        f"{LEAK_WORDS.get(feature, f'{feature} alone names')} the source as well as the attributor: {percent(leak['accuracy'])} "
        f"({classifier}) against {percent(accuracy)} (95 % interval {percent(low)} to {percent(high)} on {n} images); it may "
        "have learned how the images were made ready, not the generator"
    )


@dataclass(frozen=True, kw_only=True)
class Worth:
    """The figures of one run; None: not measured."""

    chance: float  # 1 / number of classes
    n: int = 0  # seen validation images
    accuracy: float | None = None
    majority: float | None = None  # share of the commonest source: what "always that one" reaches
    best_leak: Mapping[str, Any] | None = None  # accuracy and control, on the same images
    threshold: float | None = None  # the run's own: it accepts 95 % of the seen validation images, as far as they allow
    acceptance: float | None = None  # of it, measured
    confidences: tuple[float, ...] = ()  # max softmax of seen validation images, rising

    @property
    def verdict(self) -> str:
        """BETTER where the accuracy's lower bound (Wilson, one-sided, 95 %) is above the majority and the best leak."""
        if self.accuracy is None:
            return NOT_KNOWN
        return BETTER if wilson(self.accuracy, self.n, ONE_SIDED_95)[0] > self.to_beat[0] else UNRELIABLE

    @property
    def to_beat(self) -> tuple[float, str]:
        """The accuracy that a run must beat to be worth anything, and whose it is."""
        majority = self.majority if self.majority is not None else self.chance
        if self.best_leak is not None and self.best_leak["accuracy"] > majority:
            return float(self.best_leak["accuracy"]), f"the leak control {self.best_leak['control']}"
        return majority, "always the commonest source"

    @property
    def reason(self) -> str:
        """One sentence that says what the verdict rests on."""
        if self.threshold is None:
            return "its worth is not known (no calibration.json: a run without seen validation images, or the file is gone)"
        if self.accuracy is None:
            return "its worth is not known (a run of version 0.1: bmrl-eval tells)"
        share, whose = self.to_beat
        clearly = "more" if self.verdict == BETTER else "not clearly more"
        return (
            f"{percent(self.accuracy)} of {self.n} seen validation images are attributed right, {clearly} than "
            f"{percent(share)} by {whose}"
        )

    def acceptance_of(self, threshold: float) -> float | None:
        """The share of seen validation images whose confidence is not below a threshold; None where it is not known."""
        if threshold == self.threshold and self.acceptance is not None:
            return self.acceptance
        if not self.confidences:
            return None
        return sum(confidence >= threshold for confidence in self.confidences) / len(self.confidences)

    def document(self, threshold: float | None = None) -> dict[str, Any]:
        """As answers carry it; threshold: the one that was asked for instead of the run's own."""
        used = self.threshold if threshold is None else threshold
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "validation_accuracy": self.accuracy,
            "n": self.n,
            "majority": self.majority,
            "chance": self.chance,
            "best_leak": None if self.best_leak is None else dict(self.best_leak),
            "operating_point": {
                "threshold": used,
                "seen_acceptance": None if used is None else self.acceptance_of(used),
                "asked_for": threshold is not None,
            },
        }


def worth_of(calibration: Mapping[str, Any] | None, num_classes: int) -> Worth:
    """From calibration.json, held against its schema; None where a run has none. Of version 0.1 it has a threshold alone."""
    if calibration is None:
        return Worth(chance=1 / num_classes)
    if "accuracy" not in calibration:
        return Worth(chance=1 / num_classes, threshold=calibration["threshold_95"])
    return Worth(
        chance=1 / num_classes,
        n=calibration["n"],
        accuracy=calibration["accuracy"],
        majority=calibration["majority"],
        best_leak=calibration["best_leak"],
        threshold=calibration["threshold_95"],
        acceptance=calibration["threshold_95_acceptance"],
        confidences=tuple(calibration["confidences"]),
    )
