"""Drawn faces for parser training: the `parser` identities of bmrl.pipeline.demo, which its splits never use."""

from __future__ import annotations

import numpy as np

from ...demo.camera import photograph
from ...demo.faces import IDENTITY_RANGES, draw_face
from ...views.image import RGB
from ..orders import Labels

SIZE = 512  # pixels a side


def draw_for_training(count: int) -> list[tuple[RGB, Labels]]:
    """The first `count` parser identities through the demo's camera.

    RGB uint8 (512, 512, 3), labels uint8 (512, 512) in BiSeNet's order.
    """
    return [_draw(identity) for identity in IDENTITY_RANGES["parser"][:count]]


def draw_held_out(count: int) -> list[tuple[RGB, Labels]]:
    """The last `count` parser identities, for scores."""
    return [_draw(identity) for identity in IDENTITY_RANGES["parser"][-count:]]


def _draw(identity: int) -> tuple[RGB, Labels]:
    face = draw_face(identity)
    return photograph(face.rgb, np.random.default_rng((1, identity)), size=SIZE), face.labels
