"""What every attributor has in common: it trains, is judged and answers through the same three functions."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from narrow import narrow

from bmrl.model.attributor import LabelSpace
from bmrl.model.attributors import ATTRIBUTORS, load_spec
from bmrl.model.errors import StoppedError, TrainingError
from bmrl.model.resolve import from_config, resolve_config
from bmrl.model.runs import attribute, evaluate, train
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.shardset import ShardSet

STEPPED = sorted(name for name in ATTRIBUTORS if load_spec(name).attributor.steps)
LABELS = LabelSpace(names=("real", "SimSwap", "mystery"), kinds=("real", "FS", "unknown"))


@pytest.mark.parametrize("name", sorted(ATTRIBUTORS))
def test_trains_is_judged_and_answers(name: str, photo_set: ShardSet, photo_protocol: str, tmp_path: Path) -> None:
    epochs = 2 if name == "dna-det" else 1
    settings = narrow(name, epochs=epochs, batch_size=8)
    common = {"attributor": name, "preset": "demo", "protocol": photo_protocol, "device": "cpu"}
    run = train(photo_set, tmp_path / "run", settings=settings, **common)
    result = evaluate(run, photo_set, device="cpu", with_controls=False, out=tmp_path / "judged").document
    assert result["attributor"] == name and result["seen"]["n"] == 8
    assert result["origin"] in ("from scratch", "fitted", "over classical features")
    assert 0.0 <= result["auroc"]["max_softmax"] <= 1.0
    for file in ("result.json", "report.html", "predictions.parquet"):
        assert (tmp_path / "judged" / file).stat().st_size > 0
    image = next((Path(photo_set.root).parent / "source/test/stargan").iterdir())
    (answer,) = attribute(run, [image], device="cpu")
    assert set(answer["probabilities"]) == {"real", "StyleGAN"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("semantics", ["sound", "strict"])
@pytest.mark.parametrize("name", STEPPED)
def test_losses_have_gradients_in_both_semantics(name: str, semantics: str, batch: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = from_config(resolve_config(name, "demo", semantics, narrow(name)), LABELS)
    weights = model.loss_weights()
    for _ in range(2):  # DNA-Det's second phase too
        terms = model.losses(batch)
        assert terms and set(terms) <= set(weights)
        assert all(term.ndim == 0 and math.isfinite(term.item()) for term in terms.values())
        torch.stack([weights[term] * value for term, value in terms.items()]).sum().backward()
        model.end_epoch()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained) > 0.7 * len(trained)
    model.eval()
    views = {view: batch[view] for view in model.inference_views}
    with torch.no_grad():
        features = model.embed(views)
        assert features.dtype == torch.float32 and len(features) == 6
        assert torch.equal(model.classify(features), model.logits(views)) and model.logits(views).shape == (6, 3)


@pytest.mark.parametrize("name", STEPPED)
def test_a_batch_of_one_class_is_trained_on(name: str, batch: dict[str, Any]) -> None:
    model = from_config(resolve_config(name, "demo", "sound", narrow(name)), LABELS)
    one = {**batch, "label": torch.zeros(6, dtype=torch.int64), "text": batch["text"][:1].expand(6, -1, -1)}
    for _ in range(2):
        assert all(math.isfinite(term.item()) for term in model.losses(one).values())
        model.end_epoch()


@pytest.mark.parametrize("loss", ["dfacc", "vcc"])
@pytest.mark.parametrize("name", [name for name in STEPPED if name != "bmrl"])
def test_centre_losses_are_a_setting(name: str, loss: str, batch: dict[str, Any]) -> None:
    """BMRL Tables 4, 9 and 10 add them to other attributors."""
    settings = narrow(name, **{f"losses.{loss}": 1.0})
    model = from_config(resolve_config(name, "demo", "sound", settings), LABELS)
    for _ in range(2):  # the centres start at the first epoch's means
        terms = model.losses(batch)
        model.end_epoch()
    terms = model.losses(batch)
    assert loss in terms and model.loss_weights()[loss] == 1.0 and terms[loss].item() != 0.0


@pytest.mark.parametrize("name", sorted(ATTRIBUTORS))
def test_only_the_declared_views_are_read(name: str, batch: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = from_config(resolve_config(name, "demo", "sound", narrow(name)), LABELS)
    needed = ("key", "generator", "label")
    training = {view: batch[view] for view in (*needed, *model.training_views)}
    if model.steps:
        model.losses(training)
    else:
        model.fit([training])
    model.eval()
    with torch.no_grad():
        model.logits({view: batch[view] for view in model.inference_views})
    image_only = {
        "clip",
        "cvit",
        "cpl",
        "carzero",
        "dna-det",
        "de-fake",
        "resnet50",
        "knn",
        "srm-probe",
        "spectrum-probe",
    }
    assert (model.inference_views == ("image",)) == (name in image_only)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STEPPED if name != "bmrl"])
def test_a_stopped_training_goes_on_bit_for_bit(
    name: str, small_set: ShardSet, small_protocol: str, tmp_path: Path
) -> None:
    """Dropout, crops and transformations are drawn from the seed and the step; bmrl's own tests stop it at every step."""
    settings = narrow(name, epochs=2, batch_size=8, checkpoint_every=1)
    common: dict[str, Any] = {
        "attributor": name, "preset": "demo", "protocol": small_protocol, "device": "cpu", "settings": settings,
    }  # fmt: skip
    whole = train(small_set, tmp_path / "whole", **common)

    def stop(step: Any) -> None:
        if step.step == 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError):
        train(small_set, tmp_path / "parts", on_step=stop, **common)
    parts = train(small_set, tmp_path / "parts", resume=True, **common)
    for file in ("best.safetensors", "last.safetensors"):
        assert (whole / file).read_bytes() == (parts / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ATTRIBUTORS))
def test_detection_is_a_protocol(name: str, photo_set: ShardSet, photo_protocol: str, tmp_path: Path) -> None:
    settings = narrow(name, epochs=2 if name == "dna-det" else 1, batch_size=8)
    run = train(
        photo_set, tmp_path / "run", attributor=name, preset="demo", protocol=f"{photo_protocol}:detection",
        settings=settings, device="cpu",
    )  # fmt: skip
    image = next((Path(photo_set.root).parent / "source/test/real").iterdir())
    (answer,) = attribute(run, [image], device="cpu")
    assert set(answer["probabilities"]) == {"real", "fake"}


@pytest.mark.parametrize("name", sorted(ATTRIBUTORS))
def test_an_unknown_setting_is_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"setting 'model\.nothing' is unknown; known are "):
        resolve_config(name, "demo", "sound", {"model.nothing": 1})


def test_a_view_that_the_shards_lack_is_one_sentence(
    build_here: Callable[[BuildOptions], Path], small_options: Callable[..., BuildOptions], tmp_path: Path
) -> None:
    root = build_here(small_options(tmp_path / "images", views=("image",)))
    with pytest.raises(TrainingError, match="edge") as caught:
        train(root, tmp_path / "run", attributor="cael", preset="demo", settings=narrow("cael"), device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
