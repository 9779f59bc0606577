from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bmrl.pipeline.views.edge import SCALE, compute_edge, gradient_squared, sobel_magnitude
from bmrl.pipeline.views.image import compute_image, read_source


def opencv_magnitude(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The paper's formula with OpenCV's own operators, in float64."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    dx, dy = cv2.Sobel(gray, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(gray, cv2.CV_64F, 0, 1, ksize=3)
    return np.hypot(dx, dy) / 255.0


def noise_image(seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def test_stored_edges_of_photographs_are_opencvs(photographs: list[Path]) -> None:
    for path in photographs:
        rgb = compute_image(read_source(path.read_bytes()))
        expected = opencv_magnitude(rgb)
        assert expected.max() > 0.3, "a photograph without an edge proves nothing"
        assert np.abs(compute_edge(rgb) / SCALE - expected).max() <= 1e-4
        assert np.abs(sobel_magnitude(rgb) - expected).max() <= 1e-6


def test_noise_reaches_the_whole_range() -> None:
    rgb = noise_image()
    assert np.abs(compute_edge(rgb) / SCALE - opencv_magnitude(rgb)).max() <= 1e-4
    assert compute_edge(rgb).max() > 40_000


def test_gradient_is_a_plain_sum_with_a_reflected_border() -> None:
    rgb = noise_image(1)[:9, :11]
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(int)
    padded = np.pad(gray, 1, mode="reflect")  # gfedcb|abcdefgh|gfedcba
    for i in range(9):
        for j in range(11):
            window = padded[i : i + 3, j : j + 3]
            dx = sum(weight * (row[2] - row[0]) for weight, row in zip((1, 2, 1), window, strict=True))
            dy = sum(weight * (window[2][k] - window[0][k]) for k, weight in enumerate((1, 2, 1)))
            assert gradient_squared(rgb)[i, j] == dx * dx + dy * dy


def test_the_steepest_edge_fits_the_stored_type() -> None:
    rgb = np.zeros((224, 224, 3), dtype=np.uint8)
    rgb[112:, :112], rgb[:112, 112:] = 255, 255
    rgb[:, 50] = 255
    stored = compute_edge(rgb)
    assert stored.dtype == np.uint16 and stored.max() >= 4 * SCALE
    assert np.abs(stored / SCALE - opencv_magnitude(rgb)).max() <= 1e-4
    assert np.iinfo(np.uint16).max / SCALE >= np.hypot(4, 2)  # |dx|, |dy| <= 4, and not both at 4


@pytest.mark.parametrize("value", [0, 137, 255])
def test_a_flat_image_has_no_edge(value: int) -> None:
    assert not compute_edge(np.full((224, 224, 3), value, dtype=np.uint8)).any()
