"""What stands in the tars, on photographs, against plain references: OpenCV, scikit-image, exact rationals."""

from __future__ import annotations

import io
import json
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.feature import graycomatrix, graycoprops
from support import SHARED, build

from bmrl.pipeline import ShardSet
from bmrl.pipeline.views.edge import SCALE, sobel_magnitude
from bmrl.pipeline.views.image import compute_image, read_source, resize
from bmrl.pipeline.views.noise import DENOMINATORS, KERNELS, patch_homogeneity, srm_residual

PHOTOGRAPHS = SHARED / "celebamask-hq/images"
pytestmark = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="../shared/data is not here")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Six photographs built through the command; per sample the arrays as the tars hold them, and the index row."""
    root = tmp_path_factory.mktemp("photographs")
    folder = root / "faces/real"
    folder.mkdir(parents=True)
    for number, photograph in enumerate(sorted(PHOTOGRAPHS.glob("*.jpg"))[:5]):
        (folder / photograph.name).write_bytes(photograph.read_bytes())
        if number == 0:  # one that is 224 already
            small = resize(read_source(photograph.read_bytes()).rgb, 224)
            Image.fromarray(small).save(folder / "small.png")
    out = root / "shards"
    done = build(root / "faces", out, "--views", "image,edge,noise", "--workers", "1")
    assert done.returncode == 0, done.stderr
    samples = []
    for row in ShardSet.open(out).index.to_pylist():
        sample: dict[str, Any] = {"index": row}
        for view, suffix in (("image", "npy"), ("edge", "edge.npy"), ("noise", "noise.npy")):
            with tarfile.open(out / view / f"{row['shard']}.tar") as tar:
                member = tar.extractfile(f"{row['key']}.{suffix}")
                assert member is not None
                sample[view] = np.load(io.BytesIO(member.read()), allow_pickle=False)
        samples.append(sample)
    return root / "faces", samples


def test_image_is_the_antialiased_crop(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    root, samples = stored
    for sample in samples:
        with Image.open(root / sample["index"]["source_path"]) as image:
            expected = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
        assert np.array_equal(sample["image"], expected)


def test_a_224_png_passes_unchanged(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    root, samples = stored
    (sample,) = [s for s in samples if s["index"]["source_path"].endswith("small.png")]
    with Image.open(root / sample["index"]["source_path"]) as image:
        assert np.array_equal(sample["image"], np.asarray(image))


def test_edge_is_opencvs_sobel_in_float64(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    for sample in stored[1]:
        gray = cv2.cvtColor(sample["image"], cv2.COLOR_RGB2GRAY)
        dx, dy = (cv2.Sobel(gray, cv2.CV_64F, *order, ksize=3) for order in ((1, 0), (0, 1)))
        expected = np.hypot(dx, dy) / 255.0
        assert sample["edge"].dtype == np.uint16
        assert np.abs(sample["edge"] / SCALE - expected).max() <= 1e-4
        assert np.abs(sobel_magnitude(sample["image"]) - expected).max() <= 1e-6


def reference_gray(image: np.ndarray) -> np.ndarray:
    """trunc(255 * (0.2989 R + 0.587 G + 0.114 B)), float32 on RGB / 255, in that order."""
    rgb = image.astype(np.float32) / np.float32(255)
    mixed = np.float32(0.2989) * rgb[..., 0] + np.float32(0.587) * rgb[..., 1] + np.float32(0.114) * rgb[..., 2]
    return np.trunc(np.float32(255) * mixed).astype(np.uint8)


def test_scores_are_scikit_images_and_choose_the_same_patch(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    for sample in stored[1]:
        gray = reference_gray(sample["image"])
        scores = []
        for top in (0, 112):
            for left in (0, 112):
                glcm = graycomatrix(
                    gray[top : top + 112, left : left + 112], [1], [0], levels=256, symmetric=True, normed=True
                )
                scores.append(float(graycoprops(glcm, "homogeneity")[0, 0]))
        row = sample["index"]
        assert np.abs(np.array(row["patch_scores"]) - scores).max() <= 1e-9
        assert (row["patch_row"], row["patch_col"]) == divmod(int(np.argmin(scores)), 2)


def test_ties_go_to_the_first_patch() -> None:
    flat = np.full((224, 224, 3), 90, dtype=np.uint8)
    assert patch_homogeneity(flat).tolist() == [1.0] * 4
    assert int(np.argmin(patch_homogeneity(flat))) == 0


def test_noise_is_the_exact_residual_of_that_patch(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    for sample in stored[1]:
        row = sample["index"]
        top, left = 112 * row["patch_row"], 112 * row["patch_col"]
        patch = sample["image"][top : top + 112, left : left + 112]
        padded = np.pad(patch.astype(np.int64).sum(axis=2), 2)
        for k in range(3):
            total = np.zeros((112, 112), dtype=np.int64)
            for i in range(5):
                for j in range(5):
                    total += KERNELS[k, i, j] * padded[i : i + 112, j : j + 112]
            limit = 3 * int(DENOMINATORS[k])
            assert np.array_equal(sample["noise"][k], np.clip(total, -limit, limit))
        # As rationals, pixel by pixel, on a few: numerator / denominator is the residual of patch / 255, clipped to 3.
        for k, y, x in ((0, 0, 0), (1, 55, 60), (2, 111, 111), (1, 3, 110)):
            exact = sum(
                (
                    Fraction(int(KERNELS[k, i, j]), (4, 12, 2)[k]) * Fraction(int(padded[y + i, x + j]), 255)
                    for i in range(5)
                    for j in range(5)
                ),
                Fraction(0),
            )
            exact = max(Fraction(-3), min(Fraction(3), exact))
            assert Fraction(int(sample["noise"][k, y, x]), int(DENOMINATORS[k])) == exact
            assert abs(float(srm_residual(patch)[k, y, x]) - float(exact)) <= 1e-6


def test_compute_image_is_what_is_stored(stored: tuple[Path, list[dict[str, Any]]]) -> None:
    root, samples = stored
    for sample in samples:
        source = read_source((root / sample["index"]["source_path"]).read_bytes())
        assert np.array_equal(compute_image(source), sample["image"])
        assert json.dumps(sample["index"]["source_format"]) in ('"JPEG"', '"PNG"')
