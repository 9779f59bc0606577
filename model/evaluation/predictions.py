"""What an attributor said of some rows: the one form that every section of the evaluation is a function of.

Legend: N rows, K classes, D embedding dimension.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..attributor import Attributor
from ..errors import RunError
from ..inputs import Batch, to_device

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """An attributor's answers for some rows."""

    keys: list[str]
    generators: list[str]
    labels: Labels  # (N,), -1 for unseen
    logits: Floats  # (N, K)
    features: Floats  # (N, D), the embedding

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, generator: str) -> Predictions:
        """The rows of one source."""
        chosen = np.array([name == generator for name in self.generators], dtype=bool)
        return Predictions(
            keys=[key for key, kept in zip(self.keys, chosen, strict=True) if kept],
            generators=[generator] * int(chosen.sum()),
            labels=self.labels[chosen],
            logits=self.logits[chosen],
            features=self.features[chosen],
        )

    @property
    def sources(self) -> list[str]:
        """Their generators, by name."""
        return sorted(set(self.generators))


@torch.no_grad()
def collect(model: Attributor, batches: Iterable[Batch], device: torch.device) -> Predictions:
    """Run the attributor over batches, float32, eval mode. Raises RunError where an answer is not finite: NaN would be
    neither accepted nor rejected."""
    model.eval()
    keys, features, logits, labels, generators = [], [], [], [], []
    for batch in batches:
        found = model.embed(to_device(batch, device))
        features.append(found.double().cpu().numpy())
        logits.append(finite(model.classify(found)).double().cpu().numpy())
        labels.append(batch["label"].numpy())
        keys += batch["key"]
        generators += batch["generator"]
    empty = np.zeros((0, model.num_classes))
    return Predictions(
        keys=keys,
        generators=generators,
        labels=np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64),
        logits=np.concatenate(logits) if logits else empty,
        features=np.concatenate(features) if features else empty,
    )


def finite(logits: torch.Tensor) -> torch.Tensor:
    """The logits as they are; raises RunError where one is not a finite number."""
    if not logits.isfinite().all():
        raise RunError(
            "the attributor's answers are not finite numbers: its weights are damaged or its training diverged"
        )
    return logits


def counts(*predictions: Predictions) -> dict[str, int]:
    """generator -> evaluated rows."""
    total: dict[str, int] = defaultdict(int)
    for one in predictions:
        for name in one.generators:
            total[name] += 1
    return dict(sorted(total.items()))
