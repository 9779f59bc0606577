"""CLIP ViT-B/32 (Radford et al. 2021, 2103.00020) as the papers' baseline: fine-tuned, as a linear probe, or from scratch.

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor clip --shards demo/shards --out demo/clip --protocol demo-1 --preset demo
         (linear probe: --set model.trained=head; with the prompts: --set losses.cmc=1)

The papers' seen accuracies (79 to 89 % on ten generators, D22) suggest that they trained it from scratch: model.weights=none.

Legend: B batch, D feature dimension (512), K classes, U distinct prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..attributor import AlignedText, LabelSpace, Spec
from ..classifier import SEMANTICS, Classifier, ClassifierConfig
from ..classifier import Weights as CentreWeights
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch, image_input
from ..layers.alignment import blank_levels, encode_levels
from ..layers.backbones import ClipText, make_backbone
from ..layers.encoders import blind_to_flat_colour
from ..losses import SamplePairAttention, bounded_scale, matching_loss
from ..published import HUB, SCRATCH, take_published

BACKBONE = "clip-vit-b32"
MAX_SCALE = 100.0  # CLIP's own bound


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shares of CLIP's sizes, where its weights come from, and what of it is trained."""

    width: float = setting(1.0, positive=True)
    depth: float = setting(1.0, positive=True)
    patch: int = setting(32, positive=True)  # pixels a side of a token
    weights: str = HUB  # hub, none, or a .safetensors file
    trained: str = setting("all", choices=("all", "head"))  # head: a linear probe
    highpass_stem: bool = False
    text_levels: tuple[int, ...] = (1, 2, 3, 4)  # of the prompts, where CMC reads them (MFCLIP Fig. 8)


@dataclass(frozen=True, kw_only=True)
class Weights(CentreWeights):
    """With CMC on the prompts, and SPA on it (MFCLIP Table VIII)."""

    cmc: float = setting(0.0, at_least_zero=True)
    spa: str = setting("off", choices=("off", "batch", "class", "scalar"))
    temperature: float = setting(0.07, positive=True)


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """CLIP's settings."""

    model: Sizes = field(default_factory=Sizes)
    losses: Weights = field(default_factory=Weights)

    @property
    def training_views(self) -> tuple[str, ...]:
        return ("image", "text") if self.losses.cmc else ("image",)

    def check(self, train: TrainConfig) -> None:
        super().check(train)
        if self.losses.spa != "off" and not self.losses.cmc:
            raise ValueError("losses.spa weighs the pairs of CMC, which needs losses.cmc above 0")
        if not self.model.text_levels or not set(self.model.text_levels) <= {1, 2, 3, 4}:
            raise ValueError(f"model.text_levels {self.model.text_levels}: expected one or more of 1, 2, 3, 4")
        if 224 % self.model.patch:
            raise ValueError(f"model.patch {self.model.patch} does not divide an image of 224 pixels")


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(epochs=20, lr=1e-5, optimizer="adamw", schedule="cosine")),
    "small": Preset(
        config=Config(model=Sizes(width=0.5, depth=0.5, weights=SCRATCH), losses=Weights(cmc=1.0)),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, optimizer="adamw", schedule="cosine"),
    ),
    "demo": Preset(
        config=Config(
            model=Sizes(width=0.25, depth=0.25, patch=16, weights=SCRATCH, highpass_stem=True), losses=Weights(cmc=1.0)
        ),
        train=TrainConfig(epochs=20, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True),
    ),
}


class Clip(Classifier):
    """The image tower and a linear head; the text tower where CMC is asked for."""

    own: Config

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model, losses = self.own.model, self.own.losses
        self.backbone = make_backbone(BACKBONE, width=model.width, depth=model.depth, patch=model.patch)
        if model.highpass_stem:
            blind_to_flat_colour(self.backbone.network.vision_model.embeddings.patch_embedding)
        self.head = nn.Linear(self.backbone.dim, self.num_classes)
        self.language = ClipText(width=model.width, depth=model.depth) if losses.cmc else None
        self.log_scale = nn.Parameter(torch.tensor(-math.log(losses.temperature))) if losses.cmc else None
        self.spa = (
            SamplePairAttention(losses.spa, num_classes=self.num_classes, batch_size=config.train.batch_size)
            if losses.spa != "off"
            else None
        )
        self.add_centers(self.backbone.dim)
        if model.trained == "head":
            self.backbone.requires_grad_(False)

    def begin(self) -> None:
        for tower in (self.backbone, self.language):
            if tower is not None:
                take_published(tower.network, BACKBONE, self.own.model.weights)

    def embed(self, batch: Batch) -> Tensor:
        """The projected class token, float (B, D)."""
        return self.backbone(image_input(batch)).float()

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """ce, the centre loss where asked for, and cmc: each level's sentence by itself, as CLIP reads one sentence."""
        features = self.embed(batch)
        terms = self.label_terms(features, self.classify(features), batch["label"])
        if self.language is not None and self.log_scale is not None:
            texts = encode_levels(self.language, blank_levels(batch["text"], self.own.model.text_levels))
            scale = bounded_scale(self.log_scale, MAX_SCALE)
            terms["cmc"] = matching_loss(features, texts, scale, batch["label"], multi=True, spa=self.spa)
        return terms

    def aligned_text(self, tokens: Tensor) -> AlignedText | None:
        if self.language is None:
            return None
        features = normalize(self.language.levels(tokens).float(), dim=2)
        return AlignedText(features=features, levels=self.own.model.text_levels)


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=Clip)
