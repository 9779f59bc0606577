from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bmrl.model import build
from bmrl.model.inputs import INPUTS

CLASSES = ("real", "SimSwap", "mystery")
TERMS = {"dfa", "dfacc", "cmc", "cpc", "kl"}


def make(tiny: dict[str, Any], semantics: str = "sound", **overrides: Any) -> Any:
    torch.manual_seed(0)
    return build("bmrl", CLASSES, preset="demo", semantics=semantics, **{**tiny, **overrides})


def inference(batch: dict[str, Any]) -> dict[str, Any]:
    return {view: batch[view] for view in ("image", "edge", "noise")}


def test_inference_needs_image_edge_and_noise_alone(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make(tiny).eval()
    assert model.inference_views == ("image", "edge", "noise")
    assert model.training_views == ("image", "edge", "noise", "parsing", "text")
    with torch.no_grad():
        logits = model.logits(inference(batch))
        assert logits.shape == (6, 3) and torch.equal(logits, model.logits(batch))
        assert torch.equal(logits, model.classify(model.embed(inference(batch))))


@pytest.mark.parametrize("semantics", ["sound", "strict"])
def test_predictions_do_not_depend_on_the_batch_slot(
    semantics: str, tiny: dict[str, Any], batch: dict[str, Any]
) -> None:
    model = make(tiny, semantics).eval()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        logits = model.logits(inference(batch))
        moved = model.logits({view: array[order] for view, array in inference(batch).items()})
        alone = torch.cat([model.logits({v: a[i : i + 1] for v, a in inference(batch).items()}) for i in range(6)])
    assert torch.allclose(moved, logits[order], atol=1e-5)
    assert torch.allclose(alone, logits, atol=1e-5)
    assert not torch.allclose(logits[order], logits, atol=1e-4)  # the samples do differ


@pytest.mark.parametrize("view", ["image", "edge", "noise"])
def test_every_visual_view_counts(view: str, tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make(tiny).eval()
    changed = {**inference(batch), view: torch.zeros_like(batch[view])}
    with torch.no_grad():
        assert not torch.allclose(model.logits(changed), model.logits(inference(batch)), atol=1e-5)


def test_the_embedding_is_the_sum_of_class_tokens(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    strict, sound = make(tiny, "strict").eval(), make(tiny, "sound").eval()
    for model in (strict, sound):
        with torch.no_grad():
            summed = sum(model.visual[view](INPUTS[view](batch)) for view in ("image", "edge", "noise"))
            features = model.embed(batch)
        expected = summed / summed.norm(dim=1, keepdim=True) if model is sound else summed
        assert torch.allclose(features, expected, atol=1e-6)


def test_losses_train_every_part(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    """Under strict semantics all five terms give gradients at the first step; each encoder gets some."""
    model = make(tiny, "strict")
    terms = model.losses(batch)
    assert set(terms) == TERMS and all(term.ndim == 0 and bool(torch.isfinite(term)) for term in terms.values())
    sum(terms.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent
    for part in (
        "visual.image",
        "visual.edge",
        "visual.noise",
        "parsing",
        "language",
        "predictor",
        "head",
        "center_loss",
    ):
        assert any(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name.startswith(part)), part


def test_strict_and_sound_differ_where_they_should(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    strict, sound = make(tiny, "strict"), make(tiny, "sound")
    assert isinstance(strict.head, torch.nn.Linear) and isinstance(sound.head, torch.nn.Sequential)
    assert strict.center_loss.centers.shape == (3, 3)  # over the softmax output
    assert sound.center_loss.centers.shape == (3, 16)  # over features
    assert strict.undecayed() == set()
    decayed = {name for name, _ in sound.named_parameters()} - sound.undecayed()
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    assert {
        "head.1.weight",
        "predictor.weight",
        "language.embedding.weight",
        "visual.edge.backbone.0.weight",
    } <= decayed
    assert "head.0.weight" in sound.undecayed() and "visual.image.transformer.class_token" in sound.undecayed()
    terms = sound.losses(batch)
    terms["kl"].backward()
    assert all(p.grad is None for p in sound.language.parameters()), "sound detaches the text in KL"
    strict.losses(batch)["kl"].backward()
    assert any(p.grad is not None for p in strict.language.parameters())


def test_sound_clamps_the_logit_scale_and_strict_does_not(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    for semantics, expected in (("sound", 0.01), ("strict", 0.001)):
        model = make(tiny, semantics, **{"losses.temperature": 0.001})
        model.losses(batch)
        for name in ("temperature_cmc", "temperature_cpc"):
            assert float(model.record[name]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("semantics", ["sound", "strict"])
def test_a_temperature_at_its_bound_can_rise_again(semantics: str, tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    """As CLIP's, which clamps the parameter: a clamp of the value alone would leave it without gradient for ever."""
    model = make(tiny, semantics)
    with torch.no_grad():
        for scale in (model.log_scale_cmc, model.log_scale_cpc):
            scale.fill_(math.log(200.0))  # where an optimizer's step may have taken it
    terms = model.losses(batch)
    (terms["cmc"] + terms["cpc"]).backward()
    for scale in (model.log_scale_cmc, model.log_scale_cpc):
        assert float(scale.grad) > 0.0, "wrong pairs at so low a temperature: it should rise"
        assert float(scale.detach().exp()) == pytest.approx(100.0 if semantics == "sound" else 200.0, rel=1e-5)


def test_sound_starts_its_centres_from_the_first_epochs_means(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make(tiny).eval()  # eval: the same features in both calls
    assert float(model.losses(batch)["dfacc"].detach()) == 0.0
    with torch.no_grad():
        features = model.embed(batch)
    model.end_epoch()
    for k in range(3):
        mean = features[batch["label"] == k].mean(dim=0)
        assert torch.allclose(model.center_loss.centers[k], mean / mean.norm(), atol=1e-5)
    assert float(model.losses(batch)["dfacc"].detach()) != 0.0
    with torch.no_grad():
        model.center_loss.centers.mul_(2.0)  # as trained on
    before = model.center_loss.centers.clone()
    model.end_epoch()
    assert torch.equal(model.center_loss.centers, before), "once only"


@pytest.mark.parametrize(
    ("what", "touched"),
    [
        ("image", TERMS),
        ("edge", TERMS),
        ("noise", TERMS),
        ("parsing", {"cpc"}),
        ("text", {"cmc", "kl"}),
        ("label", {"dfa", "dfacc"}),
    ],
)
def test_each_input_reaches_its_terms_alone(
    what: str, touched: set[str], tiny: dict[str, Any], batch: dict[str, Any]
) -> None:
    model = make(tiny, "strict").eval()
    order = torch.tensor([1, 0, 2, 5, 4, 3])
    changed = {**batch, what: batch[what][order]}
    with torch.no_grad():
        before, after = model.losses(batch), model.losses(changed)
    assert {name for name in before if float(before[name]) != float(after[name])} == touched


def test_a_weight_of_zero_leaves_its_term_out(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    for name in ("dfacc", "cmc", "cpc", "kl"):
        terms = make(tiny, **{f"losses.{name}": 0}).losses(batch)
        assert set(terms) == TERMS - {name}


def test_parts_can_be_switched_off(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    model = make(tiny, **{"model.views": "image,noise", "model.parsing": False, "model.text": False})
    assert model.training_views == ("image", "noise")
    assert set(model.losses({k: batch[k] for k in ("image", "noise", "label")})) == {"dfa", "dfacc"}
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert not parts & {"parsing", "language"} and set(model.visual) == {"image", "noise"}, "what is off is not built"
    with pytest.raises(ValueError, match="expected one or more of image, edge, noise"):
        make(tiny, **{"model.views": "image,parsing"})


@pytest.mark.parametrize(
    "overrides",
    [
        {"losses.dfacc": 0},
        {"losses.dfacc": 0, "losses.vcc": 1},
        {"losses.cmc": 0},
        {"losses.cpc": 0},
        {"losses.kl": 0},
        {"losses.spa": "class"},
        {"losses.margin": 0.5, "losses.inter_weight": 0.3},
        {"text_levels": "1,2"},
        {"text_readout": "levels"},
        {"semantics": "strict"},
    ],
)
def test_a_loss_that_changes_leaves_the_initial_weights(overrides: dict[str, Any], tiny: dict[str, Any]) -> None:
    """So that rows of an ablation differ in the loss alone. (A module that is off does move what is built behind it.)"""
    full = make(tiny).state_dict()
    other = make(tiny, **overrides).state_dict()
    without = ("parsing.",) if overrides == {"losses.cpc": 0} else ()  # then PE is drawn and let go, see below
    assert {name.startswith("parsing.") for name in other} == ({False} if without else {False, True})
    same = {name: tensor for name, tensor in full.items() if not name.startswith(("head", "center_loss", *without))}
    assert same and all(torch.equal(other[name], tensor) for name, tensor in same.items())
    heads = [[t for name, t in weights.items() if name.startswith("head")][-2:] for weights in (full, other)]
    assert all(torch.equal(one, two) for one, two in zip(*heads, strict=True))


def test_without_cpc_there_is_no_parsing_encoder(tiny: dict[str, Any], batch: dict[str, Any]) -> None:
    """It is neither stored nor trained, and its column is not read; weights of version 0.1, which built it, still fit."""
    model = make(tiny, **{"losses.cpc": 0})
    assert model.parsing is None and "parsing" not in model.training_views
    assert set(model.losses({view: batch[view] for view in (*model.training_views, "label")})) == TERMS - {"cpc"}
    older = make(tiny).state_dict()
    assert set(model.upgrade(older)) == set(model.state_dict()) < set(older)
    assert set(make(tiny).upgrade(older)) == set(older)


def test_the_same_seed_gives_the_same_weights(tiny: dict[str, Any]) -> None:
    first, second = make(tiny).state_dict(), make(tiny).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_names_and_class_counts_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown attributor 'bmlr'; known are bmrl"):
        build("bmlr", 3)
    with pytest.raises(ValueError, match="'sjedd' is planned and not in this version"):
        build("sjedd", 3)
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        build("bmrl", ["real"], preset="demo")
