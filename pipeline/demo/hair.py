"""Hair behind and in front of the head, in the styles of HAIR_STYLES, and hats."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, M, Points, ellipse, smooth
from .features import head_outline


def draw_hair_behind(canvas: Canvas, rng: np.random.Generator) -> None:
    """What hangs or stands behind neck and ears."""
    style, w = canvas.traits.hair_style, canvas.traits.width
    if style == "bun":
        canvas.fill(M.HAIR, ellipse((rng.uniform(-0.15, 0.15), -1.68), (0.42, 0.36)))
    elif style == "afro":
        _cloud(canvas, rng, ellipse((0, -0.55), (1.28, 1.22), num=26), 0.26)
    elif style in ("bob", "long", "wavy", "fringe"):
        length = {
            "bob": rng.uniform(0.9, 1.25),
            "long": 2.4,
            "wavy": rng.uniform(1.6, 2.3),
            "fringe": rng.uniform(0.9, 2.3),
        }[style]
        out = w + rng.uniform(0.22, 0.42)
        right = [
            (0.0, -1.62),
            (0.7, -1.45),
            (out - 0.08, -0.8),
            (out, 0.0),
            (out + 0.04, 0.6),
            (out - 0.02, length),
            (0.45, length),
        ]
        curve = smooth([*right, *[(-x, y) for x, y in reversed(right[1:])]])
        canvas.fill(M.HAIR, curve)
        if style == "wavy":
            _cloud(canvas, rng, curve[::3], 0.15)


def draw_hair_front(canvas: Canvas, rng: np.random.Generator) -> None:
    """The hair on the skull, down to the hairline."""
    t = canvas.traits
    style, w = t.hair_style, t.width
    if style == "none":
        return
    part = rng.choice([-1.0, 1.0])
    if style == "receding":
        for side in (-1.0, 1.0):
            patch = [(w - 0.14, -0.72), (w + 0.05, -0.75), (w + 0.08, -0.2), (w - 0.04, 0.0), (w - 0.1, -0.35)]
            canvas.fill(M.HAIR, smooth([(side * x, y) for x, y in patch]))
        return
    lift = {"crop": 1.05, "side-part": 1.13, "bun": 1.05, "afro": 1.1}.get(style, 1.14)
    outline = head_outline(canvas, lift)
    temple = {"crop": -0.1, "side-part": 0.0, "bun": -0.25, "afro": -0.1}.get(style, 0.35)
    upper = outline[outline[:, 1] < temple]
    upper = upper[
        np.argsort(np.arctan2(upper[:, 0], -upper[:, 1]))
    ]  # from the image's left over the crown to its right
    edge = w - 0.04
    hairline = {
        "crop": [
            (edge, temple),
            (edge - 0.1, -0.55),
            (0.6, -1.0),
            (0.0, -1.06),
            (-0.6, -1.0),
            (-edge + 0.1, -0.55),
            (-edge, temple),
        ],
        "side-part": [
            (edge, temple),
            (edge - 0.1, -0.55),
            (0.62, -0.8),
            (0.1, -0.92),
            (-0.42, -1.16),
            (-0.8, -0.7),
            (-edge, temple),
        ],
        "fringe": [
            (edge, temple),
            (edge - 0.08, -0.3),
            (0.66, -0.58),
            (0.0, -0.62),
            (-0.66, -0.58),
            (-edge + 0.08, -0.3),
            (-edge, temple),
        ],
        "bob": [
            (edge, temple),
            (edge - 0.12, -0.3),
            (0.72, -0.7),
            (0.3, -0.98),
            (-0.3, -1.12),
            (-0.78, -0.6),
            (-edge, temple),
        ],
        "bun": [
            (edge, temple),
            (edge - 0.1, -0.7),
            (0.55, -1.08),
            (0.0, -1.16),
            (-0.55, -1.08),
            (-edge + 0.1, -0.7),
            (-edge, temple),
        ],
        "afro": [
            (edge, temple),
            (edge - 0.12, -0.6),
            (0.5, -0.94),
            (0.0, -0.98),
            (-0.5, -0.94),
            (-edge + 0.12, -0.6),
            (-edge, temple),
        ],
    }
    middle = [
        (edge, temple),
        (edge - 0.1, -0.3),
        (0.66, -0.8),
        (0.04, -1.24),
        (-0.66, -0.8),
        (-edge + 0.1, -0.3),
        (-edge, temple),
    ]
    line = smooth([(x, y + rng.uniform(-0.03, 0.03)) for x, y in hairline.get(style, middle)], closed=False)
    cap = np.concatenate([upper, line])
    canvas.fill(M.HAIR, cap * np.array([part, 1.0]))
    if style in ("bob", "long", "wavy", "fringe"):  # strands in front of the ears, down the cheeks
        for side in (-1.0, 1.0):
            length = {"bob": 1.1, "long": 2.3, "wavy": 1.7, "fringe": 1.0}[style] * rng.uniform(0.8, 1.0)
            lock = [(w - 0.12, -0.55), (w - 0.06, 0.1), (w - rng.uniform(0.0, 0.14), length * 0.6), (w - 0.1, length)]
            outer = [(w + 0.22, length), (w + 0.28, 0.5), (w + 0.24, -0.5)]
            canvas.fill(M.HAIR, smooth([(side * x, y) for x, y in lock + outer]))
    if style in ("afro", "wavy"):
        _cloud(canvas, rng, upper[::2] * 0.98, 0.13, fill=False)


def draw_hat(canvas: Canvas, rng: np.random.Generator) -> None:
    t = canvas.traits
    if not t.hat:
        return
    dome = head_outline(canvas, 1.24)
    brow = -0.8
    dome = dome[dome[:, 1] < brow]
    dome = dome[np.argsort(np.arctan2(dome[:, 0], -dome[:, 1]))] * np.array([1.0, rng.uniform(0.95, 1.08)])
    edge = float(np.abs(dome[:, 0]).max())
    rim = smooth(
        [(edge, brow), (0.5, brow - 0.06), (0.0, brow - 0.08), (-0.5, brow - 0.06), (-edge, brow)], closed=False
    )
    canvas.fill(M.HAT, np.concatenate([dome, rim]))
    if t.hat == "beanie":
        canvas.fill(M.HAT_BAND, np.concatenate([rim, (rim[::-1] - np.array([0.0, 0.28])) * np.array([0.98, 1.0])]))
    elif t.hat == "cap":
        peak = smooth(
            [
                (-0.85, brow - 0.05),
                (-0.5, brow + 0.14),
                (0.0, brow + 0.2),
                (0.5, brow + 0.14),
                (0.85, brow - 0.05),
                (0.0, brow - 0.2),
            ]
        )
        canvas.fill(M.HAT_BAND, peak)
    else:
        canvas.fill(
            M.HAT,
            smooth(
                [
                    (-1.75, brow + 0.05),
                    (0.0, brow - 0.32),
                    (1.75, brow + 0.05),
                    (1.0, brow + 0.13),
                    (0.0, brow + 0.02),
                    (-1.0, brow + 0.13),
                ]
            ),
        )
        canvas.fill(
            M.HAT_BAND,
            np.concatenate(
                [
                    (rim - np.array([0.0, 0.1])) * np.array([0.99, 1.0]),
                    (rim[::-1] - np.array([0.0, 0.3])) * np.array([0.93, 1.0]),
                ]
            ),
        )


def _cloud(canvas: Canvas, rng: np.random.Generator, spine: Points, radius: float, *, fill: bool = True) -> None:
    """Round locks along a spine, and what it encloses."""
    if fill:
        canvas.fill(M.HAIR, spine)
    for x, y in spine:
        r = radius * rng.uniform(0.7, 1.25)
        canvas.fill(M.HAIR, ellipse((x + rng.normal(0, 0.04), y + rng.normal(0, 0.04)), (r, r), num=14))
