"""What an attributor may ask of the trainer: one pass without steps, another batch before each step."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bmrl.model.attributor import Attributor, LabelSpace
from bmrl.model.attributors import bmrl
from bmrl.model.config import RunConfig
from bmrl.model.errors import TrainingError
from bmrl.model.inputs import Batch, image_input
from bmrl.model.resolve import resolve_config
from bmrl.model.training.distributed import World
from bmrl.model.training.trainer import Trainer
from bmrl.pipeline.shardset import ShardSet

CPU = torch.device("cpu")


def settings(**overrides: Any) -> RunConfig:
    return resolve_config("bmrl", "demo", "sound", {"precision": "float32", "batch_size": 8, "epochs": 2, **overrides})


class Colours(Attributor):
    """The mean colour of each class; the nearest one wins. It has nothing to take a gradient of."""

    inference_views = training_views = ("image",)
    steps = False
    means: Tensor  # (K, 3)

    def __init__(self, config: RunConfig, classes: int) -> None:
        super().__init__(config, LabelSpace.of(classes))
        self.register_buffer("means", torch.zeros(classes, 3))

    def fit(self, batches: Iterable[Batch]) -> None:
        found = [(self.embed(batch), batch["label"]) for batch in batches]
        features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        for label in range(self.num_classes):
            self.means[label] = features[labels == label].mean(dim=0)

    def embed(self, batch: Batch) -> Tensor:
        return image_input(batch).mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return -torch.cdist(features, self.means)


class Tuned(Attributor):
    """One layer over mean colours. Before each step it notes both batches, and moves its bias."""

    inference_views = training_views = ("image",)
    tunes = True

    def __init__(self, config: RunConfig, classes: int) -> None:
        super().__init__(config, LabelSpace.of(classes))
        self.head = nn.Linear(3, classes)
        self.noted: list[tuple[tuple[str, ...], tuple[str, ...], float]] = []

    def loss_weights(self) -> dict[str, float]:
        return {"dfa": 1.0}

    def embed(self, batch: Batch) -> Tensor:
        return image_input(batch).mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"dfa": cross_entropy(self.logits(batch), batch["label"])}

    def tune(self, batch: Batch, other: Batch, rate: float) -> None:
        self.noted.append((tuple(batch["key"]), tuple(other["key"]), rate))
        with torch.no_grad():
            self.head.bias += rate * image_input(other).mean()


def no(_: Any) -> None:
    return None


def test_an_attributor_without_steps_sees_every_row_once(small_set: ShardSet, tmp_path: Path) -> None:
    rows = small_set.select(split="train")
    model = Colours(settings(), len(rows.classes))

    def trainer(attributor: Colours) -> Trainer:
        loader = rows.loader(views=("image",), batch_size=8, shuffle=False)
        return Trainer(attributor, train=loader, validation=lambda: [batch], run=tmp_path, device=CPU)

    batch = next(iter(rows.loader(views=("image",), batch_size=len(rows), shuffle=False)))
    summaries: list[dict[str, Any]] = []
    assert trainer(model).fit(resume=False, on_step=no, on_epoch=summaries.append)
    for label in range(len(rows.classes)):
        expected = model.embed(batch)[batch["label"] == label].mean(dim=0)
        assert torch.allclose(model.means[label], expected, atol=1e-6)
    assert len(summaries) == 1 and summaries[0]["val_n"] == len(rows)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == summaries[0]
    again = Colours(settings(), len(rows.classes))
    assert trainer(again).fit(resume=True, on_step=no, on_epoch=no)
    assert torch.equal(again.means, model.means), "a finished run is not fitted again"


def test_a_fit_is_one_process(small_set: ShardSet, tmp_path: Path) -> None:
    rows = small_set.select(split="train")
    loader = rows.loader(views=("image",), batch_size=8, shuffle=False)
    world = World(rank=0, size=2)
    model = Colours(settings(), len(rows.classes))
    trainer = Trainer(model, train=loader, validation=list, run=tmp_path, device=CPU, world=world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bmrl.model.training.trainer.same_everywhere", lambda *_: True)
        with pytest.raises(TrainingError, match="fitted by one process"):
            trainer.fit(resume=False, on_step=no, on_epoch=no)


@pytest.mark.parametrize("stopped_after", [1, 2, 3, 5])
def test_the_other_batches_are_a_second_order_that_a_resume_keeps(
    stopped_after: int, small_set: ShardSet, tmp_path: Path
) -> None:
    rows = small_set.select(split="train")  # 29 rows, 3 full batches of 8 an epoch
    assert bmrl.Bmrl.tunes is False

    def trainer(run: Path) -> Trainer:
        run.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = Tuned(settings(checkpoint_every=1), len(rows.classes))
        loaders = [rows.loader(views=("image",), batch_size=8, seed=seed) for seed in (0, 1)]
        return Trainer(model, train=loaders[0], other=loaders[1], validation=list, run=run, device=CPU)

    whole = trainer(tmp_path / "whole")
    assert whole.fit(resume=False, on_step=no, on_epoch=no)
    assert len(whole.model.noted) == 6 and all(first != other for first, other, _ in whole.model.noted)
    first_epoch = [sorted(key for step in whole.model.noted[:3] for key in step[part]) for part in (0, 1)]
    assert len(set(first_epoch[0])) == len(set(first_epoch[1])) == 24
    run = tmp_path / "run"
    part = trainer(run)
    assert not part.fit(
        resume=False, on_step=lambda step: part._request_stop() if step.step == stopped_after else None, on_epoch=no
    )
    rest = trainer(run)
    assert rest.fit(resume=True, on_step=no, on_epoch=no)
    assert part.model.noted + rest.model.noted == whole.model.noted
    assert torch.equal(rest.model.head.weight, whole.model.head.weight)
    assert torch.equal(rest.model.head.bias, whole.model.head.bias)
