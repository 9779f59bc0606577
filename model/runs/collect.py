"""An attributor's answers for the rows of a loader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from ..attributor import Attributor
from ..errors import RunError
from ..evaluation.predictions import Predictions
from ..inputs import Batch, to_device


@torch.no_grad()
def collect(
    model: Attributor, batches: Iterable[Batch], device: torch.device, groups: Mapping[str, str] | None = None
) -> Predictions:
    """Run the attributor over batches, float32, eval mode. groups: key -> whose face it is.

    Raises RunError where an answer is not finite: NaN would be neither accepted nor rejected.
    """
    model.eval()
    keys: list[str] = []
    generators: list[str] = []
    features, logits, labels = [], [], []
    for batch in batches:
        found = model.embed(to_device(batch, device))
        features.append(found.float().cpu().numpy())
        logits.append(finite(model.classify(found)).float().double().cpu().numpy())
        labels.append(batch["label"].numpy())
        keys += batch["key"]
        generators += batch["generator"]
    if not keys:
        return Predictions.none(model.num_classes)
    return Predictions(
        keys=keys,
        generators=generators,
        labels=np.concatenate(labels),
        logits=np.concatenate(logits),
        features=np.concatenate(features),
        groups=() if groups is None else [groups[key] for key in keys],
    )


def finite(logits: torch.Tensor) -> torch.Tensor:
    """The logits as they are; raises RunError where one is not a finite number."""
    if not logits.isfinite().all():
        raise RunError(
            "the attributor's answers are not finite numbers: its weights are damaged or its training diverged"
        )
    return logits
