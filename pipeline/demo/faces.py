"""Procedural faces with exact label maps: the content of the embedded dataset, nothing downloaded.

Everything about a face follows from its identity, a non-negative integer. Identities of train, val, test and parser
training are disjoint ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import features, hair
from .canvas import Canvas
from .shading import render
from .traits import Traits, sample_traits

# A split takes identities from the start of its range; `parser` is for training a face parser and the VQ codebook.
IDENTITY_RANGES: dict[str, range] = {
    "train": range(0, 100_000),
    "val": range(100_000, 200_000),
    "test": range(200_000, 300_000),
    "parser": range(300_000, 400_000),
}


@dataclass(frozen=True, kw_only=True)
class Face:
    rgb: npt.NDArray[np.uint8]  # (512, 512, 3), sRGB, before any camera
    labels: npt.NDArray[np.uint8]  # (512, 512), 0..18 in BiSeNet's order
    traits: Traits


def draw_face(identity: int) -> Face:
    """The face of an identity at 512 x 512, the same bytes on every call."""
    rng = np.random.Generator(np.random.PCG64([0x0FACE, identity]))
    canvas = Canvas(sample_traits(identity, rng))
    hair.draw_hair_behind(canvas, rng)
    features.draw_bust(canvas, rng)
    features.draw_ears(canvas)
    features.draw_head(canvas)
    features.draw_nose(canvas)
    features.draw_mouth(canvas)
    features.draw_eyes(canvas)
    features.draw_brows(canvas)
    features.draw_glasses(canvas)
    hair.draw_hair_front(canvas, rng)
    features.draw_earrings(canvas)
    hair.draw_hat(canvas, rng)
    return Face(rgb=render(canvas, rng), labels=canvas.labels(), traits=canvas.traits)


def identity_split(split: str, num: int) -> range:
    """The first `num` identities of a split."""
    identities = IDENTITY_RANGES[split]
    if not 0 <= num <= len(identities):
        raise ValueError(f"{num} identities asked for split {split!r}, which has {len(identities)}")
    return identities[:num]


def split_of(identity: int) -> str:
    """The split whose range holds the identity."""
    for split, identities in IDENTITY_RANGES.items():
        if identity in identities:
            return split
    raise ValueError(f"identity {identity} is in no split; ranges are {IDENTITY_RANGES}")
