from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from bmrl.model.attributors.bmrl import PRESETS, SEMANTICS
from bmrl.model.config import config_to_json
from bmrl.model.resolve import config_from_json, from_config, maker, resolve_config
from bmrl.model.size import measure


def test_the_papers_values_are_the_defaults_of_paper() -> None:
    """BMRL, section IV-A: every number that it gives, and nothing that it does not do."""
    config = resolve_config("bmrl", "paper", "strict")
    model, losses, train = config.model, config.losses, config.train
    assert (model.depth, model.text_depth, model.patch_size, model.dim) == (6, 6, 112, 512)  # Q, L, p, d
    assert (model.widths[-1], 224 // 2 ** len(model.widths), model.tokens) == (512, 7, 1)  # c, h = w
    assert sum(model.convs) == 17 and not model.strided_stem and not model.highpass_stem  # CViT's backbone
    assert model.views == ("image", "edge", "noise") and model.parsing and model.text
    assert (model.text_levels, model.text_readout) == ((1, 2, 3, 4), "last")
    assert (losses.inter_weight, losses.margin) == (0.5, 0.7)  # lambda, m
    assert (losses.dfa, losses.dfacc, losses.cmc, losses.cpc, losses.kl) == (1, 1, 1, 1, 1)  # Eq. 12
    assert (losses.vcc, losses.spa, losses.temperature, losses.kl_temperature) == (0, "off", 0.07, 0.5)
    assert (train.batch_size, train.lr, train.weight_decay, train.optimizer) == (32, 1e-4, 1e-3, "adam")
    assert (train.schedule, train.step_epochs, train.flip, train.clip_norm) == ("step", 15, False, 0)
    assert (train.precision, train.accumulate) == ("float32", 1)
    # Not in the paper: CViT's heads, the hidden sizes of the published counts, the released noise map of 64x28x28, our epochs.
    assert (model.heads, model.mlp, model.text_heads, model.text_mlp) == (8, 1024, 8, 2048)
    assert (model.noise_widths, model.noise_convs, model.noise_tokens) == ((32, 64), (3, 3), 1)
    assert train.epochs == 45


def test_the_two_semantics() -> None:
    fields = ("cmc_targets", "kl_detach", "max_logit_scale", "head", "dfacc_space", "text_padding", "decay_all")
    expected = {
        "strict": ("onehot", False, math.inf, "linear", "prob", True, True),
        "sound": ("multi", True, 100.0, "layernorm-unit", "feature", False, False),
    }
    for preset in PRESETS:
        for semantics, values in expected.items():
            equations = resolve_config("bmrl", preset, semantics).equations
            assert dataclasses.asdict(equations) == dict(zip(fields, values, strict=True))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_config_survives_json(preset: str, semantics: str) -> None:
    config = resolve_config("bmrl", preset, semantics, {"losses.dfacc": 0, "model.views": "image,noise"})
    document = json.loads(json.dumps(config_to_json(config), allow_nan=False))
    assert config_from_json(document) == config
    assert (config.equations.max_logit_scale == math.inf) == (semantics == "strict")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", "3", ("train", "epochs", 3)),
        ("train.lr", "0.5", ("train", "lr", 0.5)),
        ("model.widths", "4,8,16,32,64", ("model", "widths", (4, 8, 16, 32, 64))),
        ("views", "image", ("model", "views", ("image",))),
        ("flip", "off", ("train", "flip", False)),
        ("flip", "1", ("train", "flip", True)),
        ("losses.kl", 0, ("losses", "kl", 0.0)),
        ("cmc_targets", "onehot", ("equations", "cmc_targets", "onehot")),
    ],
)
def test_overrides(key: str, value: Any, expected: tuple[str, str, Any]) -> None:
    config = resolve_config("bmrl", "demo", "sound", {key: value})
    found = getattr(getattr(config, expected[0]), expected[1])
    assert found == expected[2] and type(found) is type(expected[2])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epoch", 3, "setting 'epoch' is unknown"),
        ("model.epochs", 3, "setting 'model.epochs' is unknown"),
        ("nothing.lr", 3, "setting 'nothing.lr' is unknown"),
        ("epochs", "many", "setting epochs: 'many' is not a whole number such as "),
        ("flip", "perhaps", "setting flip: 'perhaps' is not true or false"),
        ("model.widths", "4,x", "setting model.widths: '4,x' is not a list such as "),
        ("lr", None, "setting lr: None is not a number such as "),
    ],
)
def test_errors_name_the_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        resolve_config("bmrl", "demo", "sound", {key: value})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "changes", "sentence"),
    [
        ("model", {"dim": "x"}, 'setting model.dim: "x" is not a whole number such as 512'),
        ("model", {"widths": ["a"]}, 'setting model.widths: ["a"] is not a list such as 32,64,128,256,512'),
        ("losses", {"dfacc": None}, "setting losses.dfacc: null is not a number such as 1.0"),
        ("train", {"epochs": True}, "setting train.epochs: true is not a whole number such as 45"),
        ("train", {"flip": 1}, "setting train.flip: 1 is not true or false"),
        ("train", {"optimizer": 3}, "setting train.optimizer: 3 is not a word such as adam"),
        ("equations", None, "setting equations is no mapping of settings"),
        ("attributor", None, "setting attributor is no name"),
    ],
)
def test_a_config_file_of_other_types_is_a_sentence(section: str, changes: Any, sentence: str) -> None:
    """Without a word of Python's."""
    document = config_to_json(resolve_config("bmrl", "paper", "sound"))
    document[section] = [] if changes is None else {**document[section], **changes}
    with pytest.raises(ValueError) as error:
        config_from_json(document)
    assert str(error.value) == sentence


def test_unknown_presets_and_semantics_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown preset 'huge'; known are paper, small, demo"):
        resolve_config("bmrl", "huge", "sound")
    with pytest.raises(ValueError, match="unknown semantics 'loose'; known are sound, strict"):
        resolve_config("bmrl", "demo", "loose")


def test_a_foreign_config_file_is_refused() -> None:
    document = config_to_json(resolve_config("bmrl", "demo", "sound"))
    with pytest.raises(ValueError, match=r"unknown setting train\.momentum"):
        config_from_json({**document, "train": {**document["train"], "momentum": 0.9}})
    with pytest.raises(ValueError, match="setting 'losses' is missing"):
        config_from_json({k: v for k, v in document.items() if k != "losses"})


def test_weights_are_those_of_before_sizes_were_measured() -> None:
    """What is measured first draws no random number."""
    config = resolve_config("bmrl", "demo", "sound", {"losses.spa": "batch"})
    torch.manual_seed(3)
    expected = maker(config, 4)().state_dict()
    after = torch.rand(1)
    torch.manual_seed(3)
    found = from_config(config, 4).state_dict()
    assert torch.equal(torch.rand(1), after)
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)
    size = measure(maker(config, 4))
    assert size.weights == sum(tensor.numel() * tensor.element_size() for tensor in expected.values())
