"""ResNet-50 with cross-entropy (He et al. 2016, 1512.03385): the plain baseline that the papers leave out.

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor resnet50 --shards demo/shards --out demo/resnet50 --protocol demo-1 --preset demo

Legend: B batch, D feature dimension (2048 at width 1), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from ..attributor import LabelSpace, Spec
from ..classifier import SEMANTICS, Classifier, ClassifierConfig
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch, image_input
from ..layers.backbones import make_backbone
from ..published import HUB, SCRATCH, take_published


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shares of ResNet-50's sizes, and where its weights come from."""

    width: float = setting(1.0, positive=True)
    depth: float = setting(1.0, positive=True)
    weights: str = HUB  # hub (ImageNet), none, or a .safetensors file


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """ResNet-50's settings."""

    model: Sizes = field(default_factory=Sizes)


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(epochs=45, lr=1e-4)),
    "small": Preset(
        config=Config(model=Sizes(width=0.5, weights=SCRATCH)),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, step_epochs=10),
    ),
    "demo": Preset(
        config=Config(model=Sizes(width=0.25, depth=0.5, weights=SCRATCH)),
        train=TrainConfig(epochs=12, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True, precision="bfloat16"),
    ),
}


class ResNet50(Classifier):
    """The mean of the last map, and one linear layer."""

    own: Config

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        self.backbone = make_backbone("resnet50", width=self.own.model.width, depth=self.own.model.depth)
        self.head = nn.Linear(self.backbone.dim, self.num_classes)
        self.add_centers(self.backbone.dim)

    def begin(self) -> None:
        take_published(self.backbone.network, "resnet50", self.own.model.weights)

    def embed(self, batch: Batch) -> Tensor:
        """(B, D)."""
        return self.backbone(image_input(batch)).float()

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features).float()

    def activations(self) -> dict[str, nn.Module]:
        return {"image": self.backbone.network.encoder}


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=ResNet50)
