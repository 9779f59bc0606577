"""Whether a training fits into the memory of its device, before any of it is allocated."""

from __future__ import annotations

import numpy as np
import torch

from ...pipeline.shardset import ShardSet
from ...pipeline.store.memory import check_memory
from ...pipeline.views import VIEWS
from ..attributor import LabelSpace
from ..config import RunConfig
from ..inputs import Batch
from ..resolve import maker
from ..size import measure


def check_training(
    config: RunConfig, labels: LabelSpace, rows: ShardSet, *, samples: int, device: torch.device
) -> None:
    """samples: of a batch in this process. Raises TooLargeError where weights, gradients, moments and the activations of the
    visual encoders alone are more than what is free: an estimate from below."""
    size = measure(maker(config, labels), _meta_batch(rows, config.own.inference_views))
    free = None if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    part = samples // config.train.accumulate
    check_memory(
        size.of_training(config.train, samples),
        f"training {size.parameters} parameters on {part} samples at a time",
        free=free,
    )


def _meta_batch(rows: ShardSet, views: tuple[str, ...]) -> Batch | None:
    """Two samples without values; None where a view is not there, which has a sentence of its own."""
    batch: Batch = {}
    for view in views:
        array = rows.plans[view].array if view in rows.views else None
        if array is None:
            return None
        kind = torch.from_numpy(np.empty(0, np.dtype(array["dtype"]))).dtype
        batch[view] = VIEWS[view].arrange(torch.empty((2, *array["shape"]), dtype=kind, device="meta"))
    return batch
