"""What a kind of forgery changes before any decoder leaves its trace: nothing (EFS), one region (AM), the face (FS).

An operator gives the forged content, and a weight in [0, 1] that says where the decoder's trace goes. Images are
float32 (h, w, 3), 0..255; label maps are uint8 (h, w) in BiSeNet's order. Pixel counts and feathers are for 224 and
scale along.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .finishes import F32, blur

Labels = npt.NDArray[np.uint8]

REGIONS: dict[str, tuple[int, ...]] = {"hair": (17,), "skin": (1,), "lips-mouth": (11, 12, 13), "brows": (2, 3)}
FACE_LABELS = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)  # what a swap replaces: no ears, neck, hair
ANCHORS: tuple[tuple[int, ...], ...] = ((2,), (3,), (4,), (5,), (10,), (11, 12, 13))  # centroids that align two faces
SUPPORT = 0.5  # a pixel of at least this weight belongs to the trace mask
MIN_PIXELS = 48  # of 224 x 224; a smaller region counts as empty
CHANNEL_GAIN = 0.06  # of an edited region, of random sign a channel
EDIT_FEATHER = 2.0  # pixels, Gaussian sigma
SWAP_FEATHER = (1.5, 4.0)  # pixels, range of the Gaussian sigma
BOX_MARGIN = 0.12  # of the face's longer side, around the crop of a swap


class EmptyRegionError(ValueError):
    """The label map has none of the regions that the operator needs; str(error) is the recorded reason."""


@dataclass(frozen=True, kw_only=True)
class Forged:
    content: F32  # (h, w, 3), before any trace
    weight: F32  # (h, w), 0..1
    region: str  # "frame", a key of REGIONS, or "face"
    box: tuple[int, int, int] | None  # top, left, side in pixels: the square that a swap's decoder sees


def keep_frame(x: F32) -> Forged:
    """EFS: the model made every pixel."""
    return Forged(content=x, weight=np.ones(x.shape[:2], dtype=np.float32), region="frame", box=None)


def edit_region(x: F32, labels: Labels, rng: np.random.Generator) -> Forged:
    """AM: one region, drawn uniformly, changes its channel gains; an empty region is redrawn."""
    scale = x.shape[0] / 224
    names = list(REGIONS)
    order = [
        names[i] for i in rng.permutation(len(names))
    ]  # the first that is not empty: redrawing without replacement
    gains = 1.0 + CHANNEL_GAIN * rng.choice([-1.0, 1.0], size=3)
    for name in order:
        weight = blur(np.isin(labels, REGIONS[name]).astype(np.float32), EDIT_FEATHER * scale)
        if np.sum(weight >= SUPPORT) >= MIN_PIXELS * scale**2:
            content = x * (1 + weight[..., None] * (gains.astype(np.float32) - 1))
            return Forged(content=content.astype(np.float32), weight=weight, region=name, box=None)
    raise EmptyRegionError(f"the label map has none of the regions {', '.join(REGIONS)}")


def swap_face(x: F32, labels: Labels, partner: F32, partner_labels: Labels, rng: np.random.Generator) -> Forged:
    """FS: the partner's face, aligned by label centroids, given the target's colours (Reinhard 2001), pasted softly."""
    size = x.shape[0]
    target_face = np.isin(labels, FACE_LABELS)
    transform = _align(partner_labels, labels)
    warped = cv2.warpAffine(partner, transform, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    source_face = np.isin(partner_labels, FACE_LABELS).astype(np.uint8)
    source_face = np.asarray(
        cv2.warpAffine(source_face, transform, (size, size), flags=cv2.INTER_NEAREST), dtype=np.uint8
    )
    both = target_face & (source_face == 1)
    feather = rng.uniform(*SWAP_FEATHER) * size / 224
    weight = np.clip(
        2 * blur(both.astype(np.float32), feather) - 1, 0, 1
    )  # inwards: beyond the face is the partner's hair
    if np.sum(weight >= SUPPORT) < 10 * MIN_PIXELS * (size / 224) ** 2:
        raise EmptyRegionError("the two faces do not overlap after alignment")
    colored = _transfer_color(np.clip(np.asarray(warped, dtype=np.float32), 0, 255), x, both)
    content = x + weight[..., None] * (colored - x)
    return Forged(
        content=content.astype(np.float32), weight=weight.astype(np.float32), region="face", box=_square_around(both)
    )


def _align(source: Labels, target: Labels) -> npt.NDArray[np.float64]:
    """Least-squares similarity (Umeyama 1991) of the anchors that both maps show -> (2, 3), source to target pixels."""
    pairs = []
    for anchor in ANCHORS:
        a, b = _centroid(source, anchor), _centroid(target, anchor)
        if a is not None and b is not None:
            pairs.append((a, b))
    if len(pairs) < 2:
        raise EmptyRegionError("fewer than two of brows, eyes, nose and mouth are visible in both faces")
    # A similarity is one complex factor and one complex shift.
    z = np.array([complex(*a) for a, _ in pairs])
    w = np.array([complex(*b) for _, b in pairs])
    z0, w0 = z.mean(), w.mean()
    factor = np.vdot(z - z0, w - w0) / np.vdot(z - z0, z - z0)
    shift = w0 - factor * z0
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def _centroid(labels: Labels, members: tuple[int, ...]) -> tuple[float, float] | None:
    rows, columns = np.nonzero(np.isin(labels, members))
    if len(rows) < 8 * (labels.shape[0] / 224) ** 2:
        return None
    return float(columns.mean()), float(rows.mean())


def _transfer_color(source: F32, target: F32, inside: npt.NDArray[np.bool_]) -> F32:
    """Mean and deviation of each CIE Lab channel, taken inside, from target to source (Reinhard 2001).

    OpenCV's float Lab is scikit-image's (sRGB, D65) at a twentieth of the time.
    """
    lab = np.asarray(cv2.cvtColor(source / 255, cv2.COLOR_RGB2LAB))
    wanted = np.asarray(cv2.cvtColor(target / 255, cv2.COLOR_RGB2LAB))[inside]
    given = lab[inside]
    ratio = np.clip(wanted.std(axis=0) / (given.std(axis=0) + 1e-3), 0.5, 2.0)
    lab = (lab - given.mean(axis=0)) * ratio + wanted.mean(axis=0)
    return np.asarray(np.clip(cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB), 0, 1) * 255, dtype=np.float32)


def _square_around(inside: npt.NDArray[np.bool_]) -> tuple[int, int, int]:
    """The square around a region with BOX_MARGIN, moved into the frame -> top, left, side."""
    rows, columns = np.nonzero(inside)
    size = inside.shape[0]
    longer = max(rows.max() - rows.min(), columns.max() - columns.min()) + 1
    side = min(round(longer * (1 + 2 * BOX_MARGIN)), size)
    top = int(np.clip((rows.min() + rows.max() + 1 - side) // 2, 0, size - side))
    left = int(np.clip((columns.min() + columns.max() + 1 - side) // 2, 0, size - side))
    return top, left, side
