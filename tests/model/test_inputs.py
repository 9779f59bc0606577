from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bmrl.model.inputs import INPUTS, edge_input, flip, image_input, noise_input, parsing_input
from bmrl.pipeline.views.edge import compute_edge, sobel_magnitude
from bmrl.pipeline.views.noise import srm_numerators, srm_residual
from bmrl.pipeline.views.parsing import FLIPPED_CLASSES, colorize


def picture() -> Any:
    return np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def test_stored_integers_become_the_papers_units() -> None:
    rgb = picture()
    image = image_input({"image": torch.from_numpy(rgb).permute(2, 0, 1)[None]})
    assert torch.allclose(image[0], torch.from_numpy(rgb).permute(2, 0, 1) / 255.0)
    edge = edge_input({"edge": torch.from_numpy(compute_edge(rgb))[None, None]})
    assert float((edge[0, 0] - torch.from_numpy(sobel_magnitude(rgb))).abs().max()) <= 5e-5
    patch = rgb[:112, :112]
    noise = noise_input({"noise": torch.from_numpy(srm_numerators(patch))[None]})
    assert torch.allclose(noise[0], torch.from_numpy(srm_residual(patch)), atol=1e-6)
    assert {"image": image_input, "edge": edge_input, "noise": noise_input, "parsing": parsing_input} == INPUTS


def test_parsing_is_the_map_in_its_colours_alone() -> None:
    labels = np.random.default_rng(0).integers(0, 19, (224, 224), dtype=np.uint8)
    found = parsing_input({"parsing": torch.from_numpy(labels)[None]})
    assert found.shape == (1, 3, 224, 224)
    assert torch.allclose(found[0], torch.from_numpy(colorize(labels)).permute(2, 0, 1) / 255.0)


def test_flip_mirrors_chosen_samples_in_all_views(batch: dict[str, Any]) -> None:
    chosen = torch.tensor([True, False, True, False, False, True])
    flipped = flip(batch, chosen)
    for i in range(6):
        for view in ("image", "edge", "noise"):
            expected = batch[view][i].numpy()[..., ::-1] if chosen[i] else batch[view][i].numpy()
            assert flipped[view].dtype == batch[view].dtype
            assert np.array_equal(flipped[view][i].numpy(), expected)
        labels = batch["parsing"][i].numpy()
        expected = np.array(FLIPPED_CLASSES)[labels[:, ::-1]] if chosen[i] else labels
        assert np.array_equal(flipped["parsing"][i].numpy(), expected)
        assert torch.equal(flipped["text"][i], batch["text"][i])


def test_flip_swaps_left_and_right_and_twice_is_nothing(batch: dict[str, Any]) -> None:
    assert [FLIPPED_CLASSES[k] for k in (2, 4, 7)] == [3, 5, 8]  # brows, eyes, ears
    assert [FLIPPED_CLASSES[FLIPPED_CLASSES[k]] for k in range(19)] == list(range(19))
    every = torch.ones(6, dtype=torch.bool)
    twice = flip(flip(batch, every), every)
    for view in ("image", "edge", "noise", "parsing"):
        assert np.array_equal(twice[view].numpy(), batch[view].numpy())


def test_a_mirrored_residual_is_the_mirrored_patchs_residual() -> None:
    patch = picture()[:112, :112]
    mirrored = srm_numerators(np.ascontiguousarray(patch[:, ::-1]))
    assert np.array_equal(mirrored, srm_numerators(patch)[..., ::-1])
    assert np.array_equal(compute_edge(np.ascontiguousarray(picture()[:, ::-1])), compute_edge(picture())[:, ::-1])
