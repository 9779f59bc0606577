"""Colour, light and texture: a material map -> an sRGB image."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from .canvas import NUM_MATERIALS, SIZE, Canvas, M
from .features import draw_brows, draw_eyes
from .traits import Traits

F32 = npt.NDArray[np.float32]

HALF = SIZE // 2  # light and folds are smooth: computed at half the size, then enlarged


def render(canvas: Canvas, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Material map -> uint8 (512, 512, 3) RGB."""
    t, material = canvas.traits, canvas.material
    rgb = _background(t, rng)
    palette = _palette(t)
    front = material != M.BACKGROUND
    colors = palette[material]  # (512, 512, 3)
    colors[~front] = rgb[~front]
    groups = {
        "flesh": _is(material, M.SKIN, M.NOSE, M.NOSTRIL, M.L_EAR, M.R_EAR, M.NECK, M.U_LIP, M.L_LIP),
        "hair": _is(material, M.HAIR, M.L_BROW, M.R_BROW),
        "cloth": _is(material, M.CLOTH, M.COLLAR, M.HAT, M.HAT_BAND),
    }
    gain = np.ones((SIZE, SIZE), dtype=np.float32)
    light = _enlarge(_light(canvas, rng))
    flesh_gain = light * _enlarge(_folds(canvas)) + _skin_texture(rng, t)
    np.copyto(gain, flesh_gain, where=groups["flesh"])
    np.copyto(gain, 1.0 + _strands(canvas, rng) + 0.4 * (light - 1.0), where=groups["hair"])
    np.copyto(gain, _fabric(canvas, rng) + 0.5 * (light - 1.0), where=groups["cloth"])
    blush = _enlarge(_blush(canvas))
    colors *= gain[..., None]
    red = np.where(groups["flesh"], blush, 0.0).astype(np.float32)
    colors[..., 0] += 9.0 * red
    colors[..., 1] -= 5.0 * red
    colors[..., 2] -= 3.0 * red
    if t.beard > 0:
        _grow_beard(colors, canvas, rng)
    if t.glasses:
        _fill_lenses(colors, canvas, rng)
    _occlude(colors, material)
    np.copyto(
        colors, 205 + 50 * np.tanh((colors - 205) / 50), where=colors > 205
    )  # a shoulder instead of burnt patches
    return np.clip(colors, 0, 255).astype(np.uint8)


def noise(rng: np.random.Generator, rows: int, columns: int, size: int = SIZE) -> F32:
    """Smooth noise of unit deviation at its grid points: rows x columns cells enlarged to (size, size)."""
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _enlarge(field: F32) -> F32:
    return np.asarray(cv2.resize(field, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _is(material: npt.NDArray[np.uint8], *members: int) -> npt.NDArray[np.bool_]:
    table = np.zeros(256, dtype=np.uint8)
    table[list(members)] = 1
    return np.asarray(cv2.LUT(material, table)).astype(np.bool_)


def _palette(t: Traits) -> F32:
    """sRGB of every material -> (NUM_MATERIALS, 3)."""
    white = np.array([226, 222, 218], dtype=np.float32) * (0.8 + 0.2 * float(t.skin.mean()) / 255)
    p = np.zeros((NUM_MATERIALS, 3), dtype=np.float32)
    p[[M.SKIN, M.NOSE]] = t.skin
    p[[M.L_EAR, M.R_EAR]] = t.skin * np.array([0.97, 0.9, 0.89])
    p[M.NECK] = t.skin * 0.88
    p[M.NOSTRIL] = t.skin * np.array([0.42, 0.34, 0.32])
    p[[M.L_BROW, M.R_BROW]] = t.brow
    p[[M.L_EYE, M.R_EYE]] = white
    p[[M.L_IRIS, M.R_IRIS]] = t.iris
    p[[M.L_PUPIL, M.R_PUPIL]] = 14.0
    p[[M.L_LID, M.R_LID]] = 0.25 * t.skin + 8
    p[[M.L_GLINT, M.R_GLINT]] = 250.0
    p[M.GLASSES] = t.frame_color
    p[M.LENS] = t.skin
    p[[M.EARRING, M.NECKLACE]] = t.item_color
    p[M.PENDANT] = np.clip(t.item_color * 0.8 + 30, 0, 255)
    p[M.MOUTH] = np.array([70, 26, 26])
    p[M.TEETH] = np.array([232, 226, 214])
    p[M.U_LIP] = t.lips * 0.88
    p[M.L_LIP] = t.lips
    p[M.CLOTH] = t.cloth
    p[M.COLLAR] = 0.35 * t.cloth + 0.65 * t.cloth_second
    p[M.HAIR] = t.hair
    p[M.HAT] = t.hat_color
    p[M.HAT_BAND] = 0.6 * t.hat_color + 0.4 * t.cloth_second
    p[M.SCENE] = t.background_second
    return p


def _background(t: Traits, rng: np.random.Generator) -> F32:
    """Blurred places: a ramp between two colours, cloudy patches, sometimes bars."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, 64, dtype=np.float32)
    ramp = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    cells = int(rng.integers(2, 9))
    ramp = ramp + rng.uniform(0.2, 1.0) * noise(rng, cells, cells, 64)
    if rng.random() < 0.35:
        ramp = ramp + rng.uniform(0.3, 0.9) * np.sign(np.sin(rng.uniform(3, 12) * axis[None, :] + rng.uniform(0, 6)))
        ramp = np.asarray(cv2.GaussianBlur(ramp.astype(np.float32), (0, 0), rng.uniform(0.6, 3)))
    mix = 1.0 / (1.0 + np.exp(-1.6 * ramp))
    small = mix[..., None] * t.background + (1 - mix[..., None]) * t.background_second
    large = cv2.resize(small.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    grain = rng.uniform(0.0, 4.0) * noise(rng, 200, 200)
    return np.asarray(large + grain[..., None], dtype=np.float32)


def _face_grid(canvas: Canvas, size: int) -> tuple[F32, F32]:
    """Face units of every pixel (roll, scale and centre undone) -> x, y, each (size, size)."""
    t = canvas.traits
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (SIZE / size)
    dx, dy = axis[None, :] - t.center[0], axis[:, None] - t.center[1]
    cos, sin = np.cos(t.roll) / t.scale, np.sin(t.roll) / t.scale
    return (cos * dx + sin * dy).astype(np.float32), (cos * dy - sin * dx).astype(np.float32)


def _light(canvas: Canvas, rng: np.random.Generator) -> F32:
    """Lambert shading of an ellipsoid with a soft terminator -> (256, 256), about 1."""
    t = canvas.traits
    x, y = _face_grid(canvas, HALF)
    nx, ny = np.clip((x - 0.5 * t.yaw) / 1.12, -1.3, 1.3), np.clip(y / 1.6, -1.3, 1.3)
    nz = np.sqrt(np.clip(1.15 - nx**2 - ny**2, 0.02, None))
    shade = 0.34 * t.light[0] * nx + 0.26 * t.light[1] * ny + 0.42 * nz
    shadow_under_chin = 0.3 * np.exp(-(((y - t.chin - 0.16) / 0.2) ** 2) - (x / 0.75) ** 2)
    return np.asarray(0.66 + shade - shadow_under_chin + 0.03 * noise(rng, 7, 7, HALF), dtype=np.float32)


def _folds(canvas: Canvas) -> F32:
    """Sockets, bridge, nasolabial folds, philtrum, chin -> gain (256, 256), about 1."""
    t = canvas.traits
    soft = np.zeros((HALF, HALF), dtype=np.float32)
    fine = np.zeros((HALF, HALF), dtype=np.float32)

    def line(target: F32, points: list[tuple[float, float]], width: float, value: float) -> None:
        stencil = np.zeros((HALF, HALF), dtype=np.uint8)
        polyline = np.rint(canvas.pose(np.array(points)) / 2).astype(np.int32)
        cv2.polylines(stencil, [polyline], False, 255, max(1, round(width * t.scale / 2)))
        cv2.scaleAdd(stencil.astype(np.float32), value / 255, target, target)

    tip, w, y = t.nose_length, t.nose_width, 0.86
    line(soft, [(0, -0.2), (0, tip - 0.1)], 0.08, 0.22)
    line(soft, [(0, tip - 0.04), (0.01, tip)], 0.14, 0.3)
    line(soft, [(-0.4, -0.85), (0.4, -0.85)], 0.3, 0.08)
    line(soft, [(-0.16, y + 0.34), (0.16, y + 0.34)], 0.1, -0.25)
    line(soft, [(-0.1, y + 0.5), (0.1, y + 0.5)], 0.12, 0.12)
    line(soft, [(-w, tip + 0.1), (w, tip + 0.1)], 0.06, -0.3)
    for side in (-1, 1):
        g = t.eye_gap * side
        line(soft, [(g - 0.16, -0.32), (g + 0.16, -0.32)], 0.1, -0.28)
        line(soft, [(side * 0.13, -0.3), (side * 0.15, 0.1), (side * (w + 0.02), tip - 0.15)], 0.07, -0.26)
        line(soft, [(side * 0.6, 0.16), (side * 0.66, 0.24)], 0.24, 0.12)
        line(soft, [(side * 0.78, 0.45), (side * 0.68, 1.0)], 0.16, -0.14)
        line(
            fine,
            [(side * (w + 0.05), tip - 0.06), (side * (t.mouth_width + 0.07), y - 0.06 - t.smile)],
            0.03,
            -0.3 * (0.3 + t.age),
        )
        line(fine, [(g - 0.15, -0.08), (g, -0.05), (g + 0.15, -0.08)], 0.02, -0.3 * (0.2 + t.age))
        line(fine, [(g - 0.19, -0.29), (g, -0.37), (g + 0.19, -0.29)], 0.02, -0.4)
        line(fine, [(side * (t.width + 0.08), -0.22), (side * (t.width + 0.06), 0.1)], 0.05, -0.4)
    if t.age > 0.45:
        for row in range(3):
            line(
                fine,
                [(-0.5, -0.75 - 0.1 * row), (0.0, -0.78 - 0.1 * row), (0.5, -0.75 - 0.1 * row)],
                0.015,
                -0.3 * t.age,
            )
    line(fine, [(-t.mouth_width, y - t.smile), (0, y + 0.03), (t.mouth_width, y - t.smile)], 0.02, -0.5)
    line(fine, [(-0.1, y + t.mouth_open + 0.08), (0.12, y + t.mouth_open + 0.08)], 0.03, 0.35)
    soft = np.asarray(cv2.GaussianBlur(soft, (0, 0), 6.0), dtype=np.float32)
    fine = np.asarray(cv2.GaussianBlur(fine, (0, 0), 1.2), dtype=np.float32)
    return (1.0 + soft + fine).astype(np.float32)


def _blush(canvas: Canvas) -> F32:
    x, y = _face_grid(canvas, HALF)
    x = x - canvas.traits.yaw * 0.7
    cheeks = np.exp(-(((np.abs(x) - 0.6) / 0.25) ** 2) - ((y - 0.3) / 0.25) ** 2)
    nose = 0.7 * np.exp(-((x / 0.2) ** 2) - ((y - 0.45) / 0.15) ** 2)
    return (cheeks + nose).astype(np.float32)


def _skin_texture(rng: np.random.Generator, t: Traits) -> F32:
    """Pores, blotches and a few moles -> additive gain (512, 512)."""
    pores = 0.018 * noise(rng, 300, 300) + 0.014 * noise(rng, 150, 150)
    blotches = 0.022 * noise(rng, 40, 40) + 0.02 * noise(rng, 14, 14)
    texture = pores * (0.7 + t.age) + blotches
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.integers(130, 380), rng.integers(150, 440)
        cv2.circle(texture, (int(x), int(y)), int(rng.integers(1, 4)), -0.25, -1)
    return texture.astype(np.float32)


def _strands(canvas: Canvas, rng: np.random.Generator) -> F32:
    """Noise drawn out along lines that leave the crown (curls: round noise) -> additive gain (512, 512)."""
    t = canvas.traits
    if t.hair_style == "afro":
        return 0.22 * noise(rng, 110, 110) + 0.12 * noise(rng, 220, 220)
    x, y = _face_grid(canvas, SIZE)
    dy = y + 1.55
    along, angle = cv2.cartToPolar(x - rng.uniform(-0.25, 0.25), dy + 0.25)
    wave = 0.06 if t.hair_style == "wavy" else 0.012
    angle = angle + wave * noise(rng, 12, 12) + 0.004 * noise(rng, 60, 60)
    strands = rng.standard_normal((64, 1024), dtype=np.float32)
    strands = np.asarray(
        cv2.GaussianBlur(strands, (0, 0), sigmaX=0.8, sigmaY=2.0, borderType=cv2.BORDER_REFLECT), dtype=np.float32
    )
    fine = cv2.remap(
        strands,
        (angle * np.float32(1023 / (2 * np.pi))).astype(np.float32),
        (along * 14 % 63).astype(np.float32),
        cv2.INTER_LINEAR,
    )
    sheen = np.exp(-(((along - 0.95 - 0.04 * noise(rng, 24, 24)) / 0.22) ** 2))
    return np.asarray(0.55 * fine + 0.1 * noise(rng, 30, 30) + 0.35 * sheen - 0.1, dtype=np.float32)


def _fabric(canvas: Canvas, rng: np.random.Generator) -> F32:
    """Weave, folds and sometimes stripes -> gain (512, 512)."""
    weave = 0.05 * noise(rng, 256, 128) + 0.05 * noise(rng, 128, 256)
    folds = 0.1 * noise(rng, 6, 14)
    gain = 1.0 + weave + folds
    if rng.random() < 0.3:
        x, y = _face_grid(canvas, SIZE)
        gain += 0.14 * np.sign(np.sin(rng.uniform(14, 34) * (x if rng.random() < 0.5 else y)))
    return gain.astype(np.float32)


def _grow_beard(colors: F32, canvas: Canvas, rng: np.random.Generator) -> None:
    """Stubble or a beard on jaw, chin and upper lip; its label stays skin, as in CelebAMask-HQ."""
    t = canvas.traits
    x, y = _face_grid(canvas, SIZE)
    x = x - 0.6 * t.yaw
    jaw = 1 / (
        1 + np.exp(-14 * (y - 0.62 - 0.12 * np.cos(3 * x) + 0.9 * np.clip(0.75 - np.abs(x), 0, None) * (y < 0.7)))
    )
    lip = np.exp(-(((y - 0.7) / 0.07) ** 2) - (x / 0.42) ** 4)
    density = t.beard * np.clip(jaw + lip, 0, 1) * (1 + 0.35 * noise(rng, 220, 160))
    density = np.where(_is(canvas.material, M.SKIN), np.clip(density, 0, 0.92), 0)[..., None]
    colors += density * (0.8 * t.hair - colors)


def _fill_lenses(colors: F32, canvas: Canvas, rng: np.random.Generator) -> None:
    """Through a lens the eyes show, under a tint and a diagonal glare."""
    t = canvas.traits
    lens = canvas.material == M.LENS
    behind = Canvas(t)
    behind.material[:] = M.SKIN
    draw_brows(behind)
    draw_eyes(behind)
    seen = _palette(t)[behind.material]
    x, y = _face_grid(canvas, SIZE)
    glare = 0.12 * (np.sin(5 * (x + y) + rng.uniform(0, 6)) > 0.9)
    flesh = (0.94 + glare)[..., None] * seen * (0.9 + 0.1 * _enlarge(_light(canvas, rng)))[..., None]
    colors[lens] = flesh[lens] + 8


def _occlude(colors: F32, material: npt.NDArray[np.uint8]) -> None:
    """Contact shadows: hair, hat and head darken what lies just below them."""
    above = _is(material, M.HAIR, M.HAT, M.HAT_BAND, M.GLASSES)
    shadow = cv2.GaussianBlur(
        cv2.resize(above.astype(np.float32), (HALF, HALF), interpolation=cv2.INTER_AREA), (0, 0), 5.0
    )
    shifted = np.roll(_enlarge(np.asarray(shadow)), 6, axis=0)
    below = _is(material, M.SKIN, M.NOSE, M.NECK, M.L_EAR, M.R_EAR)
    colors *= (1.0 - 0.38 * np.where(below, shifted, 0.0))[..., None].astype(np.float32)
