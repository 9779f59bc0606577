"""SRM co-occurrence probe: logistic regression over the classical rich model (Fridrich & Kodovsky 2012), one fit, no steps.

Expected on the embedded dataset: 78.7 % of 150 seen validation images.
Command: bmrl-train --attributor srm-probe --shards demo/shards --out demo/srm-probe --protocol demo-1 --preset demo

It is the control that stands beside every attributor, as an attributor: features and penalty are those of the evaluation.

Legend: B batch, N rows, D numbers of a feature, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..attributor import Attributor, LabelSpace, Spec
from ..classifier import FITTED_SEMANTICS, FittedConfig
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch
from ..layers.fitted import LinearHead, Principal
from ..layers.frozen import SRM, trace_features
from ..traces import TRACE_SIZES


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is fitted."""

    penalty: float = setting(0.003, positive=True)  # C of the regression
    components: int = setting(256, positive=True, most=4096)  # principal ones that are kept


@dataclass(frozen=True, kw_only=True)
class Config(FittedConfig):
    """A probe's settings."""

    model: Sizes = field(default_factory=Sizes)


PRESETS = {name: Preset(config=Config(), train=TrainConfig(epochs=1)) for name in ("paper", "small", "demo")}


class SrmProbe(Attributor):
    """Principal components of the features of a whole image, and one linear layer."""

    steps = False
    feature = SRM

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        dim = TRACE_SIZES[self.feature]
        self.principal = Principal(dim, config.own.model.components)
        self.head = LinearHead(self.principal.components, self.num_classes, penalty=config.own.model.penalty)

    def fit(self, batches: Iterable[Batch]) -> None:
        """One pass over the training rows."""
        found = [(trace_features(batch["image"], self.feature).cpu(), batch["label"].cpu()) for batch in batches]
        features, labels = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        self.head.fit(self.principal.fit(features), labels)

    def embed(self, batch: Batch) -> Tensor:
        """The principal components of the standardised feature, float (B, C)."""
        return self.principal(trace_features(batch["image"], self.feature))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


SPEC = Spec(config=Config, presets=PRESETS, semantics=FITTED_SEMANTICS, attributor=SrmProbe)
