"""How the simulated sources of a shard set were made: their fixed parameters, for `info` and the dataset card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .draw import HARD_QUALITY, HARD_TRACE_RMS
from .finishes import DIFFUSION_BLUR, LAST_STEP_NOISE
from .simulators import SIMULATORS, TRACE_RMS


def describe_simulators(dataset: str, sources: Iterable[str]) -> dict[str, Any]:
    """Parameters of the simulators among `sources`, JSON-ready; empty where there is none.

    What differs from image to image (strength, region, partner, mask) stands in the manifest.parquet of the drawing, row
    by row under the source path.
    """
    present = [SIMULATORS[name] for name in sources if name in SIMULATORS]
    if not present:
        return {}
    hard = dataset == "demo-hard"
    return {
        "trace_rms": {"law": "log-uniform", "gray_levels": list(HARD_TRACE_RMS if hard else TRACE_RMS)},
        "jpeg_quality": list(HARD_QUALITY) if hard else None,
        "diffusion_finish": {"blur_sigma": DIFFUSION_BLUR, "last_step_noise": LAST_STEP_NOISE},
        "per_image": "manifest.parquet of the source folder: strength, region, identity, partner, mask",
        "sources": {
            simulator.name: {
                "kind": simulator.kind,
                "family": simulator.family,
                "decoder": simulator.decoder.__name__.removeprefix("decode_"),
                "crop": simulator.crop or None,
                "noise": simulator.noise,
                "slot": simulator.slot,
                "relation": simulator.relation,
            }
            for simulator in present
        },
    }
