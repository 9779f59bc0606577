"""The views of one image file, without a shard set: what a photograph is asked with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import VIEWS
from .view import Sample, rows_view


def view_batch(data: bytes, views: Sequence[str], params: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """An image file's bytes -> a batch of one of the named views, stored integers arranged as the loader gives them.

    params: view -> parameters as a plan holds them; the defaults where absent. Raises UnreadableImageError for a file that
    is no whole image of allowed size, and ValueError for a view that an image alone does not give.
    """
    for name in views:
        view = VIEWS.get(name)
        if view is None or view.reads == "labels" or view.tool:
            known = ", ".join(name for name, view in VIEWS.items() if view.reads != "labels" and not view.tool)
            raise ValueError(f"the view {name!r} cannot be computed from an image alone; those that can are {known}")
    chosen = {name: view.params_of(params.get(name, {})) for name, view in VIEWS.items() if not view.tool}
    decisive = rows_view(VIEWS)
    assert decisive.decode is not None and decisive.compute is not None
    source = decisive.decode(data, chosen[decisive.name])
    file = {"source_sha256": "", "source_bytes": len(data)}
    image = decisive.compute(Sample(row={}, facts=file, source=source), chosen[decisive.name]).value
    assert not isinstance(image, dict)
    sample = Sample(row={}, facts=file, source=source, image=image)
    batch = {}
    for name in views:
        view = VIEWS[name]
        assert view.compute is not None
        value = image if view.decides_rows else view.compute(sample, chosen[name]).value
        assert not isinstance(value, dict)
        batch[name] = view.arrange(torch.from_numpy(np.ascontiguousarray(value))[None])
    return batch
