"""CARZero: cross-attention between an image and each class's prompt (Lai et al. 2024, 2402.17417), here over generators.

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor carzero --shards demo/shards --out demo/carzero --protocol demo-1 --preset demo

A shared decoder without self-attention lets each prompt look at the image's tokens, and the image at each prompt's tokens; one
linear layer (SimR) makes a similarity of either. Its text tower is BERT-sized and trained from scratch over the shards' tokens
(the paper's BioBERT reads another vocabulary); the image tower is ViT-B/16. The prompts of the classes are kept in the weights,
so that an answer reads the image alone.

Legend: B batch, U prompts, N tokens, D dimension (768), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..attributor import LabelSpace, Spec
from ..classifier import Classifier, ClassifierConfig
from ..classifier import Equations as BaseEquations
from ..classifier import Weights as CentreWeights
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch, image_input
from ..layers.alignment import packed
from ..layers.backbones import BertText, make_backbone
from ..layers.blocks import CrossBlock
from ..layers.encoders import VOCABULARY, blind_to_flat_colour
from ..losses import info_nce
from ..published import HUB, SCRATCH, take_published


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shares of the towers' sizes, and the decoder over them."""

    width: float = setting(1.0, positive=True)
    depth: float = setting(1.0, positive=True)
    patch: int = setting(16, positive=True)
    weights: str = HUB  # of the image tower: hub, none, or a .safetensors file
    decoder_depth: int = setting(4, positive=True, most=64)
    decoder_heads: int = setting(4, positive=True)
    decoder_mlp: int = setting(1024, positive=True)
    dropout: float = setting(0.1, at_least_zero=True)
    highpass_stem: bool = False


@dataclass(frozen=True, kw_only=True)
class Equations(BaseEquations):
    """Samples of one class share a prompt: `sound` takes them as each other's positives, `strict` one pair alone."""

    targets: str = setting("multi", choices=("multi", "onehot"))


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """CARZero's settings; ce weighs the matching of image and prompt, which is its only loss."""

    model: Sizes = field(default_factory=Sizes)
    losses: CentreWeights = field(default_factory=CentreWeights)
    equations: Equations = field(default_factory=Equations)

    @property
    def training_views(self) -> tuple[str, ...]:
        return ("image", "text")

    def check(self, train: TrainConfig) -> None:
        super().check(train)
        if 224 % self.model.patch:
            raise ValueError(f"model.patch {self.model.patch} does not divide an image of 224 pixels")
        if self.model.dropout >= 1:
            raise ValueError(f"model.dropout {self.model.dropout}: expected less than 1")


PRESETS = {
    "paper": Preset(
        config=Config(), train=TrainConfig(batch_size=256, lr=5e-5, weight_decay=1e-6, clip_norm=0.25, accumulate=4)
    ),
    "small": Preset(
        config=Config(model=Sizes(width=0.5, depth=0.5, weights=SCRATCH)),
        train=TrainConfig(epochs=30, batch_size=64, lr=2e-4, weight_decay=1e-6, clip_norm=0.25),
    ),
    "demo": Preset(
        config=Config(
            model=Sizes(
                width=0.17, depth=0.17, decoder_depth=2, decoder_heads=2, decoder_mlp=256, weights=SCRATCH,
                dropout=0.0, highpass_stem=True,
            )
        ),
        train=TrainConfig(epochs=20, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True, clip_norm=1.0),
    ),
}  # fmt: skip
SEMANTICS = {
    "sound": Equations(),
    "strict": Equations(dfacc_space="prob", decay_all=True, targets="onehot"),
}


class CarZero(Classifier):
    """Similarities of an image with every class's prompt, in both directions."""

    own: Config
    prompts: Tensor  # int64 (K, 4, 77) of the classes, zeros where none was seen yet

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model = self.own.model
        self.image = make_backbone("vit-b16", width=model.width, depth=model.depth, patch=model.patch)
        if model.highpass_stem:
            blind_to_flat_colour(self.image.network.embeddings.patch_embeddings)
        self.text = BertText(vocabulary=VOCABULARY, width=model.width, depth=model.depth)
        dim = self.image.dim
        self.decoder = nn.ModuleList(
            CrossBlock(dim, model.decoder_heads, model.decoder_mlp, dropout=model.dropout)
            for _ in range(model.decoder_depth)
        )
        self.simr = nn.Linear(dim, 1)
        self.register_buffer("prompts", torch.zeros(self.num_classes, 4, 77, dtype=torch.int64))
        self.add_centers(dim)

    def begin(self) -> None:
        take_published(self.image.network, "vit-b16", self.own.model.weights)

    def embed(self, batch: Batch) -> Tensor:
        """The class token, and how well each class's prompt matches the image's tokens, float (B, D + K)."""
        tokens = self.image.tokens(image_input(batch))
        seen, _ = self._both(tokens, self.prompts)
        return torch.cat([tokens[:, 0].float(), seen], dim=1)

    def classify(self, features: Tensor) -> Tensor:
        """The mean of both directions, (B, K); a class whose prompt was never seen gets the lowest."""
        global_, seen = features[:, : self.image.dim], features[:, self.image.dim :]
        words, valid = self.text(packed(self.prompts))
        found = (seen + self._ask(global_, words, valid)) / 2
        absent = (self.prompts == 0).all(dim=(1, 2))
        return torch.where(absent, found.amin(dim=1, keepdim=True) - 1.0, found)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """ce: the sum of two symmetric InfoNCEs without a temperature, over the distinct prompts of the batch."""
        labels = batch["label"]
        self.prompts[labels] = batch["text"].long()
        tokens = self.image.tokens(image_input(batch))
        distinct, groups = torch.unique(batch["text"].flatten(1), dim=0, return_inverse=True)
        seen, asked = self._both(tokens, distinct.view(-1, *batch["text"].shape[1:]))
        shared = groups if self.own.equations.targets == "multi" else None
        terms = {"ce": info_nce(seen[:, groups], shared) + info_nce(asked[:, groups], shared)}
        self.record = {"accuracy": ((seen + asked).argmax(dim=1) == groups).float().mean()}
        if self.center_loss is not None:
            logits = self.classify(self.embed(batch))
            terms |= self.center_loss(tokens[:, 0].float(), logits, labels)
            self.record |= self.center_loss.record
        return terms

    def _both(self, tokens: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (B, N, D), prompts (U, 4, 77) -> similarities by the prompts' look at the images and the images' at the
        prompts, (B, U) each."""
        words, valid = self.text(packed(prompts))
        queries = words[:, 0].expand(len(tokens), -1, -1)  # (B, U, D)
        seen = self.simr(self._decoded(queries, tokens, None))[..., 0].float()
        return seen, self._ask(tokens[:, 0], words, valid)

    def _ask(self, images: Tensor, words: Tensor, valid: Tensor) -> Tensor:
        """Images (B, D) look at each prompt's words (U, N, D) -> (B, U)."""
        queries = images.expand(len(words), -1, -1)  # (U, B, D)
        return self.simr(self._decoded(queries, words, ~valid))[..., 0].T.float()

    def _decoded(self, queries: Tensor, memory: Tensor, ignored: Tensor | None) -> Tensor:
        for block in self.decoder:
            queries = block(queries, memory, ignored)
        return queries


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=CarZero)
