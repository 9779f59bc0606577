"""CPL: contrastive pseudo learning for open-world deepfake attribution (Sun et al. 2023, 2309.11132).

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor cpl --shards demo/shards --out demo/cpl --protocol demo-1 --preset demo
         (open world, where the protocol has unlabelled training rows: --set model.unlabelled=1)

ResNet-50 whose map and its 3 x 3 parts each end in a batch norm. Its paper trains with unlabelled images of the new sources;
BMRL, which tests on unseen ones, does not say what it fed. Without them cross-entropy with its margin, the pairs of labelled
images and the entropy of a batch remain, which is the default.

Legend: B batch, D feature dimension (2048), K classes, P parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, gumbel_softmax, one_hot

from ..attributor import LabelSpace, Spec
from ..classifier import Classifier, ClassifierConfig
from ..classifier import Equations as BaseEquations
from ..classifier import Weights as CentreWeights
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch, image_input
from ..layers.backbones import make_backbone
from ..losses import batch_entropy, voted_pair_loss
from ..published import HUB, SCRATCH, take_published


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shares of ResNet-50's sizes, parts, and whether unlabelled rows are read."""

    width: float = setting(1.0, positive=True)
    depth: float = setting(1.0, positive=True)
    weights: str = HUB  # hub (ImageNet), none, or a .safetensors file
    parts: int = setting(3, positive=True, most=7)  # a side of the map
    dropout: float = setting(0.2, at_least_zero=True)
    unlabelled: bool = False  # the training rows of the protocol's unseen sources, without their labels
    novel: int = setting(0, at_least_zero=True, most=1000)  # outputs for them; answers are the seen ones alone


@dataclass(frozen=True, kw_only=True)
class Weights(CentreWeights):
    """As released: cross-entropy, GLV, CSP, and the entropy of a batch's mean answer, which is made large."""

    glv: float = setting(0.5, at_least_zero=True)
    csp: float = setting(0.5, at_least_zero=True)
    entropy: float = setting(1.0, at_least_zero=True)


@dataclass(frozen=True, kw_only=True)
class Equations(BaseEquations):
    """The margin is taken from the true logit (`sound`, what a margin is for); the released code adds it (`strict`)."""

    margin: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """CPL's settings."""

    model: Sizes = field(default_factory=Sizes)
    losses: Weights = field(default_factory=Weights)
    equations: Equations = field(default_factory=Equations)

    @property
    def unlabelled(self) -> bool:
        return self.model.unlabelled

    def check(self, train: TrainConfig) -> None:
        super().check(train)
        if self.model.dropout >= 1:
            raise ValueError(f"model.dropout {self.model.dropout}: expected less than 1")
        if self.model.novel and not self.model.unlabelled:
            raise ValueError("model.novel are outputs for unlabelled rows, which model.unlabelled=1 reads")


PRESETS = {
    "paper": Preset(
        config=Config(), train=TrainConfig(epochs=50, batch_size=128, lr=2e-4, weight_decay=1e-5, step_epochs=10)
    ),
    "small": Preset(
        config=Config(model=Sizes(width=0.5, weights=SCRATCH)),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, step_epochs=10, weight_decay=1e-5),
    ),
    "demo": Preset(
        config=Config(model=Sizes(width=0.25, depth=0.5, weights=SCRATCH)),
        train=TrainConfig(epochs=12, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True, precision="bfloat16"),
    ),
}
SEMANTICS = {"sound": Equations(), "strict": Equations(dfacc_space="prob", decay_all=True, margin=-0.2)}


class Cpl(Classifier):
    """A bias-free layer over the normed global feature; parts vote on who belongs together."""

    own: Config

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model = self.own.model
        self.backbone = make_backbone("resnet50", width=model.width, depth=model.depth)
        dim = self.backbone.dim
        self.neck = nn.BatchNorm1d(dim)
        self.part_necks = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(model.parts**2))
        self.dropout = nn.Dropout(model.dropout)
        self.head = nn.Linear(dim, self.num_classes + model.novel, bias=False)
        self.add_centers(dim)

    def begin(self) -> None:
        take_published(self.backbone.network, "resnet50", self.own.model.weights)

    def loss_weights(self) -> Mapping[str, float]:
        return {**super().loss_weights(), "entropy": -self.own.losses.entropy}

    def embed(self, batch: Batch) -> Tensor:
        """The normed mean of the last map, float (B, D)."""
        return self.neck(self._map(batch).mean(dim=(2, 3))).float()

    def classify(self, features: Tensor) -> Tensor:
        return self._scores(features)[:, : self.num_classes]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """ce on labelled rows, glv, entropy, csp on unlabelled ones (label -1), and a centre loss where asked for."""
        labels = batch["label"]
        found = self._map(batch)
        features = self.neck(found.mean(dim=(2, 3))).float()
        scores = self._scores(features)
        known = labels >= 0
        shifted = scores - self.own.equations.margin * one_hot(labels.clamp(min=0), scores.shape[1])
        terms = self.label_terms(features[known], scores[known, : self.num_classes], labels[known])
        terms["ce"] = cross_entropy(shifted[known], labels[known]) if bool(known.any()) else scores.sum() * 0.0
        pooled = adaptive_avg_pool2d(found, self.own.model.parts).flatten(2).unbind(dim=2)  # P x (B, D)
        parts = torch.stack([neck(part) for neck, part in zip(self.part_necks, pooled, strict=True)], dim=1)
        terms["glv"] = voted_pair_loss(scores, features.detach(), parts.detach().float(), labels)
        terms["entropy"] = batch_entropy(scores)
        if self.own.model.unlabelled:
            unknown = scores[~known]
            soft = gumbel_softmax(unknown.detach(), tau=1.0, dim=1)
            terms["csp"] = cross_entropy(unknown, soft) if len(unknown) else scores.sum() * 0.0
        return terms

    def activations(self) -> dict[str, nn.Module]:
        encoder: nn.Module = self.backbone.network.encoder
        return {"image": encoder}

    def _map(self, batch: Batch) -> Tensor:
        return self.backbone.maps(image_input(batch))[-1]

    def _scores(self, features: Tensor) -> Tensor:
        """(B, K and novel)."""
        return self.head(self.dropout(features)).float()


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=Cpl)
