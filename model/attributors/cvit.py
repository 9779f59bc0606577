"""CViT: a convolutional backbone whose map is one token of a vision transformer (Wodajo & Atnafu 2021, 2102.11126).

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor cvit --shards demo/shards --out demo/cvit --protocol demo-1 --preset demo

Written from the description in methods.md. The older release adds one position embedding to each slot of a batch, so an answer
depended on the other images; here positions belong to tokens, as in its correction (D1).

Legend: B batch, D token dimension (1024 in the paper), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attributor import LabelSpace, Spec
from ..classifier import SEMANTICS, Classifier, ClassifierConfig, check_multiples
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch, image_input
from ..layers.augment import strong
from ..layers.encoders import check_map, map_encoder

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of CViT."""

    dim: int = setting(1024, positive=True)
    depth: int = setting(6, positive=True, most=256)
    heads: int = setting(8, positive=True)
    mlp: int = setting(2048, positive=True)  # of the blocks and of the head
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    convs: tuple[int, ...] = setting((3, 3, 3, 4, 4), most=256)
    tokens: int = 1  # of the 7x7 map: 1 as published, or 49
    strided_stem: bool = False
    highpass_stem: bool = False
    augment: bool = True  # turns, flips, noise, colours and sharpness (layers/augment.py)


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """CViT's settings."""

    model: Sizes = field(default_factory=Sizes)
    origin = "from scratch"

    def check(self, train: TrainConfig) -> None:
        super().check(train)
        model = self.model
        check_multiples(model, ("dim", "heads"))
        check_map("", SIDE, widths=model.widths, convs=model.convs, tokens=model.tokens)


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(weight_decay=1e-7)),
    "small": Preset(
        config=Config(
            model=Sizes(dim=256, depth=3, heads=4, mlp=512, widths=(16, 32, 64, 128, 256), convs=(2, 2, 2, 3, 3))
        ),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, step_epochs=10, weight_decay=1e-7),
    ),
    "demo": Preset(  # turned or sharpened images have lost what twelve epochs could learn
        config=Config(
            model=Sizes(
                dim=128, depth=2, heads=4, mlp=256, widths=(16, 24, 32, 64, 128), convs=(1, 1, 1, 1, 1),
                strided_stem=True, highpass_stem=True, augment=False,
            )
        ),
        train=TrainConfig(epochs=12, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True, precision="bfloat16"),
    ),
}  # fmt: skip


class Cvit(Classifier):
    """Seventeen convolutions, six blocks over the class token and one more, an MLP head."""

    own: Config
    mean: Tensor
    std: Tensor

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model = self.own.model
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.encoder = map_encoder(
            3, SIDE, widths=model.widths, convs=model.convs, tokens=model.tokens, dim=model.dim, depth=model.depth,
            heads=model.heads, mlp=model.mlp, strided_stem=model.strided_stem, highpass_stem=model.highpass_stem,
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(model.dim, model.mlp), nn.ReLU(), nn.Linear(model.mlp, self.num_classes))
        self.add_centers(model.dim)

    def embed(self, batch: Batch) -> Tensor:
        """The class token, float (B, D)."""
        images = image_input(batch)
        if self.training and self.own.model.augment:
            images = strong(images)
        return self.encoder((images - self.mean) / self.std).float()

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features).float()

    def activations(self) -> dict[str, nn.Module]:
        return {"image": self.encoder.backbone}


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=Cvit)
