"""The material map that a face is drawn on, and the pose that takes face units to pixels.

A material is finer than a label (sclera, iris and pupil are all `l_eye`); LABEL_OF takes the map of materials to the
exact label map, in the 19-class order of BiSeNet. `l_` and `r_` are the subject's own: l_eye is on the right of the
image, as in CelebAMask-HQ.
"""

from __future__ import annotations

from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt

from .traits import Traits

SIZE = 512  # pixels a side of every drawing
Points = npt.NDArray[np.float64]  # (n, 2), x to the right and y down


class M(IntEnum):
    """Materials; 0..18 are the labels themselves."""

    BACKGROUND = 0
    SKIN = 1
    L_BROW = 2
    R_BROW = 3
    L_EYE = 4  # sclera
    R_EYE = 5
    GLASSES = 6  # frame
    L_EAR = 7
    R_EAR = 8
    EARRING = 9
    NOSE = 10
    MOUTH = 11  # the inside of the mouth
    U_LIP = 12
    L_LIP = 13
    NECK = 14
    NECKLACE = 15
    CLOTH = 16
    HAIR = 17
    HAT = 18
    L_IRIS = 19
    R_IRIS = 20
    L_PUPIL = 21
    R_PUPIL = 22
    L_LID = 23
    R_LID = 24
    TEETH = 25
    LENS = 26
    NOSTRIL = 27
    COLLAR = 28
    HAT_BAND = 29
    PENDANT = 30
    L_GLINT = 31
    R_GLINT = 32
    SCENE = 33  # an object in the background


NUM_MATERIALS = len(M)
LABEL_OF = np.arange(256, dtype=np.uint8)
for _material, _label in {
    M.L_IRIS: M.L_EYE,
    M.R_IRIS: M.R_EYE,
    M.L_PUPIL: M.L_EYE,
    M.R_PUPIL: M.R_EYE,
    M.L_LID: M.L_EYE,
    M.R_LID: M.R_EYE,
    M.TEETH: M.MOUTH,
    M.LENS: M.GLASSES,
    M.NOSTRIL: M.NOSE,
    M.COLLAR: M.CLOTH,
    M.HAT_BAND: M.HAT,
    M.PENDANT: M.NECKLACE,
    M.L_GLINT: M.L_EYE,
    M.R_GLINT: M.R_EYE,
    M.SCENE: M.BACKGROUND,
}.items():
    LABEL_OF[_material] = _label


class Canvas:
    """A (512, 512) uint8 material map; shapes are given in face units and posed."""

    def __init__(self, traits: Traits) -> None:
        self.traits = traits
        self.material: npt.NDArray[np.uint8] = np.zeros((SIZE, SIZE), dtype=np.uint8)

    def pose(self, points: Points) -> Points:
        """Face units -> pixels. The middle of the face is nearer to the viewer: yaw and pitch move it more."""
        t = self.traits
        x, y = points[:, 0], points[:, 1]
        depth = np.sqrt(np.clip(1.0 - (x / 1.15) ** 2 - (y / 1.7) ** 2, 0.0, 1.0))
        x, y = x + t.yaw * depth, y + t.pitch * depth
        cos, sin = np.cos(t.roll), np.sin(t.roll)
        return np.stack(
            [t.center[0] + t.scale * (cos * x - sin * y), t.center[1] + t.scale * (sin * x + cos * y)], axis=1
        )

    def fill(
        self, material: int, points: Points, *, on: npt.NDArray[np.uint8] | None = None, within: int | None = None
    ) -> None:
        """Fill a polygon, without anti-aliasing; `within` restricts it to pixels that hold that material."""
        target = self.material if on is None else on
        polygon = np.rint(self.pose(points)).astype(np.int32)
        if within is None:
            cv2.fillPoly(target, [polygon], int(material))
            return
        left, top = np.clip(polygon.min(axis=0), 0, SIZE)
        right, bottom = np.clip(polygon.max(axis=0) + 1, 0, SIZE)
        if right <= left or bottom <= top:
            return
        window = target[top:bottom, left:right]
        stencil = np.zeros(window.shape, dtype=np.uint8)
        cv2.fillPoly(stencil, [polygon - np.array([left, top])], 1)
        window[(stencil == 1) & (window == within)] = material

    def stroke(self, material: int, points: Points, width: float, *, closed: bool = False) -> None:
        """A line of `width` face units."""
        polyline = np.rint(self.pose(points)).astype(np.int32)
        cv2.polylines(self.material, [polyline], closed, int(material), max(1, round(width * self.traits.scale)))

    def labels(self) -> npt.NDArray[np.uint8]:
        """uint8 (512, 512), 0..18."""
        return np.asarray(cv2.LUT(self.material, LABEL_OF), dtype=np.uint8)


def smooth(points: list[tuple[float, float]], *, closed: bool = True, steps: int = 8) -> Points:
    """A Catmull-Rom curve through the points -> (n, 2)."""
    p = np.asarray(points, dtype=np.float64)
    if closed:
        before, start, end, after = np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        padded = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    b, s, e, a = (v[:, None, :] for v in (before, start, end, after))
    curve: Points = 0.5 * (2 * s + (e - b) * t + (2 * b - 5 * s + 4 * e - a) * t**2 + (3 * s - b - 3 * e + a) * t**3)
    curve = curve.reshape(-1, 2)
    if not closed:
        curve = np.concatenate([curve, p[-1:]])
    return np.asarray(curve, dtype=np.float64)


def ellipse(center: tuple[float, float], radii: tuple[float, float], *, num: int = 40) -> Points:
    """A closed ellipse -> (num, 2)."""
    angle = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return np.stack([center[0] + radii[0] * np.cos(angle), center[1] + radii[1] * np.sin(angle)], axis=1)


def mirror(points: Points, side: int) -> Points:
    """`side` +1 leaves the points, -1 mirrors them at the middle of the face."""
    return np.asarray(points * np.array([side, 1.0]), dtype=np.float64)
