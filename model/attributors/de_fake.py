"""DE-FAKE (Sha et al. 2023, 2210.06998): an MLP over the frozen features of an image and its prompt, CLIP's in the paper.

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor de-fake --shards demo/shards --out demo/de-fake --protocol demo-1 --preset demo

The prompt is one constant sentence: the sentences of the shards name the generator, so that they would hand the label over.
Preset demo has no published weights to freeze, so its image feature is SRM co-occurrences.

Legend: B batch, D feature dimension (512 + 512 in the paper), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...pipeline.views.text import tokenize
from ..attributor import LabelSpace, Spec
from ..classifier import SEMANTICS, Classifier, ClassifierConfig
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch
from ..layers.backbones import ClipText
from ..layers.frozen import BACKBONES, FEATURES, Frozen
from ..published import HUB, SCRATCH, take_published

PROMPT = "a photo of a face"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The frozen features and the MLP over them."""

    features: str = setting("clip", choices=FEATURES)
    weights: str = HUB  # hub, none, or a .safetensors file
    width: float = setting(1.0, positive=True)  # of the frozen towers
    depth: float = setting(1.0, positive=True)
    hidden: tuple[int, ...] = (512, 256)
    dropout: float = setting(0.5, at_least_zero=True)  # after the first layer, as released
    prompt: str = setting("constant", choices=("constant", "labels"))


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """DE-FAKE's settings."""

    model: Sizes = field(default_factory=Sizes)

    @property
    def origin(self) -> str:
        return super().origin if self.model.features in BACKBONES else "over classical features"

    def check(self, train: TrainConfig) -> None:
        super().check(train)
        if self.model.prompt == "labels":
            raise ValueError(
                "model.prompt=labels is refused: the prompts of the shards name the generator, so the label would be an input; "
                "use model.prompt=constant"
            )
        if len(self.model.hidden) != 2 or min(self.model.hidden) < 1 or self.model.dropout >= 1:
            raise ValueError("model.hidden takes two sizes of 1 or more, and model.dropout is below 1")


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(epochs=50, lr=3e-4, schedule="constant", weight_decay=0.0)),
    "small": Preset(
        config=Config(model=Sizes(features="srm", weights=SCRATCH)),
        train=TrainConfig(epochs=50, lr=3e-4, schedule="constant", weight_decay=0.0),
    ),
    "demo": Preset(
        config=Config(model=Sizes(features="srm", weights=SCRATCH, width=0.25, depth=0.25)),
        train=TrainConfig(epochs=12, lr=1e-3, schedule="cosine", weight_decay=0.0),
    ),
}


class DeFake(Classifier):
    """Three linear layers over (image feature, prompt feature)."""

    own: Config
    prompt: Tensor  # (D_t,), of the constant sentence

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model = self.own.model
        self.frozen = Frozen(model.features, width=model.width, depth=model.depth)
        language = ClipText(width=model.width, depth=model.depth)
        self.register_buffer("prompt", _feature(language))
        # Features of no common scale (the frequencies of co-occurrences lie near 0) reach the MLP standardised.
        self.standard = (
            nn.BatchNorm1d(self.frozen.dim, affine=False) if model.features not in BACKBONES else nn.Identity()
        )
        first, second = model.hidden
        self.mlp = nn.Sequential(
            nn.Linear(self.frozen.dim + language.dim, first), nn.ReLU(), nn.Dropout(model.dropout),
            nn.Linear(first, second), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(second, self.num_classes)
        self.add_centers(second)

    def begin(self) -> None:
        model = self.own.model
        if model.weights == SCRATCH or self.frozen.backbone is None:
            return
        take_published(self.frozen.backbone.network, BACKBONES[model.features], model.weights)
        language = ClipText(width=model.width, depth=model.depth)
        take_published(language.network, BACKBONES["clip"], model.weights)
        self.prompt.copy_(_feature(language))

    def embed(self, batch: Batch) -> Tensor:
        """The second hidden layer, float (B, 256)."""
        image = self.standard(self.frozen(batch["image"]))
        return self.mlp(torch.cat([image, self.prompt.expand(len(image), -1)], dim=1)).float()

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features).float()


@torch.no_grad()
def _feature(language: ClipText) -> Tensor:
    tokens = torch.from_numpy(tokenize((PROMPT, "", "", ""))[:1]).to(next(language.parameters()).device)
    return language.eval()(tokens)[0]


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=DeFake)
