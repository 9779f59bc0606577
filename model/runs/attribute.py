"""Attribution: the views of single images, computed as the shards' are, and a run's attributor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...pipeline.store.reading import read_file
from ...pipeline.views.errors import UnreadableImageError
from ...pipeline.views.image import RESIZE_KERNELS, ImageParams
from ...pipeline.views.single import view_batch
from ..attributor import Attributor
from ..errors import RunError
from ..evaluation.predictions import finite
from ..inputs import Batch, to_device
from .device import choose_device
from .folder import Run, load_attributor, read_calibration

UNKNOWN = "unknown source"


def attribute(
    run: str | Path, images: Iterable[str | Path], *, threshold: float | None = None, device: str | None = None
) -> Iterator[dict[str, Any]]:
    """One record an image, as it is found: `image`, and `probabilities` (source -> share, highest first), `threshold` and
    `attributed_to` (a source, or `unknown source` below the threshold); or `error`, why it cannot be read.

    threshold: of the max softmax; None: the run's own, which accepts 95 % of its seen validation images. Raises RunError,
    WrongUseError.
    """
    run_folder = Path(run)
    where = choose_device(device)
    trained, model = load_attributor(run_folder, where)
    image_params = _image_params(trained, run_folder)
    limit = threshold if threshold is not None else _own_threshold(run_folder)
    for path in map(Path, images):
        try:
            batch = inference_batch(read_file(path), model, image_params)
        except (UnreadableImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield {"image": str(path), "error": f"cannot be read: {reason}"}
            continue
        with torch.no_grad():
            shares = finite(model.logits(to_device(batch, where))).double().softmax(dim=1)[0].cpu().numpy()
        order = np.argsort(-shares, kind="stable")  # of equal ones the first, as in the evaluation
        top = trained.classes[order[0]]
        yield {
            "image": str(path),
            "attributed_to": top if shares[order[0]] >= limit else UNKNOWN,
            "threshold": limit,
            "probabilities": {trained.classes[k]: float(shares[k]) for k in order},
        }


def inference_batch(data: bytes, model: Attributor, image_params: ImageParams) -> Batch:
    """An image file's bytes -> a batch of one with the views that the model infers from, as the loader would give them."""
    params = {"image": asdict(image_params), **model.view_params()}
    return dict(view_batch(data, model.inference_views, params))


def _own_threshold(run_folder: Path) -> float:
    """The threshold that accepts 95 % of the run's seen validation images; 0 where the run had none."""
    calibration = read_calibration(run_folder)
    return float(calibration["threshold_95"]) if calibration else 0.0


def _image_params(run: Run, run_folder: Path) -> ImageParams:
    """How the run's images were made; a run of an older version does not say it: then by the default."""
    given = run.data.get("params", {}).get("image", {})
    try:
        params = ImageParams(**given)
    except TypeError as error:
        raise RunError(f"{run_folder / 'config.json'} cannot be used: data.params.image {error}") from error
    if params.resize not in RESIZE_KERNELS:
        raise RunError(
            f"{run_folder / 'config.json'} cannot be used: data.params.image names no resize of this version"
        )
    return params
