"""From an attributor and loaders to one result document: the papers' tables with the figures that keep them honest.

The document is what `bmrl-eval --json` prints (contract), plus the keys the report needs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..attributor import Attributor
from ..inputs import Batch, to_device
from ..training.checkpoint import RunError
from .scores import (
    SCORES,
    Floats,
    Labels,
    at_threshold,
    auroc,
    closed_set,
    confusion,
    max_softmax,
    rejection,
    unit,
    unit_means,
)

THRESHOLDS = (0.7, 0.9)  # the paper's


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """An attributor's answers for some rows."""

    logits: Floats  # (N, K)
    features: Floats  # (N, D)
    labels: Labels  # (N,), -1 for unseen
    generators: list[str]

    def of(self, generator: str) -> Outputs:
        chosen = np.array([name == generator for name in self.generators], dtype=bool)
        return Outputs(
            logits=self.logits[chosen],
            features=self.features[chosen],
            labels=self.labels[chosen],
            generators=[generator] * int(chosen.sum()),
        )


@torch.no_grad()
def collect(model: Attributor, batches: Iterable[Batch], device: torch.device) -> Outputs:
    """Run the attributor over batches, float32, eval mode. Raises RunError where an answer is not finite: NaN would be
    neither accepted nor rejected."""
    model.eval()
    features, logits, labels, generators = [], [], [], []
    for batch in batches:
        found = model.embed(to_device(batch, device))
        features.append(found.double().cpu().numpy())
        logits.append(finite(model.classify(found)).double().cpu().numpy())
        labels.append(batch["label"].numpy())
        generators += batch["generator"]
    if not labels:
        empty = np.zeros((0, model.num_classes))
        return Outputs(logits=empty, features=empty, labels=np.zeros(0, dtype=np.int64), generators=[])
    return Outputs(
        logits=np.concatenate(logits),
        features=np.concatenate(features),
        labels=np.concatenate(labels),
        generators=generators,
    )


def finite(logits: torch.Tensor) -> torch.Tensor:
    """The logits as they are; raises RunError where one is not a finite number."""
    if not logits.isfinite().all():
        raise RunError(
            "the attributor's answers are not finite numbers: its weights are damaged or its training diverged"
        )
    return logits


def tabulate(
    seen: Outputs, unseen: Outputs, controls: Outputs, *, classes: tuple[str, ...], thresholds: tuple[float, ...]
) -> dict[str, Any]:
    """seen, thresholds, auroc and confusion; unseen fields are null without unseen rows."""
    document: dict[str, Any] = {
        "seen": closed_set(seen.logits, seen.labels),
        "thresholds": {_name(t): _at(t, seen, unseen) for t in thresholds},
        "auroc": _auroc(seen, unseen) if len(unseen.labels) else None,
        "confusion": {"classes": list(classes), "counts": confusion(seen.logits, seen.labels, len(classes)).tolist()},
        "unseen_taken_for": {name: _taken_for(unseen.of(name), classes) for name in _names(unseen)},
    }
    if len(controls.labels):
        document["lookalikes"] = {
            name: _lookalike(controls.of(name), seen, classes, thresholds) for name in _names(controls)
        }
    return document


def _at(threshold: float, seen: Outputs, unseen: Outputs) -> dict[str, Any]:
    per_generator = {name: rejection(unseen.of(name).logits, threshold) for name in _names(unseen)}
    return {
        # The paper's average is over generators, not over images.
        "unseen_rejection": float(np.mean(list(per_generator.values()))) if per_generator else None,
        **at_threshold(seen.logits, seen.labels, threshold),
        "per_generator": per_generator or None,
    }


def _auroc(seen: Outputs, unseen: Outputs) -> dict[str, Any]:
    """Macro mean over unseen generators for each score; per generator for max_softmax."""
    result: dict[str, Any] = {}
    for name, score in SCORES.items():
        high = score(seen.logits)
        values = {source: auroc(high, score(unseen.of(source).logits)) for source in _names(unseen)}
        result[name] = float(np.mean(list(values.values())))
        if name == "max_softmax":
            result["per_generator"] = values
    high, low = _centre_similarity(seen, seen), _centre_similarity(unseen, seen)
    result["nearest_class_mean"] = float(
        np.mean([auroc(high, low[np.array(unseen.generators) == source]) for source in _names(unseen)])
    )
    return result


def _centre_similarity(rows: Outputs, reference: Outputs) -> Floats:
    """Highest cosine similarity to a class mean of the (predicted) reference features; label-free at test time."""
    means = unit_means(reference.features, reference.logits.argmax(axis=1))
    return np.asarray((unit(rows.features) @ means.T).max(axis=1))


def _lookalike(rows: Outputs, seen: Outputs, classes: tuple[str, ...], thresholds: tuple[float, ...]) -> dict[str, Any]:
    """How often a control source is rejected, and which class it is taken for."""
    return {
        "n": len(rows.labels),
        "rejection": {_name(t): rejection(rows.logits, t) for t in thresholds},
        "mean_max_softmax": float(max_softmax(rows.logits).mean()),
        "auroc_against_seen": auroc(SCORES["max_softmax"](seen.logits), SCORES["max_softmax"](rows.logits)),
        **_taken_for(rows, classes),
    }


def _taken_for(rows: Outputs, classes: tuple[str, ...]) -> dict[str, Any]:
    """The class that most rows of a source are attributed to, without any threshold."""
    predicted = np.bincount(rows.logits.argmax(axis=1), minlength=len(classes))
    top = int(predicted.argmax())
    return {"taken_for": classes[top], "taken_for_share": float(predicted[top] / len(rows.labels))}


def counts(*outputs: Outputs) -> dict[str, int]:
    """generator -> evaluated rows."""
    total: dict[str, int] = defaultdict(int)
    for one in outputs:
        for name in one.generators:
            total[name] += 1
    return dict(sorted(total.items()))


def _names(outputs: Outputs) -> list[str]:
    """Generators in order of first appearance, sorted for a stable document."""
    return sorted(set(outputs.generators))


def _name(threshold: float) -> str:
    short = f"{threshold:g}"
    return short if float(short) == threshold else repr(threshold)  # 0.9999999 is not 1
