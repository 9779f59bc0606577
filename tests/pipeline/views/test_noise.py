from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from skimage.feature import graycomatrix, graycoprops

from bmrl.pipeline.views.image import compute_image, read_source
from bmrl.pipeline.views.noise import (
    DENOMINATORS,
    NoiseParams,
    compute_noise,
    glcm_gray,
    patch_homogeneity,
    srm_numerators,
    srm_residual,
)

# Written down anew from Fridrich & Kodovsky 2012, so that a slip in the module shows.
SRM = (
    (4, [[0, 0, 0, 0, 0], [0, -1, 2, -1, 0], [0, 2, -4, 2, 0], [0, -1, 2, -1, 0], [0, 0, 0, 0, 0]]),
    (12, [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]),
    (2, [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, -2, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
)
RGB = npt.NDArray[np.uint8]


def specified_gray(rgb: RGB) -> RGB:
    """trunc(255 * (0.2989 R + 0.587 G + 0.114 B)) in float32 on RGB / 255."""
    unit = rgb.astype(np.float32) / np.float32(255)
    gray = np.float32(0.2989) * unit[..., 0] + np.float32(0.587) * unit[..., 1] + np.float32(0.114) * unit[..., 2]
    assert gray.dtype == np.float32
    return np.trunc(gray * np.float32(255)).astype(np.uint8)


def skimage_scores(rgb: RGB, size: int = 112) -> list[float]:
    gray = specified_gray(rgb)
    scores = []
    for top in range(0, gray.shape[0] - size + 1, size):
        for left in range(0, gray.shape[1] - size + 1, size):
            matrix = graycomatrix(
                gray[top : top + size, left : left + size],
                distances=[1],
                angles=[0],
                levels=256,
                symmetric=True,
                normed=True,
            )
            scores.append(float(graycoprops(matrix, "homogeneity")[0, 0]))
    return scores


def exact_residual(patch: RGB, k: int, i: int, j: int) -> Fraction:
    """Kernel k at (i, j) of patch / 255, zero padding, summed over RGB, clipped at 3."""
    divisor, kernel = SRM[k]
    total = Fraction(0)
    for di in range(-2, 3):
        for dj in range(-2, 3):
            if 0 <= i + di < patch.shape[0] and 0 <= j + dj < patch.shape[1]:
                for c in range(3):
                    total += Fraction(kernel[di + 2][dj + 2], divisor) * Fraction(int(patch[i + di, j + dj, c]), 255)
    return max(Fraction(-3), min(Fraction(3), total))


def integer_numerators(patch: RGB) -> npt.NDArray[np.int64]:
    """All positions at once, int64 (3, p, p), over the denominators 255 * divisor."""
    size = patch.shape[0]
    padded = np.pad(patch.astype(np.int64).sum(axis=2), 2)
    out = np.zeros((3, size, size), dtype=np.int64)
    for k, (divisor, kernel) in enumerate(SRM):
        for di in range(5):
            for dj in range(5):
                out[k] += kernel[di][dj] * padded[di : di + size, dj : dj + size]
        out[k] = out[k].clip(-3 * 255 * divisor, 3 * 255 * divisor)
    return out


def random_patch(seed: int = 0, high: int = 256) -> RGB:
    return np.random.default_rng(seed).integers(0, high, (112, 112, 3), dtype=np.uint8)


def test_scores_of_photographs_are_scikit_images(photographs: list[Path]) -> None:
    for path in photographs:
        rgb = compute_image(read_source(path.read_bytes()))
        expected = skimage_scores(rgb)
        assert np.abs(patch_homogeneity(rgb) - expected).max() <= 1e-9
        found = compute_noise(rgb)
        assert divmod(int(np.argmin(expected)), 2) == (found.row, found.col)


def test_gray_is_the_specified_one_for_every_colour() -> None:
    levels = np.arange(256, dtype=np.uint8)
    for red in range(256):  # all 2^24 colours
        rgb = np.stack(np.broadcast_arrays(np.uint8(red), levels[:, None], levels[None, :]), axis=-1)
        assert np.array_equal(glcm_gray(rgb), specified_gray(rgb))


def test_scores_are_correctly_rounded() -> None:
    rgb = random_patch(3, 60)
    steps = np.abs(np.diff(specified_gray(rgb).astype(int), axis=1)).ravel().tolist()
    exact = sum(Fraction(1, 1 + step * step) for step in steps) / len(steps)
    assert patch_homogeneity(rgb).tolist() == [float(exact)]
    assert patch_homogeneity(np.zeros((224, 224, 3), dtype=np.uint8)).tolist() == [1.0] * 4


@pytest.mark.parametrize("size", [16, 56, 100])
def test_other_patch_sizes(size: int) -> None:
    rgb = np.random.default_rng(size).integers(0, 40, (224, 224, 3), dtype=np.uint8)
    scores = patch_homogeneity(rgb, size)
    assert scores.shape == ((224 // size) ** 2,)
    assert np.abs(scores - skimage_scores(rgb, size)).max() <= 1e-9


@pytest.mark.parametrize(("size", "per_side"), [(56, 4), (64, 3), (100, 2)])
def test_the_patch_and_its_residual_at_other_sizes(size: int, per_side: int) -> None:
    """At 64 and 100 a rim of the image is in no patch: the richest place of all lies there and is not chosen."""
    rng = np.random.default_rng(size)
    for richest in range(per_side**2):
        rgb = rng.integers(100, 104, (224, 224, 3), dtype=np.uint8)
        row, col = divmod(richest, per_side)
        tile = (slice(row * size, (row + 1) * size), slice(col * size, (col + 1) * size))
        rgb[tile] = rng.integers(0, 90, (size, size, 3))
        rgb[per_side * size :] = rng.integers(0, 256, (224 - per_side * size, 224, 3))
        found = compute_noise(rgb, NoiseParams(patch_size=size))
        assert (found.row, found.col) == (row, col)
        assert found.numerators.shape == (3, size, size) and found.numerators.dtype == np.int16
        assert np.array_equal(found.numerators, integer_numerators(rgb[tile]))


def test_equal_scores_take_the_first_patch() -> None:
    quarter = random_patch(high=30)
    flat = np.zeros_like(quarter)
    rgb = np.vstack([np.hstack([flat, quarter]), np.hstack([quarter, flat])])
    found = compute_noise(rgb)
    assert found.scores[1] == found.scores[2] < found.scores[0]
    assert (found.row, found.col) == (0, 1)


def test_a_patch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_size 112 does not fit an image of 100x111"):
        patch_homogeneity(np.zeros((111, 100, 3), dtype=np.uint8))


@pytest.mark.parametrize("high", [12, 256])
def test_residual_is_the_exact_rational(high: int) -> None:
    patch = random_patch(1, high)
    numerators = srm_numerators(patch)
    residual = srm_residual(patch)
    corners = [0, 1, 2, 110, 111]
    rng = np.random.default_rng(2)
    places = [(i, j) for i in corners for j in corners] + rng.integers(0, 112, (40, 2)).tolist()
    for k in range(3):
        for i, j in places:
            exact = exact_residual(patch, k, i, j)
            assert Fraction(int(numerators[k, i, j]), int(DENOMINATORS[k])) == exact
            assert residual[k, i, j] == np.float32(float(exact))
    assert np.array_equal(numerators, integer_numerators(patch))


def test_residual_of_photographs(photographs: list[Path]) -> None:
    for path in photographs:
        rgb = compute_image(read_source(path.read_bytes()))
        found = compute_noise(rgb)
        top, left = found.row * 112, found.col * 112
        assert np.array_equal(found.numerators, integer_numerators(rgb[top : top + 112, left : left + 112]))


def test_clip_at_three() -> None:
    y, x = np.mgrid[0:112, 0:112]
    patch = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    numerators = srm_numerators(patch)
    assert np.array_equal(numerators, integer_numerators(patch))
    assert [(int(n.max()), int(n.min())) for n in numerators] == [(3060, -3060), (9180, -9180), (1530, -1530)]
    assert srm_residual(patch).max() == 3.0 and srm_residual(patch).min() == -3.0
