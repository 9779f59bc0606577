from __future__ import annotations

from typing import Any

import pytest

from bmrl.model import build
from bmrl.model.attributors.bmrl import PRESETS, SEMANTICS
from bmrl.model.resolve import resolve_config

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"losses.vcc": 1}, "losses.vcc and losses.dfacc are two losses on the same centres; set one to 0"),
    ({"losses.spa": "class", "model.text": 0}, "losses.spa weighs the pairs of CMC, which needs model.text=1"),
    ({"losses.spa": "class", "losses.cmc": 0}, "losses.spa weighs the pairs of CMC"),
    ({"losses.spa": "pair"}, "setting losses.spa: unknown 'pair'; known are off, batch, class"),
    ({"text_readout": "levels", "model.text": 0}, "model.text_readout=levels needs model.text=1"),
    ({"text_readout": "first"}, "setting model.text_readout: unknown 'first'; known are last, levels"),
    ({"text_levels": "0,1"}, "model.text_levels (0, 1): expected one or more of 1, 2, 3, 4"),
    ({"text_levels": ""}, "model.text_levels (): expected one or more of 1, 2, 3, 4"),
    ({"model.views": "image,parsing"}, "expected one or more of image, edge, noise"),
    ({"model.views": ""}, "expected one or more of image, edge, noise"),
    ({"model.views": "image,image"}, "expected one or more of image, edge, noise"),
    ({"tokens": 7}, "model.tokens 7 does not divide a map of 7x7 (1 always does)"),
    ({"noise_tokens": 36}, "model.noise_tokens 36 does not divide a map of 28x28 (1 always does)"),
    ({"patch_size": 3}, "model.noise_widths (32, 64) halve 3 pixels to nothing; 4 or more are needed"),
    ({"heads": 3}, "model.dim 512 is not a multiple of model.heads 3"),
    ({"widths": "32,64"}, "model.widths (32, 64) and model.convs (3, 3, 3, 4, 4): expected as many of each"),
    ({"losses.margin": -1}, "setting losses.margin: -1.0 is not a number of 0 or more"),
    ({"kl_temperature": 0}, "setting losses.kl_temperature: 0.0 is not a number of more than 0"),
    ({"max_logit_scale": 0}, "setting equations.max_logit_scale: 0.0 is not a number of more than 0"),
    ({"max_logit_scale": "nan"}, "setting equations.max_logit_scale: nan is not a number of more than 0"),
    ({"seed": 2**63}, "setting train.seed: 9223372036854775808 is more than"),
    ({"lr": "nan"}, "setting train.lr: nan is not a number of more than 0"),
    ({"optimizer": "sgd"}, "setting train.optimizer: unknown 'sgd'; known are adam, adamw"),
    ({"schedule": "linear"}, "setting train.schedule: unknown 'linear'; known are step, cosine, constant"),
    ({"precision": "float16"}, "setting train.precision: unknown 'float16'; known are float32, bfloat16"),
    ({"accumulate": 5}, "train.accumulate 5 does not divide a batch of 32 into parts of 2 or more"),
    ({"accumulate": 32}, "train.accumulate 32 does not divide a batch of 32 into parts of 2 or more"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED)
def test_what_does_not_go_together_is_one_sentence(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        resolve_config("bmrl", "paper", "sound", overrides)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_presets_keep_the_rules(preset: str, semantics: str) -> None:
    assert resolve_config("bmrl", preset, semantics).preset == preset


# What the paper ablates: each one a setting and nothing else (Tables 4, 6, 8, 9, 10; MFCLIP Fig. 8 and Tables VII, VIII).
ABLATIONS: dict[str, dict[str, Any]] = {
    "AE": {"model.views": "image", "model.parsing": 0, "model.text": 0},
    "AE+NE": {"model.views": "image,noise", "model.parsing": 0, "model.text": 0},
    "AE+EE": {"model.views": "image,edge", "model.parsing": 0, "model.text": 0},
    "without LE": {"model.text": 0},
    "without PE": {"model.parsing": 0},
    "L_dfa alone": {"losses.dfacc": 0, "losses.cmc": 0, "losses.cpc": 0, "losses.kl": 0},
    "m": {"losses.margin": 0.5},
    "lambda": {"losses.inter_weight": 0},
    "VCC": {"losses.vcc": 1, "losses.dfacc": 0},
    "SPA as released": {"losses.spa": "batch"},
    "SPA by class": {"losses.spa": "class"},
    "levels 1-2": {"model.text_levels": "1,2"},
    "a read-out a level": {"model.text_readout": "levels"},
    "49 tokens": {
        "model.tokens": 49,
        "model.noise_tokens": 49,
        "model.noise_widths": "4,4,4,4",
        "model.noise_convs": "1,1,1,1",
    },
    "patch 56": {"model.patch_size": 56},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_a_setting(name: str, tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    model = build("bmrl", 3, preset="demo", **{**tiny, **ABLATIONS[name]})
    small = {**batch, "noise": batch["noise"][..., : model.config.model.patch_size, : model.config.model.patch_size]}
    terms = model.losses({view: small[view] for view in (*model.training_views, "label")})
    weights = model.config.losses
    expected = {name for name in ("dfa", "dfacc", "vcc", "cmc", "cpc", "kl") if getattr(weights, name)}
    expected -= set() if model.config.model.text else {"cmc", "kl"}
    expected -= set() if model.config.model.parsing else {"cpc"}
    assert set(terms) == expected
    sum(terms.values()).backward()
    assert all(bool(term.isfinite()) for term in terms.values())
