"""Losses that any attributor can add: class centres (DFACC, VCC) and sample pair attention."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from bmrl.model.attributor import Attributor, LabelSpace
from bmrl.model.config import RunConfig
from bmrl.model.inputs import Batch, image_input
from bmrl.model.losses import (
    CenterLoss,
    SamplePairAttention,
    contrastive_center_loss,
    contrastive_loss,
    dfacc_loss,
)
from bmrl.model.resolve import resolve_config
from bmrl.model.training.trainer import Trainer
from bmrl.pipeline.shardset import ShardSet

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def features() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def test_dfacc_in_feature_space_starts_from_class_means() -> None:
    part = CenterLoss(3, 5, kind="dfacc", space="feature")
    x, logits = features(), torch.zeros(6, 3)
    assert float(part(x, logits, LABELS)["dfacc"].detach()) == 0.0 and float(part.record["related_share"]) == 0.0
    part(2.0 * x, logits, LABELS)  # lengths do not count
    part.end_epoch()
    unit = normalize(x, dim=1)
    means = torch.stack([normalize(unit[LABELS.eq(k)].mean(dim=0), dim=0) for k in range(3)])
    assert torch.allclose(part.centers, means, atol=1e-6)
    found = part(x, logits, LABELS)
    assert set(found) == {"dfacc"}
    assert float(found["dfacc"].detach()) == pytest.approx(float(dfacc_loss(unit, LABELS, means)), abs=1e-6)


def test_a_step_does_not_ask_the_device_whether_centres_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    part, after = (CenterLoss(3, 5, kind="dfacc", space="feature") for _ in range(2))
    part(features(), torch.zeros(6, 3), LABELS)
    part.end_epoch()
    after.load_state_dict(part.state_dict())
    for one in (part, after):  # after a change it is asked once
        one(features(), torch.zeros(6, 3), LABELS)
    asked: list[bool] = []
    monkeypatch.setattr(Tensor, "__bool__", lambda _: asked.append(True) or True)
    terms = [one(features(), torch.zeros(6, 3), LABELS)["dfacc"] for one in (part, after)]
    monkeypatch.undo()
    assert asked == [] and float(terms[0].detach()) == float(terms[1].detach()) != 0.0


def test_a_class_that_the_first_epoch_lacks_keeps_its_centre() -> None:
    part = CenterLoss(4, 5, kind="dfacc", space="feature")
    before = part.centers[3].clone()
    part(features(), torch.zeros(6, 4), LABELS)
    part.end_epoch()
    assert torch.equal(part.centers[3], before)


@pytest.mark.parametrize("space", ["feature", "prob"])
def test_random_centres_are_about_as_long_as_unit_vectors(space: str) -> None:
    """Plain normal ones would lie about 30 apart at 512 dimensions (M3)."""
    torch.manual_seed(0)
    centers = CenterLoss(64, 512, kind="dfacc", space=space).centers.detach()
    assert float(centers.norm(dim=1).mean()) == pytest.approx(1.0, abs=0.05)


def test_dfacc_over_probabilities() -> None:
    part = CenterLoss(3, 5, kind="dfacc", margin=0.9, inter_weight=0.3, space="prob")
    logits = 3.0 * features()[:, :3]
    found = part(features(), logits, LABELS)["dfacc"]
    expected = dfacc_loss(logits.softmax(dim=1), LABELS, part.centers, margin=0.9, inter_weight=0.3)
    assert part.centers.shape == (3, 3) and torch.equal(found, expected)


def test_vcc_on_the_same_centres() -> None:
    part = CenterLoss(3, 5, kind="vcc", delta=0.5, space="prob")
    logits = features()[:, :3]
    found = part(features(), logits, LABELS)
    expected = contrastive_center_loss(logits.softmax(dim=1), LABELS, part.centers, delta=0.5)
    assert set(found) == {"vcc"} and torch.equal(found["vcc"], expected) and part.record == {}


def plain_spa(
    first: list[list[float]], second: list[list[float]], table: list[list[float]], labels: list[int]
) -> float:
    """MFCLIP Eq. 7 with the code's transpose, then Eq. 11-12: (X T^t) sigma(A) and cross entropies along both axes."""

    def unit(row: list[float]) -> list[float]:
        norm = math.sqrt(sum(x * x for x in row))
        return [x / norm for x in row]

    a, b = [unit(row) for row in first], [unit(row) for row in second]
    n = len(a)
    s = [
        [
            5.0 * sum(x * y for x, y in zip(a[i], b[j], strict=True)) / (1 + math.exp(-table[labels[i]][labels[j]]))
            for j in range(n)
        ]
        for i in range(n)
    ]
    rows = -sum(s[i][i] - math.log(sum(math.exp(s[i][j]) for j in range(n))) for i in range(n)) / n
    columns = -sum(s[i][i] - math.log(sum(math.exp(s[j][i]) for j in range(n))) for i in range(n)) / n
    return (rows + columns) / 2


@pytest.mark.parametrize("kind", ["class", "batch"])
def test_spa_against_plain_loops(kind: str) -> None:
    part = SamplePairAttention(kind, num_classes=3, batch_size=8)
    assert part.table.shape == ((3, 3) if kind == "class" else (8, 8))
    x, t = features(), features().flip(0)
    places = LABELS.tolist() if kind == "class" else list(range(6))
    with torch.no_grad():
        part.table.normal_(generator=torch.Generator().manual_seed(3))
    loss = contrastive_loss(x, t, 5.0, pair_weights=part(LABELS))
    table = part.table.tolist()
    assert loss.item() == pytest.approx(plain_spa(x.tolist(), t.tolist(), table, places), abs=1e-5)
    loss.backward()
    assert part.table.grad is not None
    for i, j in ((0, 1), (2, 0), (1, 1)):
        up, down = ([[*row] for row in table] for _ in range(2))
        up[i][j] += 1e-3
        down[i][j] -= 1e-3
        expected = (
            plain_spa(x.tolist(), t.tolist(), up, places) - plain_spa(x.tolist(), t.tolist(), down, places)
        ) / 2e-3
        assert float(part.table.grad[i, j]) == pytest.approx(expected, abs=1e-4)


def test_spa_starts_at_one_half_and_refuses_larger_batches() -> None:
    part = SamplePairAttention("batch", num_classes=3, batch_size=4)
    assert torch.equal(part(LABELS[:4]), torch.full((4, 4), 0.5))
    with pytest.raises(ValueError, match=r"6 samples, and losses\.spa=batch was made for batches of 4"):
        part(LABELS)


class Linear(Attributor):
    """The smallest attributor: mean colours and one layer. What it takes to add DFACC or VCC is marked."""

    inference_views = training_views = ("image",)

    def __init__(self, config: RunConfig, num_classes: int) -> None:
        super().__init__(config, LabelSpace.of(num_classes))
        self.layer, self.head = nn.Linear(3, 8), nn.Linear(8, num_classes)
        kind, space = ("vcc" if config.losses.vcc else "dfacc"), config.equations.dfacc_space
        self.center_loss = CenterLoss(num_classes, 8, kind=kind, space=space, margin=config.losses.margin)  # here

    def loss_weights(self) -> dict[str, float]:
        return {name: getattr(self.config.losses, name) for name in ("dfa", "dfacc", "vcc")}

    def embed(self, batch: Batch) -> Tensor:
        return self.layer(image_input(batch).mean(dim=(2, 3)))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        found = self.embed(batch)
        logits = self.classify(found)
        terms = {"dfa": cross_entropy(logits, batch["label"])} | self.center_loss(found, logits, batch["label"])  # here
        self.record = dict(self.center_loss.record)  # here
        return terms

    def end_epoch(self) -> None:
        self.center_loss.end_epoch()  # and here

    def undecayed(self) -> set[str]:
        return {"center_loss.centers"}


@pytest.mark.parametrize("name", ["dfacc", "vcc"])
def test_another_attributor_adds_a_centre_loss(name: str, small_set: ShardSet, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {"losses.dfacc": 0, "precision": "float32", "batch_size": 8, "epochs": 2}
    rows = small_set.select(split="train")
    torch.manual_seed(0)
    model = Linear(resolve_config("bmrl", "demo", "sound", {**overrides, f"losses.{name}": 1}), len(rows.classes))
    loader = rows.loader(views=("image",), batch_size=8)
    trainer = Trainer(model, train=loader, validation=list, run=tmp_path, device=torch.device("cpu"))
    lines: list[str] = []
    assert trainer.fit(resume=False, on_step=lambda _: None, on_epoch=lambda summary: lines.append(str(summary)))
    steps = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"step"' in line]
    assert len(lines) == 2 and len(steps) == 6 and all(f'"loss_{name}"' in line for line in steps)
    assert [('"related_share"' in line) for line in steps] == [name == "dfacc"] * 6


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_a_steps_record_holds_what_was_trained_on(clip_norm: float, small_set: ShardSet, tmp_path: Path) -> None:
    """Weighted sum, unweighted terms, accuracy and the norm before clipping, recomputed from the first batch."""
    settings = {"losses.dfa": 0.5, "losses.dfacc": 2, "losses.margin": 0.4, "precision": "float32", "epochs": 1}
    more = {"flip": False, "clip_norm": clip_norm, "batch_size": 8, "dfacc_space": "prob"}
    rows = small_set.select(split="train")
    config = resolve_config("bmrl", "demo", "sound", {**settings, **more})

    def fresh() -> Linear:
        torch.manual_seed(0)
        return Linear(config, len(rows.classes))

    loader = rows.loader(views=("image",), batch_size=8)
    trainer = Trainer(fresh(), train=loader, validation=list, run=tmp_path, device=torch.device("cpu"))
    assert trainer.fit(resume=False, on_step=lambda _: None, on_epoch=lambda _: None)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])

    model, batch = fresh(), next(iter(rows.loader(views=("image",), batch_size=8)))
    terms = model.losses(batch)
    loss = 0.5 * terms["dfa"] + 2.0 * terms["dfacc"]
    loss.backward()
    squares = [float(g) ** 2 for p in model.parameters() if p.grad is not None for g in p.grad.flatten().tolist()]
    expected = {
        "loss": loss.item(),
        "loss_dfa": terms["dfa"].item(),
        "loss_dfacc": terms["dfacc"].item(),
        "related_share": float(model.record["related_share"]),
        "grad_norm": math.sqrt(sum(squares)),
    }
    assert expected["grad_norm"] > 0.01, "clipping did something"
    assert {name: line[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert line["samples_per_s"] > 0 and line["loader_wait_s"] >= 0
