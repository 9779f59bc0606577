"""The parts of a drawn face below the hair: bust, head, ears, eyes, brows, nose, mouth, and what is worn on them."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, M, Points, ellipse, mirror, smooth

LEFT, RIGHT = 1, -1  # the subject's left is on the right of the image


def head_outline(canvas: Canvas, grow: float = 1.0, *, num: int = 72) -> Points:
    """The outline of skull and jaw, clockwise from the crown -> (num, 2) face units."""
    t = canvas.traits
    angle = np.linspace(0, 2 * np.pi, num, endpoint=False)
    x, y = np.sin(angle) * t.width, -np.cos(angle)
    lower = np.clip(y, 0, 1)
    x = x * (1 - t.jaw * lower**2.5)
    y = np.where(y < 0, y * 1.42, y * t.chin)
    return np.stack([x, y], axis=1) * grow


def draw_bust(canvas: Canvas, rng: np.random.Generator) -> None:
    """Shoulders in cloth, the neck, a collar, a necklace."""
    t = canvas.traits
    shoulder = rng.uniform(1.5, 1.9)
    cloth = smooth(
        [(-3.2, 3.2), (-shoulder - 0.5, 2.1), (-0.7, 1.72), (0, 1.7), (0.7, 1.72), (shoulder + 0.5, 2.1), (3.2, 3.2)],
        closed=False,
    )
    canvas.fill(M.CLOTH, cloth)
    neck = 0.56 + 0.12 * (t.width - 0.94) / 0.14
    depth = rng.uniform(1.95, 2.15) if t.collar == 1 else rng.uniform(1.8, 1.92)
    throat = [(-neck, 0.9), (-neck * 1.02, 1.5), (-neck * 1.3, 1.74)]
    tip = [(0.0, depth)] if t.collar == 1 else [(-0.4, depth - 0.02), (0.0, depth), (0.4, depth - 0.02)]
    canvas.fill(M.NECK, np.array([*throat, *tip, *[(-x, y) for x, y in reversed(throat)]]))
    if t.collar == 2:
        for side in (LEFT, RIGHT):
            flap = np.array([(neck * 1.02, 1.55), (neck * 1.42, 1.72), (0.42, 2.12), (0.04, 1.9)])
            canvas.fill(M.COLLAR, mirror(flap, side))
    elif t.collar == 0:
        rim = smooth(
            [(-neck * 1.3, 1.74), (-0.4, depth - 0.02), (0, depth), (0.4, depth - 0.02), (neck * 1.3, 1.74)],
            closed=False,
        )
        canvas.stroke(M.COLLAR, rim, 0.06)
    if t.necklace:
        sag = rng.uniform(1.66, 1.8)
        chain = smooth(
            [(-neck * 1.0, 1.36), (-neck * 0.75, sag - 0.1), (0, sag), (neck * 0.75, sag - 0.1), (neck, 1.36)],
            closed=False,
        )
        canvas.stroke(M.NECKLACE, chain, 0.028 + 0.03 * rng.random())
        canvas.fill(M.PENDANT, ellipse((0, sag + 0.05), (0.05, 0.07)))


def draw_ears(canvas: Canvas) -> None:
    t = canvas.traits
    for side, material in ((LEFT, M.L_EAR), (RIGHT, M.R_EAR)):
        e, w = t.ear_size, t.width
        ear = smooth(
            [
                (w - 0.06, -0.28),
                (w + 0.08, -0.36 * e),
                (w + 0.17 * e, -0.2),
                (w + 0.13 * e, 0.06),
                (w + 0.05, 0.3 * e),
                (w - 0.1, 0.3),
            ]
        )
        canvas.fill(material, mirror(ear, side))


def draw_earrings(canvas: Canvas) -> None:
    t = canvas.traits
    if not t.earrings:
        return
    for side in (LEFT, RIGHT):
        x, y = (t.width + 0.03) * side, 0.3 * t.ear_size
        if t.earring_drop < 0.12:
            canvas.fill(M.EARRING, ellipse((x, y - 0.02), (0.045, 0.05)))
        elif t.earring_drop < 0.24:
            canvas.stroke(
                M.EARRING, ellipse((x, y + t.earring_drop * 0.7), (0.1, t.earring_drop * 0.7)), 0.03, closed=True
            )
        else:
            canvas.stroke(M.EARRING, np.array([(x, y), (x, y + t.earring_drop)]), 0.03)
            canvas.fill(M.EARRING, ellipse((x, y + t.earring_drop), (0.06, 0.1)))


def draw_head(canvas: Canvas) -> None:
    canvas.fill(M.SKIN, head_outline(canvas))


def draw_eyes(canvas: Canvas) -> None:
    t = canvas.traits
    for side, sclera, iris, pupil, lid, glint in (
        (LEFT, M.L_EYE, M.L_IRIS, M.L_PUPIL, M.L_LID, M.L_GLINT),
        (RIGHT, M.R_EYE, M.R_IRIS, M.R_PUPIL, M.R_LID, M.R_GLINT),
    ):
        x, y, w, o = t.eye_gap, -0.21, t.eye_width, t.eye_open
        upper = [
            (x - w, y + 0.02),
            (x - 0.5 * w, y - 0.75 * o),
            (x, y - o),
            (x + 0.55 * w, y - 0.7 * o),
            (x + w, y - 0.01),
        ]
        lower = [(x + 0.5 * w, y + 0.55 * o), (x, y + 0.75 * o), (x - 0.5 * w, y + 0.6 * o)]
        outline = mirror(smooth(upper + lower), side)
        canvas.fill(sclera, outline)
        center, r = (side * x + t.gaze, y - 0.1 * o), 0.092
        canvas.fill(iris, ellipse(center, (r, r)), within=sclera)
        canvas.fill(pupil, ellipse(center, (0.4 * r, 0.4 * r)), within=iris)
        shine = (center[0] + 0.35 * r * np.sign(t.light[0]), center[1] - 0.35 * r)
        for under in (iris, pupil):
            canvas.fill(glint, ellipse(shine, (0.22 * r, 0.22 * r), num=10), within=under)
        canvas.stroke(lid, mirror(smooth(upper, closed=False), side), 0.022)


def draw_brows(canvas: Canvas) -> None:
    t = canvas.traits
    for side, material in ((LEFT, M.L_BROW), (RIGHT, M.R_BROW)):
        x, y, w, h, arch = t.eye_gap, -0.47, t.eye_width * 1.28, t.brow_thickness, t.brow_arch
        brow = smooth(
            [
                (x - w, y + 0.01),
                (x - 0.3 * w, y - 0.4 * arch - 0.6 * h),
                (x + 0.4 * w, y - arch - 0.5 * h),
                (x + w, y + 0.07),
                (x + 0.35 * w, y - arch + 0.5 * h),
                (x - 0.4 * w, y - 0.2 * arch + 0.6 * h),
                (x - 0.95 * w, y + 0.01 + 0.8 * h),
            ]
        )
        canvas.fill(material, mirror(brow, side))


def draw_nose(canvas: Canvas) -> None:
    t = canvas.traits
    tip, w = t.nose_length, t.nose_width
    right = [
        (0.07, -0.24),
        (0.085, 0.05),
        (0.13, tip - 0.22),
        (w, tip - 0.08),
        (w * 0.85, tip + 0.03),
        (0.1, tip + 0.03),
    ]
    canvas.fill(M.NOSE, smooth([*right, (0.0, tip + 0.08), *[(-x, y) for x, y in reversed(right)]]))
    for side in (LEFT, RIGHT):
        canvas.fill(M.NOSTRIL, ellipse((side * w * 0.5, tip + 0.02), (w * 0.22, 0.032), num=16), within=M.NOSE)


def draw_mouth(canvas: Canvas) -> None:
    t = canvas.traits
    w, h, gap, y, s = t.mouth_width, t.lip_thickness, t.mouth_open, 0.86, t.smile
    left, right = (-w, y - s), (w, y - s)
    top = [
        left,
        (-0.45 * w, y - 0.75 * h),
        (-0.13 * w, y - h),
        (0, y - 0.82 * h),
        (0.13 * w, y - h),
        (0.45 * w, y - 0.75 * h),
        right,
    ]
    upper_rim = [(0.5 * w, y + 0.02 + 0.1 * s), (0, y + 0.03), (-0.5 * w, y + 0.02 + 0.1 * s)]
    lower_rim = [(0.5 * w, y + 0.02 + 0.8 * gap), (0, y + 0.03 + gap), (-0.5 * w, y + 0.02 + 0.8 * gap)]
    bottom = [left, (-0.5 * w, y + gap + 0.95 * h), (0, y + gap + 1.35 * h), (0.5 * w, y + gap + 0.95 * h), right]
    lip_line = smooth([left, *reversed(upper_rim), right], closed=False)
    canvas.fill(M.L_LIP, np.concatenate([lip_line, smooth(bottom, closed=False)[::-1]]))
    if gap > 0:
        canvas.fill(
            M.MOUTH, np.concatenate([lip_line, smooth([left, *reversed(lower_rim), right], closed=False)[::-1]])
        )
        teeth = np.concatenate([lip_line, lip_line[::-1] + np.array([0, 0.6 * gap])])
        canvas.fill(M.TEETH, teeth * np.array([0.86, 1.0]), within=M.MOUTH)
    canvas.fill(M.U_LIP, np.concatenate([smooth(top, closed=False), lip_line[::-1]]))


def draw_glasses(canvas: Canvas) -> None:
    """Lenses count as glasses, as in CelebAMask-HQ's composition order; frame and tinted lens are two materials."""
    t = canvas.traits
    if not t.glasses:
        return
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    power = 0.45 + 0.55 * t.lens_round  # superellipse exponent: 1 is an ellipse
    unit = np.stack([np.sign(v) * np.abs(v) ** power for v in (np.cos(angle), np.sin(angle))], axis=1)
    for side in (LEFT, RIGHT):
        lens = unit * np.array([0.33, 0.24]) + np.array([side * t.eye_gap, -0.17])
        canvas.fill(M.LENS, lens)
        canvas.stroke(M.GLASSES, lens, 0.036, closed=True)
        canvas.stroke(M.GLASSES, np.array([(side * (t.eye_gap + 0.33), -0.22), (side * t.width, -0.24)]), 0.036)
    canvas.stroke(
        M.GLASSES, smooth([(-t.eye_gap + 0.33, -0.2), (0, -0.24), (t.eye_gap - 0.33, -0.2)], closed=False), 0.036
    )
