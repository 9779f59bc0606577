"""edge and noise by torch from the image batch: the stored columns, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from bmrl.pipeline import ShardSet
from bmrl.pipeline.views import device
from bmrl.pipeline.views.device import device_edge, device_noise, device_patch_scores
from bmrl.pipeline.views.edge import compute_edge
from bmrl.pipeline.views.image import compute_image, read_source
from bmrl.pipeline.views.noise import NoiseParams, compute_noise, patch_homogeneity

RGB = npt.NDArray[np.uint8]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")],
    ),
]


def batch_of(images: list[RGB], where: str = "cpu") -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(where)  # (B, H, W, 3) -> (B, 3, H, W)


def assert_equal_to_stored(images: list[RGB], where: str) -> None:
    """All three functions against what the build computes, one image at a time."""
    batch = batch_of(images, where)
    edges, noise = device_edge(batch).cpu(), device_noise(batch)
    assert (edges.dtype, noise.numerators.dtype) == (torch.uint16, torch.int16)
    for i, image in enumerate(images):
        expected = compute_noise(image)
        assert np.array_equal(edges[i, 0].numpy(), compute_edge(image))
        assert noise.scores[i].tolist() == expected.scores.tolist()
        assert int(noise.patch[i]) == expected.row * (image.shape[1] // 112) + expected.col
        assert np.array_equal(noise.numerators[i].cpu().numpy(), expected.numerators)


def stripes(steps: list[int]) -> RGB:
    """112 x 112 gray patch, every line the same: neighbours differ by `steps`, then not at all; up and down by turns."""
    line = [128]
    for number, step in enumerate(steps):
        line.append(line[-1] + (step if number % 2 == 0 else -step))
    line += [line[-1]] * (112 - len(line))
    return np.repeat(np.tile(np.array(line, dtype=np.uint8), (112, 1))[..., None], 3, axis=2)


@pytest.mark.parametrize("where", DEVICES)
def test_equal_to_the_stored_columns(where: str, shards: Path) -> None:
    shard_set = ShardSet.open(shards)
    rows = shard_set.index.to_pylist()
    patches = {row["key"]: (row["patch_row"], row["patch_col"], row["patch_scores"]) for row in rows}
    seen = 0
    for batch in shard_set.loader(views=("image", "edge", "noise"), batch_size=16, shuffle=False):
        image = batch["image"].to(where)
        found = device_noise(image)
        assert torch.equal(device_edge(image).cpu(), batch["edge"])
        assert torch.equal(found.numerators.cpu(), batch["noise"])
        for key, patch, scores in zip(batch["key"], found.patch.tolist(), found.scores.tolist(), strict=True):
            assert patches[key] == (*divmod(patch, 2), scores)
            seen += 1
    assert seen == len(rows) == 72


@pytest.mark.parametrize("where", DEVICES)
def test_equal_on_photographs(where: str, photographs: list[Path]) -> None:
    assert_equal_to_stored([compute_image(read_source(path.read_bytes())) for path in photographs], where)


@pytest.mark.parametrize("where", DEVICES)
def test_equal_on_extremes(where: str) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:224, 0:224]
    checkers = np.repeat((255 * ((x + y) % 2)).astype(np.uint8)[..., None], 3, axis=2)
    flat = np.full((224, 224, 3), 90, dtype=np.uint8)
    noisy = [rng.integers(0, high, (224, 224, 3), dtype=np.uint8) for high in (2, 9, 256)]
    assert_equal_to_stored([checkers, flat, np.zeros_like(flat), *noisy], where)
    assert_equal_to_stored([rng.integers(0, 256, (230, 340, 3), dtype=np.uint8)], where)  # patches 2 x 3, the rest left


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("size", [2, 32, 56, 64, 224])
def test_equal_at_other_patch_sizes(size: int, where: str) -> None:
    rng = np.random.default_rng(size)
    images = [rng.integers(0, high, (224, 224, 3), dtype=np.uint8) for high in (5, 60, 256)]
    found = device_noise(batch_of(images, where), size)
    for i, image in enumerate(images):
        expected = compute_noise(image, NoiseParams(patch_size=size))
        assert found.scores[i].tolist() == expected.scores.tolist() and len(expected.scores) == (224 // size) ** 2
        assert divmod(int(found.patch[i]), 224 // size) == (expected.row, expected.col)
        assert np.array_equal(found.numerators[i].cpu().numpy(), expected.numerators)


@pytest.mark.parametrize("where", DEVICES)
def test_ties_go_to_the_first_patch(where: str) -> None:
    rich, flat = stripes([9] * 40), stripes([])
    twice = np.vstack([np.hstack([flat, rich]), np.hstack([rich, flat])])
    # 4 steps of 2 weigh 4/5, 3 of 3 and one of 1 weigh 3/10 + 1/2: equal scores of unequal histograms.
    left, right = stripes([2, 2, 2, 2] * 10), stripes([3, 3, 3, 1] * 10)
    unlike = np.vstack([np.hstack([flat, left]), np.hstack([right, flat])])
    assert (
        np.unique(np.diff(left[0, :, 0].astype(int))).tolist()
        != np.unique(np.diff(right[0, :, 0].astype(int))).tolist()
    )
    scores = patch_homogeneity(unlike).tolist()
    assert scores[1] == scores[2] < scores[0] == scores[3]
    assert_equal_to_stored([twice, unlike, unlike[:, ::-1].copy(), unlike[::-1].copy()], where)
    assert device_noise(batch_of([twice], where)).patch.tolist() == [1]
    assert device_noise(batch_of([np.tile(flat, (2, 2, 1))], where)).patch.tolist() == [0]


def test_gray_of_every_colour() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    for red in range(0, 256, 5):  # a twelfth of 2^24, all greens and blues
        rgb = torch.stack(
            torch.broadcast_tensors(torch.tensor(red, dtype=torch.uint8), levels[:, None], levels[None, :])
        )
        weighted = sum(weight * plane.to(torch.int32) for weight, plane in zip(device._OPENCV_GRAY, rgb, strict=True))
        assert torch.is_tensor(weighted)
        expected = cv2.cvtColor(rgb.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
        assert np.array_equal(((weighted + (1 << 14)) >> 15).numpy(), expected)


@pytest.mark.parametrize("pairs", [112 * 111, 16 * 15, 2, 300 * 299])
def test_quotients_are_rounded_once(pairs: int) -> None:
    rng = np.random.default_rng(pairs)
    totals = [int(share * 2**60) * pairs for share in (1.0, 0.75, 1 / 65026 + 1e-12, 2.0**-8, 2.0**-9)]
    totals += [int(rng.integers(2**45, 2**60)) * pairs + int(rng.integers(0, pairs)) for _ in range(2000)]
    # Ties between two neighbouring doubles, and one unit to either side of them.
    for exponent in range(44, 60):
        tie = ((2**53 + 2 * int(rng.integers(0, 2**51)) + 1) << exponent) * pairs >> 53
        totals += [tie - 1, tie, tie + 1]
    totals = [total for total in totals if 2**44 * pairs <= total <= 2**60 * pairs]
    high, low = (torch.tensor(list(part)) for part in zip(*(divmod(total, 2**32) for total in totals), strict=True))
    found = device._rounded_quotient(high - 5, low + 5 * 2**32, pairs)  # low may hold carries
    assert found.tolist() == [total / (pairs * 2**60) for total in totals]


def test_a_patch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_size 112 does not fit an image of 100x111"):
        device_patch_scores(torch.zeros(1, 3, 111, 100, dtype=torch.uint8))


def test_scores_follow_the_image_not_its_memory_format() -> None:
    rng = np.random.default_rng(4)
    batch = batch_of([rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(3)])
    orders = [device_patch_scores(x) for x in (batch, batch.contiguous(), batch.flip(0).flip(0))]
    assert all(torch.equal(a, b) for a, b in pairwise(orders))
