"""DNA-Det: architecture traces by patch-wise contrast (Yang et al. 2022, 2202.07912).

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor dna-det --shards demo/shards --out demo/dna-det --protocol demo-1 --preset demo

A small network over random crops, first taught to tell 170 image transformations apart, then generators, by cross-entropy and
a supervised contrast of the crops, which weigh themselves. Written from the description in methods.md. The paper crops from 512
pixels; the shards hold 224, so crops come from them as they are (model.side=512 scales them up first).

Legend: B batch, N crops of a batch, D feature dimension (512), K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from ..attributor import LabelSpace, Spec
from ..classifier import Classifier, ClassifierConfig
from ..classifier import Equations as BaseEquations
from ..classifier import Weights as CentreWeights
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch
from ..layers.transforms import NUM_TRANSFORMS, transformed
from ..losses import supervised_contrastive_loss

RATE = 100.0  # the released trainer steps the terms' own weights by 1e-2 where everything else has 1e-4


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of DNA-Det's network and its crops."""

    widths: tuple[int, ...] = (64, 128, 256, 512)
    projection: int = setting(128, positive=True)
    dropout: float = setting(0.2, at_least_zero=True)  # before the head
    side: int = setting(224, positive=True, most=1024)  # pixels that crops are taken from
    crop: int = setting(64, positive=True)  # pixels a side
    crops: int = setting(16, positive=True, most=256)  # of one image
    pretrain_epochs: int = setting(50, at_least_zero=True)  # of the training's, on transformations


@dataclass(frozen=True, kw_only=True)
class Weights(CentreWeights):
    """With the contrast of the crops."""

    supcon: float = setting(1.0, at_least_zero=True)
    temperature: float = setting(0.07, positive=True)
    auto: bool = True  # ce and supcon weigh themselves (Kendall et al. 2018)


@dataclass(frozen=True, kw_only=True)
class Equations(BaseEquations):
    """`strict` feeds a softmax into the cross-entropy's own softmax, as the released code does."""

    double_softmax: bool = False


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """DNA-Det's settings."""

    model: Sizes = field(default_factory=Sizes)
    losses: Weights = field(default_factory=Weights)
    equations: Equations = field(default_factory=Equations)
    origin = "from scratch"

    def check(self, train: TrainConfig) -> None:
        super().check(train)
        model = self.model
        if not model.widths or min(model.widths) < 1:
            raise ValueError(f"model.widths {model.widths}: expected one or more, all 1 or more")
        if not 2 ** len(model.widths) <= model.crop <= model.side:
            raise ValueError(
                f"model.crop {model.crop}: expected {2 ** len(model.widths)} (halved {len(model.widths)} times) "
                f"to model.side {model.side}"
            )
        if model.dropout >= 1:
            raise ValueError(f"model.dropout {model.dropout}: expected less than 1")
        if model.pretrain_epochs >= train.epochs:
            raise ValueError(f"model.pretrain_epochs {model.pretrain_epochs} leave nothing of {train.epochs} epochs")


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(epochs=80, weight_decay=0.0, schedule="constant", patience=20)),
    "small": Preset(
        config=Config(model=Sizes(widths=(32, 64, 128, 256), pretrain_epochs=10)),
        train=TrainConfig(epochs=40, lr=3e-4, weight_decay=0.0, schedule="cosine"),
    ),
    "demo": Preset(
        config=Config(model=Sizes(widths=(24, 48, 96, 192), crops=6, pretrain_epochs=2)),
        train=TrainConfig(epochs=14, lr=1e-3, weight_decay=0.0, schedule="cosine", flip=True, precision="bfloat16"),
    ),
}
SEMANTICS = {
    "sound": Equations(),
    "strict": Equations(dfacc_space="prob", decay_all=True, double_softmax=True),
}


class DnaDet(Classifier):
    """Four pairs of convolutions over crops; an image is the mean of its crops."""

    own: Config
    epochs_done: Tensor  # int64 scalar

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model = self.own.model
        layers: list[nn.Module] = []
        channels = 3
        for width in model.widths:
            for size, stride in ((4, 2), (3, 1)):
                layers += [nn.Conv2d(channels, width, size, stride=stride, padding=1), nn.LeakyReLU(0.2, inplace=True)]
                channels = width
        self.network = nn.Sequential(*layers)
        self.projection = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, model.projection))
        self.dropout = nn.Dropout(model.dropout)
        self.head = nn.Linear(channels, self.num_classes)
        self.transform_head = nn.Linear(channels, NUM_TRANSFORMS) if model.pretrain_epochs else None
        self.log_weights = nn.Parameter(torch.zeros(2))  # of ce and supcon, over RATE
        self.register_buffer("epochs_done", torch.zeros((), dtype=torch.int64))
        self._done = (self.epochs_done, -1, 0)
        self.add_centers(channels)

    def embed(self, batch: Batch) -> Tensor:
        """The mean feature over crops on an even grid, float (B, D)."""
        images = self._scaled(batch["image"])
        crop, side = self.own.model.crop, self.own.model.side
        rows = max(1, round(self.own.model.crops**0.5))
        places = [round(i * (side - crop) / max(1, rows - 1)) for i in range(rows)]
        crops = torch.cat([images[:, :, top : top + crop, left : left + crop] for top in places for left in places])
        return self._features(crops).view(-1, len(images), self.head.in_features).mean(dim=0)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(features)).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """While it learns transformations: transforms. Then ce, supcon over crops, and a centre loss over images' means."""
        model, weights = self.own.model, self.own.losses
        if self.transform_head is not None and self._epochs() < model.pretrain_epochs:
            images, labels = transformed(batch["image"])
            crops, owners = self._random_crops(self._scaled(images))
            logits = self.transform_head(self._features(crops)).float()
            return {"transforms": cross_entropy(logits, labels[owners])}
        crops, owners = self._random_crops(self._scaled(batch["image"]))
        features = self._features(crops)
        logits, labels = self.classify(features), batch["label"]
        means = features.view(-1, len(labels), features.shape[1]).mean(dim=0)
        terms = self.label_terms(means, self.classify(means), labels)
        given = logits.softmax(dim=1) if self.own.equations.double_softmax else logits
        terms["ce"] = self._weighed(cross_entropy(given, labels[owners]), 0)
        if weights.supcon:
            contrast = supervised_contrastive_loss(
                self.projection(features), labels[owners], temperature=weights.temperature
            )
            terms["supcon"] = self._weighed(contrast, 1)
        return terms

    def loss_weights(self) -> Mapping[str, float]:
        return {**super().loss_weights(), "transforms": 1.0}

    def end_epoch(self) -> None:
        if self._epochs() >= self.own.model.pretrain_epochs:
            super().end_epoch()
        self.epochs_done += 1

    def activations(self) -> dict[str, nn.Module]:
        return {}

    def _epochs(self) -> int:
        """`epochs_done`, asked of the device only where it has changed."""
        known, version, value = self._done
        if known is not self.epochs_done or version != self.epochs_done._version:
            value = int(self.epochs_done)
            self._done = (self.epochs_done, self.epochs_done._version, value)
        return value

    def _scaled(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, 224, 224) -> float (B, 3, side, side) in [-1, 1]."""
        found, side = images.float() / 127.5 - 1.0, self.own.model.side
        if images.shape[-1] == side:
            return found
        return interpolate(found, size=(side, side), mode="bilinear", align_corners=False)

    def _random_crops(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, side, side) -> `crops` of each, (N, 3, crop, crop), the first of every image first, and whose they are (N,)."""
        model, count, device = self.own.model, len(images), images.device
        places = torch.randint(model.side - model.crop + 1, (model.crops, count, 2), device=device)
        span = torch.arange(model.crop, device=device)
        rows = places[..., 0].flatten()[:, None] + span  # (N, crop)
        columns = places[..., 1].flatten()[:, None] + span
        owners = torch.arange(count, device=device).repeat(model.crops)
        found = images.permute(0, 2, 3, 1)[owners[:, None, None], rows[:, :, None], columns[:, None, :]]
        return found.permute(0, 3, 1, 2), owners  # (N, crop, crop, 3) -> (N, 3, crop, crop)

    def _features(self, crops: Tensor) -> Tensor:
        """(N, 3, crop, crop) -> (N, D)."""
        return self.network(crops).mean(dim=(2, 3)).float()

    def _weighed(self, term: Tensor, number: int) -> Tensor:
        """L / (2 w^2) + log(1 + w^2), w from 1."""
        if not self.own.losses.auto:
            return term
        square = (1.0 + RATE * self.log_weights[number]).square()
        return 0.5 * term / square + torch.log1p(square)


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=DnaDet)
