"""What distinguishes one drawn identity from another: colours, proportions, pose and optional items, sampled once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Color = npt.NDArray[np.float32]  # (3,) sRGB, 0..255

# The Monk Skin Tone scale (Monk 2019), light to dark; sampled evenly, interpolated between neighbours.
SKIN_TONES = np.array(
    [
        [246, 237, 228],
        [243, 231, 219],
        [247, 234, 208],
        [234, 218, 186],
        [215, 189, 150],
        [160, 126, 86],
        [130, 92, 67],
        [96, 65, 52],
        [58, 49, 42],
        [41, 36, 32],
    ],
    dtype=np.float32,
)
HAIR_COLORS = np.array(
    [
        [28, 24, 22],
        [48, 36, 30],
        [84, 56, 38],
        [122, 84, 52],
        [176, 136, 84],
        [214, 184, 130],
        [142, 66, 36],
        [150, 148, 146],
    ],
    dtype=np.float32,
)
IRIS_COLORS = np.array(
    [[62, 40, 24], [92, 60, 34], [120, 96, 50], [92, 118, 88], [96, 132, 164], [128, 142, 150]], dtype=np.float32
)
HAIR_STYLES = ("none", "crop", "side-part", "fringe", "bob", "long", "wavy", "afro", "bun", "receding")
HATS = ("beanie", "cap", "brim")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Lengths are in face units (half the width of the face is 1), angles in radians."""

    skin: Color
    hair: Color
    brow: Color
    iris: Color
    lips: Color
    cloth: Color
    cloth_second: Color
    background: Color
    background_second: Color
    hat_color: Color
    item_color: Color  # metal of earrings and necklace
    frame_color: Color
    hair_style: str
    hat: str  # "" for none
    glasses: bool
    lens_round: float  # 0: rectangular, 1: round
    earrings: bool
    earring_drop: float
    necklace: bool
    collar: int  # 0 round, 1 V, 2 shirt
    beard: float  # 0: none; darkening of the lower face
    age: float  # 0..1, depth of folds
    jaw: float
    chin: float
    width: float
    eye_open: float
    eye_width: float
    eye_gap: float
    brow_thickness: float
    brow_arch: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip_thickness: float
    mouth_open: float
    smile: float
    gaze: float
    ear_size: float
    yaw: float  # shift of the nearest point of the face
    pitch: float
    roll: float
    scale: float  # pixels a face unit at 512
    center: tuple[float, float]  # pixels at 512
    light: tuple[float, float]


def sample_traits(identity: int, rng: np.random.Generator) -> Traits:
    """The traits of an identity; `rng` must be seeded by the identity."""
    # Low-discrepancy over identities: any run of consecutive identities covers the scale evenly.
    tone = ((identity * 0.6180339887498949) % 1.0) * (len(SKIN_TONES) - 1)
    low = int(tone)
    skin = SKIN_TONES[low] + (tone - low) * (SKIN_TONES[min(low + 1, len(SKIN_TONES) - 1)] - SKIN_TONES[low])
    # The swatches are flat paint; light and folds are still to come, so bring both ends inwards and warm them a little.
    skin = (skin * np.array([0.82, 0.76, 0.72]) + np.array([24, 17, 13]) + rng.normal(0, 2.5, 3)).astype(np.float32)
    dark = tone > 5 and rng.random() < 0.8
    hair = HAIR_COLORS[rng.integers(0, 3) if dark else rng.integers(len(HAIR_COLORS))] + rng.normal(0, 5, 3)
    hair = np.clip(hair, 14, 235).astype(np.float32)
    style = HAIR_STYLES[rng.choice(len(HAIR_STYLES), p=[0.07, 0.15, 0.12, 0.1, 0.12, 0.14, 0.11, 0.07, 0.07, 0.05])]
    redness = np.array([1.0, 0.62 + 0.1 * rng.random(), 0.66], dtype=np.float32)
    metal = np.array([[212, 176, 86], [196, 198, 202], [230, 224, 214], [60, 60, 66]], dtype=np.float32)
    return Traits(
        skin=skin,
        hair=hair,
        brow=(0.72 * hair * rng.uniform(0.6, 1.0) + 0.1 * skin).astype(np.float32),
        iris=(IRIS_COLORS[rng.integers(0, 2) if dark else rng.integers(len(IRIS_COLORS))] + rng.normal(0, 6, 3)).astype(
            np.float32
        ),
        lips=np.clip(skin * redness * rng.uniform(0.8, 1.0), 20, 230).astype(np.float32),
        cloth=_muted(rng, 0.7),
        cloth_second=_muted(rng, 0.7),
        background=_muted(rng, 0.45),
        background_second=_muted(rng, 0.45),
        hat_color=_muted(rng, 0.7),
        item_color=metal[rng.integers(len(metal))],
        frame_color=(rng.uniform(10, 70) * np.ones(3) + rng.uniform(0, 50, 3)).astype(np.float32),
        hair_style=style,
        hat=HATS[rng.integers(len(HATS))] if rng.random() < 0.14 else "",
        glasses=bool(rng.random() < 0.2),
        lens_round=float(rng.random()),
        earrings=bool(rng.random() < 0.28),
        earring_drop=float(rng.uniform(0.06, 0.34)),
        necklace=bool(rng.random() < 0.25),
        collar=int(rng.integers(3)),
        beard=float(rng.uniform(0.15, 0.6))
        if style in ("none", "crop", "side-part", "receding") and rng.random() < 0.5
        else 0.0,
        age=float(rng.random() ** 1.5),
        jaw=float(rng.uniform(0.12, 0.42)),
        chin=float(rng.uniform(1.38, 1.56)),
        width=float(rng.uniform(0.94, 1.08)),
        eye_open=float(rng.uniform(0.07, 0.13)),
        eye_width=float(rng.uniform(0.17, 0.215)),
        eye_gap=float(rng.uniform(0.39, 0.46)),
        brow_thickness=float(rng.uniform(0.045, 0.095)),
        brow_arch=float(rng.uniform(0.02, 0.1)),
        nose_width=float(rng.uniform(0.2, 0.3)),
        nose_length=float(rng.uniform(0.42, 0.56)),
        mouth_width=float(rng.uniform(0.34, 0.48)),
        lip_thickness=float(rng.uniform(0.06, 0.125)),
        mouth_open=float(rng.uniform(0.05, 0.2)) if rng.random() < 0.55 else 0.0,
        smile=float(rng.uniform(-0.04, 0.12)),
        gaze=float(rng.uniform(-0.05, 0.05)),
        ear_size=float(rng.uniform(0.85, 1.15)),
        yaw=float(rng.uniform(-0.24, 0.24)),
        pitch=float(rng.uniform(-0.08, 0.08)),
        roll=float(rng.normal(0, 0.06)),
        scale=float(rng.uniform(116, 132)),
        center=(float(256 + rng.uniform(-9, 9)), float(270 + rng.uniform(-8, 8))),
        light=(float(rng.uniform(-1, 1)), float(rng.uniform(-0.8, 0.1))),
    )


def _muted(rng: np.random.Generator, saturation: float) -> Color:
    """A random colour, drawn towards its own gray."""
    color = rng.uniform(20, 230, 3)
    return np.asarray(color.mean() + saturation * (color - color.mean()), dtype=np.float32)
