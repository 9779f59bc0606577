"""Which texts a batch is aligned with, by read-out and level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bmrl.model import build
from bmrl.model.layers.alignment import blank_levels, encode_levels, encode_whole
from bmrl.pipeline.views.text import tokenize

REAL = ("a photo of a real face", "a photo of an unmanipulated face", "captured by a camera", "a camera")
SWAP = ("a photo of a fake face", "a photo of an identity swapped face", "by the GAN-based model", "model is SimSwap")
DDPM = ("a photo of a fake face", "a photo of an entire synthesized face", "by the diffusion-based model", "is DDPM")
MYSTERY = ("a photo of a fake face", "", "", "model is mystery")


def tokens(*prompts: tuple[str, ...]) -> torch.Tensor:
    return torch.from_numpy(np.stack([tokenize(prompt) for prompt in prompts]))


def model(tiny: dict[str, Any], semantics: str = "sound", **overrides: Any) -> Any:
    torch.manual_seed(0)
    return build("bmrl", 3, preset="demo", semantics=semantics, **{**tiny, **overrides})


def test_the_whole_text_is_encoded_once_a_prompt(tiny: dict[str, Any]) -> None:
    language = model(tiny).language
    calls: list[int] = []
    language.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    (text,) = encode_whole(language, tokens(SWAP, DDPM, SWAP, SWAP))
    assert calls == [2]
    assert text.rows.tolist() == [0, 1, 2, 3]
    assert text.groups.tolist() in ([0, 1, 0, 0], [1, 0, 1, 1])
    every = language(tokens(SWAP, DDPM, SWAP, SWAP)).float()
    assert torch.allclose(text.features, every, atol=1e-6)


@pytest.mark.parametrize("semantics", ["sound", "strict"])
def test_constant_levels_and_unknown_sentences_are_left_out(semantics: str, tiny: dict[str, Any]) -> None:
    language = model(tiny, semantics).language
    found = encode_levels(language, tokens(SWAP, DDPM, MYSTERY, SWAP))  # fakes only: level 1 is the same for all
    assert [text.rows.tolist() for text in found] == [[0, 1, 3], [0, 1, 3], [0, 1, 2, 3]]
    assert [len(set(text.groups.tolist())) for text in found] == [2, 2, 3]
    assert len(encode_levels(language, tokens(SWAP, DDPM, REAL))) == 4
    assert encode_levels(language, tokens(SWAP, SWAP)) == []


@pytest.mark.parametrize("semantics", ["sound", "strict"])
def test_a_levels_feature_is_that_of_its_sentence_alone(semantics: str, tiny: dict[str, Any]) -> None:
    """So a prompt that says the kind, or the family, and nothing else means what it meant in training."""
    language = model(tiny, semantics).language.double()
    whole = language.levels(tokens(SWAP, DDPM))
    for level in range(4):
        alone = [tuple(s if k == level else "" for k, s in enumerate(prompt)) for prompt in (SWAP, DDPM)]
        assert torch.allclose(language.levels(tokens(*alone))[:, level], whole[:, level], atol=1e-12)
    assert not torch.allclose(whole[0, 1], whole[1, 1], atol=1e-3)
    assert torch.allclose(whole[0, 0], whole[1, 0], atol=1e-12)  # both are fakes


def test_blanked_levels_are_unknown_ones() -> None:
    prompts = tokens(SWAP, DDPM)
    assert torch.equal(blank_levels(prompts, (1, 2, 3, 4)), prompts)
    kept = [tuple(s if k in (0, 2) else "" for k, s in enumerate(prompt)) for prompt in (SWAP, DDPM)]
    assert torch.equal(blank_levels(prompts, (1, 3)), tokens(*kept))


def test_losses_with_one_alignment_a_level(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    for semantics in ("sound", "strict"):
        found = model(tiny, semantics, **{"model.text_readout": "levels"})
        terms = found.losses(batch)
        (terms["cmc"] + terms["kl"]).backward()
        gradient = found.language.positions.grad.abs().sum(dim=1).view(4, 77).sum(dim=1)
        assert bool((gradient > 0).all()), "every level trains the text encoder"


def test_only_level_one_of_fakes_says_nothing(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    fakes = {**batch, "text": tokens(*[SWAP, DDPM] * 3)}
    found = model(tiny, **{"model.text_readout": "levels", "model.text_levels": "1"})
    terms = found.losses(fakes)
    assert float(terms["cmc"].detach()) == 0.0 and float(terms["kl"].detach()) == 0.0
    sum(terms.values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in found.language.parameters())


@pytest.mark.parametrize("kind", ["class", "batch"])
def test_spa_trains_with_cmc(kind: str, tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    found = model(tiny, **{"losses.spa": kind})
    found.losses(batch)["cmc"].backward()
    assert bool((found.spa.table.grad != 0).any()) and "spa.table" in found.undecayed()
