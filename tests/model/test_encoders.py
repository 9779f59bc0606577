from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bmrl.model.attributors.bmrl import PRESETS, Sizes, noise_encoder, visual_encoder
from bmrl.model.layers.encoders import END, LanguageEncoder
from bmrl.pipeline.views.text import tokenize

TINY = Sizes(dim=16, text_depth=2, text_heads=2, text_mlp=16)
KNOWN = ("a photo of a fake face", "an identity swapped face", "by the GAN-based model", "model is SimSwap")


def language_encoder(sizes: Sizes, *, attend_padding: bool) -> LanguageEncoder:
    return LanguageEncoder(
        dim=sizes.dim,
        depth=sizes.text_depth,
        heads=sizes.text_heads,
        mlp=sizes.text_mlp,
        attend_padding=attend_padding,
    )


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def tokens(*samples: tuple[str, ...]) -> torch.Tensor:
    return torch.from_numpy(np.stack([tokenize(lines) for lines in samples]))


def test_parameter_counts_of_the_paper() -> None:
    paper = PRESETS["paper"].config.model
    with torch.device("meta"):
        assert millions(visual_encoder(3, paper)) == pytest.approx(36.26, abs=0.01)  # AE, and PE alike
        assert millions(visual_encoder(1, paper)) == pytest.approx(36.26, abs=0.01)
        assert millions(noise_encoder(paper)) == pytest.approx(38.41, abs=0.01)
        assert millions(visual_encoder(3, dataclasses.replace(paper, tokens=49))) == pytest.approx(23.70, abs=0.01)
        assert millions(language_encoder(paper, attend_padding=True)) == pytest.approx(44.36, abs=0.01)


def test_encoder_shapes() -> None:
    config = PRESETS["demo"].config.model
    with torch.no_grad():
        assert visual_encoder(1, config).eval()(torch.zeros(2, 1, 224, 224)).shape == (2, 128)
        assert noise_encoder(config).eval()(torch.zeros(2, 3, 112, 112)).shape == (2, 128)


def test_a_highpass_stem_is_blind_to_flat_colour() -> None:
    encoder = visual_encoder(3, dataclasses.replace(PRESETS["demo"].config.model, highpass_stem=True))
    first = encoder.backbone[0]
    flat = torch.ones(1, 3, 16, 16) * torch.tensor([0.2, 0.9, 0.5])[None, :, None, None]
    with torch.no_grad():
        assert float(first(flat)[..., 2:-2, 2:-2].abs().max()) < 1e-6
        assert float(first.weight.abs().max()) > 0.01


def test_a_highpass_stem_is_for_colours_and_when_asked() -> None:
    for channels, asked, blind in ((3, True, True), (3, False, False), (1, True, False)):
        encoder = visual_encoder(channels, dataclasses.replace(PRESETS["demo"].config.model, highpass_stem=asked))
        assert (float(encoder.backbone[0].weight.detach().mean(dim=(2, 3)).abs().max()) < 1e-6) == blind


def test_sizes_reach_the_parts_that_they_name() -> None:
    config = Sizes(
        dim=16, depth=3, heads=4, mlp=24, tokens=49, noise_tokens=4, text_depth=2, text_heads=2, text_mlp=40
    )  # fmt: skip
    with torch.device("meta"):
        visual, noise = visual_encoder(3, config), noise_encoder(config)
        language = language_encoder(config, attend_padding=True)
        strided = visual_encoder(3, dataclasses.replace(config, strided_stem=True))
    assert [encoder.backbone[0].stride for encoder in (visual, noise, strided)] == [(1, 1), (1, 1), (2, 2)]
    assert [visual.transformer.grid**2, noise.transformer.grid**2] == [49, 4]
    for blocks, expected in (
        (visual.transformer.blocks, (3, 4, 24)),
        (noise.transformer.blocks, (3, 4, 24)),
        (language.blocks, (2, 2, 40)),
    ):
        found = {(len(blocks), block.attention.heads, block.mlp[0].out_features) for block in blocks}
        assert found == {expected}


def full_sequence(encoder: LanguageEncoder, ids: torch.Tensor) -> torch.Tensor:
    """All 308 positions, with padding and unknown levels masked as keys: what packing must equal."""
    flat = ids.long().reshape(len(ids), -1)
    valid = torch.zeros_like(flat, dtype=torch.bool)
    for u in range(len(ids)):
        for level in range(4):
            row = ids[u, level].tolist()
            end = row.index(END)
            if end > 1:
                valid[u, 77 * level : 77 * level + end + 1] = True
    causal = torch.ones(308, 308, dtype=torch.bool).tril()
    mask = causal[None, None] & valid[:, None, None, :]
    mask |= torch.eye(308, dtype=torch.bool)  # rows that see nothing would be NaN; nobody reads them
    x = encoder.embedding(flat) + encoder.positions
    for block in encoder.blocks:
        x = block(x, mask)
    out = []
    for u in range(len(ids)):
        last = max(i for i in range(308) if valid[u, i] and flat[u, i] == END)
        out.append(encoder.norm(x[u, last]))
    return torch.stack(out)


SAMPLES = (KNOWN, ("a", "", "b c d e", "f"), ("a photo", "", "", "model is mystery"), ("a", "b", "c", ""))


def test_packed_is_the_full_sequence_with_padding_masked() -> None:
    torch.manual_seed(0)
    encoder = language_encoder(TINY, attend_padding=False).double()
    ids = tokens(*SAMPLES)
    assert torch.allclose(encoder(ids), full_sequence(encoder, ids), atol=1e-10)


def test_a_prompt_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    encoder = language_encoder(TINY, attend_padding=False).double()
    together = encoder(tokens(*SAMPLES))
    alone = torch.cat([encoder(tokens(sample)) for sample in SAMPLES])
    assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("attend_padding", [False, True])
def test_gradients_reach_all_four_levels(attend_padding: bool) -> None:
    torch.manual_seed(0)
    encoder = language_encoder(TINY, attend_padding=attend_padding)
    encoder(tokens(KNOWN))[0, 0].backward()  # not the sum: the last LayerNorm's output sums to a constant
    gradient = encoder.positions.grad
    assert gradient is not None
    by_level = gradient.abs().sum(dim=1).view(4, 77)
    for level in range(4):
        length = len(tokenize([KNOWN[level]])[0].nonzero()[0])
        assert bool((by_level[level, :length] > 0).all()), level
        assert bool((by_level[level, length:] == 0).all()) == (not attend_padding or level == 3), level


def test_an_unknown_level_is_left_out() -> None:
    torch.manual_seed(0)
    encoder = language_encoder(TINY, attend_padding=False)
    encoder(tokens(("a photo of a fake face", "", "", "model is mystery")))[0, 0].backward()
    gradient = encoder.positions.grad
    assert gradient is not None
    by_level = gradient.abs().sum(dim=1).view(4, 77).sum(dim=1)
    assert (by_level > 0).tolist() == [True, False, False, True]


def test_everything_unknown_is_still_finite() -> None:
    torch.manual_seed(0)
    for attend_padding in (False, True):
        encoder = language_encoder(TINY, attend_padding=attend_padding)
        out = encoder(tokens(("", "", "", ""), KNOWN))
        assert bool(torch.isfinite(out).all())
        out[0, 0].backward()
        assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in encoder.parameters())


def test_strict_attends_padding() -> None:
    torch.manual_seed(0)
    strict, sound = (language_encoder(TINY, attend_padding=flag).double() for flag in (True, False))
    sound.load_state_dict(strict.state_dict())
    ids = tokens(KNOWN)
    assert not torch.allclose(strict(ids), sound(ids), atol=1e-6)
