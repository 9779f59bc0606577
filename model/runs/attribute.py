"""Attribution: the views of single images, computed as the shards' are, and a run's attributor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...pipeline.store.documents import DocumentError, check_schema
from ...pipeline.store.reading import read_file
from ...pipeline.views.errors import UnreadableImageError
from ...pipeline.views.image import RESIZE_KERNELS, ImageParams
from ...pipeline.views.single import view_batch
from ..attributor import Attributor
from ..errors import RunError
from ..evaluation.predictions import finite
from ..evaluation.worth import UNRELIABLE
from ..inputs import Batch, to_device
from .device import choose_device
from .folder import Run, load_attributor, read_run, read_worth

UNKNOWN, CANNOT_TELL = "unknown source", "cannot tell"


def attribute(
    run: str | Path,
    images: Iterable[str | Path],
    *,
    threshold: float | None = None,
    device: str | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """One record an image, as it is found: `image`, and `probabilities` (source -> share, highest first), `threshold` and
    `attributed_to` (a source, or `unknown source` below the threshold); or `error`, why it cannot be read. Beside them
    `run`, what the run is worth (evaluation/worth.py): its seen validation accuracy, what that must beat, and the share
    of seen validation images that the threshold accepts.

    threshold: of the max softmax; None: the run's own, which accepts 95 % of its seen validation images. Without one, and of
    a run that is not better than guessing, `attributed_to` is then `cannot tell`. on_message gets warnings (they are logged by
    default).
    Raises RunError, WrongUseError.
    """
    run_folder = Path(run)
    where = choose_device(device)
    image_params = _image_params(read_run(run_folder), run_folder)
    trained, model = load_attributor(run_folder, where, say=on_message)
    worth = read_worth(run_folder, len(trained.classes))
    limit = worth.threshold if threshold is None else threshold
    is_told = threshold is not None or (limit is not None and worth.verdict != UNRELIABLE)
    told = worth.document(threshold)
    for path in map(Path, images):
        try:
            batch = inference_batch(read_file(path), model, image_params)
        except (UnreadableImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            yield {"image": str(path), "error": f"cannot be read: {reason}", "run": told}
            continue
        with torch.no_grad():
            shares = finite(model.logits(to_device(batch, where))).double().softmax(dim=1)[0].cpu().numpy()
        order = np.argsort(-shares, kind="stable")  # of equal ones the first, as in the evaluation
        answer = CANNOT_TELL
        if is_told and limit is not None:
            answer = trained.classes[order[0]] if shares[order[0]] >= limit else UNKNOWN
        yield {
            "image": str(path),
            "attributed_to": answer,
            "threshold": limit,
            "probabilities": {trained.classes[k]: float(shares[k]) for k in order},
            "run": told,
        }


def inference_batch(data: bytes, model: Attributor, image_params: ImageParams) -> Batch:
    """An image file's bytes -> a batch of one with the views that the model infers from, as the loader would give them."""
    params = {"image": asdict(image_params), **model.view_params()}
    return dict(view_batch(data, model.inference_views, params))


def _image_params(run: Run, run_folder: Path) -> ImageParams:
    """How the run's images were made; a run of an older version does not say it: then by the default."""
    given, own = run.data.get("params", {}).get("image", {}), ImageParams()
    try:
        check_schema(given, ImageParams)
        params = ImageParams(**given)
    except (DocumentError, TypeError) as error:
        raise RunError(f"{run_folder / 'config.json'} cannot be used: data.params.image: {error}") from error
    is_known = params.resize in RESIZE_KERNELS and params.size == own.size
    if not (is_known and params.min_side >= 1 and params.max_pixels <= own.max_pixels):
        raise RunError(
            f"{run_folder / 'config.json'} cannot be used: data.params.image names no resize or size of this version"
        )
    return params
