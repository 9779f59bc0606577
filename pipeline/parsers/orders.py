"""Class orders of published face parsers and the maps between them. BiSeNet's order is the one that shards store."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..views.parsing import CLASSES, FLIPPED_CLASSES, NUM_CLASSES, SIDES, Labels

__all__ = ["CLASSES", "NUM_CLASSES", "ORDERS", "SIDES", "Labels", "flip", "to_bisenet"]

# order name -> class names in that order, as its published label maps count them
ORDERS: dict[str, tuple[str, ...]] = {
    "bisenet": CLASSES,
    "celebamask-hq": (
        "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
        "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
    ),
    "segface": (
        "background", "neck", "skin", "cloth", "l_ear", "r_ear", "l_brow", "r_brow", "l_eye", "r_eye",
        "nose", "mouth", "l_lip", "u_lip", "hair", "eye_g", "hat", "ear_r", "neck_l",
    ),
}  # fmt: skip


def to_bisenet(order: str) -> npt.NDArray[np.uint8]:
    """(19,) uint8: BiSeNet's id for each id of `order`."""
    return np.array([CLASSES.index(name) for name in ORDERS[order]], dtype=np.uint8)


def flip(labels: Labels) -> Labels:
    """Mirror a label map (..., H, W) and exchange the left and right classes; ids above 18 (ignore) stay."""
    return np.ascontiguousarray(_SWAPPED[labels][..., ::-1])


def _swap_table() -> npt.NDArray[np.uint8]:
    table = np.arange(256, dtype=np.uint8)
    table[:NUM_CLASSES] = FLIPPED_CLASSES
    return table


_SWAPPED = _swap_table()
