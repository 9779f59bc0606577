"""A model small enough for a CPU second, and batches as the loader gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bmrl.pipeline.views.text import tokenize

LINES = (
    ("a photo of a real face", "a photo of an unmanipulated face", "a photo captured by a camera", "a camera"),
    ("a photo of a fake face", "a photo of an identity swapped face", "by the GAN-based model", "model is SimSwap"),
    ("a photo of a fake face", "", "", "model is mystery"),
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors on shared cores: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """Overrides of preset demo: every part is there, nothing is wide."""
    return {
        "model.dim": 16,
        "model.depth": 1,
        "model.heads": 2,
        "model.mlp": 16,
        "model.widths": (4, 4, 4, 4, 8),
        "model.noise_widths": (4, 4, 4),
        "model.text_depth": 1,
        "model.text_heads": 2,
        "model.text_mlp": 16,
        "train.precision": "float32",
    }


@pytest.fixture
def batch() -> dict[str, Any]:
    """Six samples of three classes, two a class."""
    generator = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator)

    label = torch.tensor([0, 1, 2, 0, 1, 2])
    tokens = torch.from_numpy(np.stack([tokenize(LINES[k]) for k in label]))
    return {
        "key": [f"k{i}" for i in range(6)],
        "generator": [("real", "SimSwap", "mystery")[k] for k in label],
        "label": label,
        "image": integers(0, 256, 6, 3, 224, 224).to(torch.uint8),
        "edge": integers(0, 60_000, 6, 1, 224, 224).to(torch.uint16),
        "noise": integers(-700, 701, 6, 3, 112, 112).to(torch.int16),
        "parsing": integers(0, 19, 6, 224, 224).to(torch.uint8),
        "text": tokens,
    }
