"""CAEL: cross appearance-edge learning over coarse and fine maps and edges (Zhang et al. 2024, GenFace, 2402.02003).

Expected on the embedded dataset: not measured yet.
Command: bmrl-train --attributor cael --shards demo/shards --out demo/cael --protocol demo-1 --preset demo

Two EfficientNet-B0 (one gives the coarse map after its first stage, one the fine last map) and a small network over the Sobel
edges; then rounds of three transformers whose class tokens look at each other's tokens. Written from the description in
methods.md: its sizes give fewer parameters than the about 163 M reported for the released code, whose inner sizes no text says.
As released, each round starts from the same maps, so that only the last counts; here a round starts where the one before ended.

Legend: B batch, N tokens, D token dimension, K classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..attributor import LabelSpace, Spec
from ..classifier import SEMANTICS, Classifier, ClassifierConfig, check_multiples
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import Batch, edge_input, image_input
from ..layers.backbones import Backbone, make_backbone
from ..layers.blocks import ConvStack, CrossBlock, TransformerBlock
from ..layers.encoders import blind_to_flat_colour
from ..published import HUB, SCRATCH, take_published

EARLY = 2  # blocks of the coarse network; the map is 24 x 56 x 56 at width 1
COARSE_SIDE = 56
BACKBONE = "efficientnet-b0"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of CAEL."""

    width: float = setting(1.0, positive=True)  # of both backbones
    depth: float = setting(1.0, positive=True)
    weights: str = HUB  # of both: hub (ImageNet), none, or a .safetensors file
    highpass_stem: bool = False
    fine: int = setting(192, positive=True)  # token dimension, of the 7 x 7 map
    coarse: int = setting(384, positive=True)  # of the 56 x 56 map in tokens of 7 x 7
    edge_widths: tuple[int, ...] = (32, 64)  # three convolutions each
    rounds: int = setting(4, positive=True, most=64)
    fine_depth: int = setting(2, positive=True, most=64)
    coarse_depth: int = setting(3, positive=True, most=64)
    edge_depth: int = setting(3, positive=True, most=64)
    cross_depth: int = setting(2, positive=True, most=64)  # of either cross-attention
    heads: int = setting(8, positive=True)
    mlp: int = setting(2048, positive=True)
    dropout: float = setting(0.15, at_least_zero=True)


@dataclass(frozen=True, kw_only=True)
class Config(ClassifierConfig):
    """CAEL's settings."""

    model: Sizes = field(default_factory=Sizes)

    @property
    def inference_views(self) -> tuple[str, ...]:
        return ("image", "edge")

    def check(self, train: TrainConfig) -> None:
        super().check(train)
        check_multiples(self.model, ("fine", "heads"), ("coarse", "heads"))
        if not 1 <= len(self.model.edge_widths) <= 5 or min(self.model.edge_widths) < 1:
            raise ValueError(f"model.edge_widths {self.model.edge_widths}: expected one to five, all 1 or more")
        if self.model.depth > 1:
            raise ValueError(
                f"model.depth {self.model.depth}: expected 1 or less, whose first two blocks are those of the paper"
            )
        if self.model.dropout >= 1:
            raise ValueError(f"model.dropout {self.model.dropout}: expected less than 1")


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(weight_decay=1e-7)),
    "small": Preset(
        config=Config(model=Sizes(weights=SCRATCH, fine=96, coarse=192, rounds=2, heads=4, mlp=512)),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, step_epochs=10, weight_decay=1e-7),
    ),
    "demo": Preset(
        config=Config(
            model=Sizes(
                width=0.5, depth=0.4, weights=SCRATCH, highpass_stem=True, fine=64, coarse=64, edge_widths=(8, 16, 32),
                rounds=1, fine_depth=1, coarse_depth=1, edge_depth=1, cross_depth=1, heads=4, mlp=128, dropout=0.0,
            )
        ),
        train=TrainConfig(epochs=12, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True),
    ),
}  # fmt: skip


def _early(backbone: Backbone) -> Any:
    """The stem and the first blocks of an EfficientNet."""
    return nn.Sequential(backbone.network.embeddings, *backbone.network.encoder.blocks[:EARLY])


class Tokens(nn.Module):
    """A map (B, C, H, W) -> its g x g patches as tokens with a class token before them, (B, 1 + N, D)."""

    def __init__(self, channels: int, side: int, dim: int) -> None:
        super().__init__()
        patch = side // 7 if side % 7 == 0 else side
        self.project = nn.Conv2d(channels, dim, patch, stride=patch)
        count = (side // patch) ** 2
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, count + 1, dim) * 0.02)

    def forward(self, found: Tensor) -> Tensor:
        tokens = self.project(found).flatten(2).transpose(1, 2)  # (B, D, h, w) -> (B, h w, D)
        return torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions


class Round(nn.Module):
    """Three transformers; the class tokens of fine and coarse look at each other's tokens, then at the edges."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()

        def blocks(dim: int, depth: int) -> nn.Sequential:
            return nn.Sequential(*(TransformerBlock(dim, sizes.heads, sizes.mlp) for _ in range(depth)))

        def crosses(dim: int, memory: int) -> nn.ModuleList:
            return nn.ModuleList(
                CrossBlock(dim, sizes.heads, sizes.mlp, memory=memory, dropout=sizes.dropout)
                for _ in range(sizes.cross_depth)
            )

        fine, coarse = sizes.fine, sizes.coarse
        self.own = nn.ModuleList(
            [blocks(fine, sizes.fine_depth), blocks(coarse, sizes.coarse_depth), blocks(coarse, sizes.edge_depth)]
        )
        self.mutual = nn.ModuleList([crosses(fine, coarse), crosses(coarse, fine)])
        self.edges = nn.ModuleList([crosses(fine, coarse), crosses(coarse, coarse), crosses(coarse, coarse)])

    def forward(self, fine: Tensor, coarse: Tensor, edge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        streams = [fine, coarse, edge]
        for number, blocks in enumerate(self.own):
            streams[number] = blocks(streams[number])
        fine, coarse, edge = streams
        fine, coarse = _looked(self.mutual[0], fine, coarse), _looked(self.mutual[1], coarse, fine)
        return (
            _looked(self.edges[0], fine, edge),
            _looked(self.edges[1], coarse, edge),
            _looked(self.edges[2], edge, coarse),
        )


def _looked(blocks: Any, tokens: Tensor, others: Tensor) -> Tensor:
    """The class token after its look at another stream's tokens."""
    query = tokens[:, :1]
    for block in blocks:
        query = block(query, others[:, 1:])
    return torch.cat([query, tokens[:, 1:]], dim=1)


class Cael(Classifier):
    """Three heads over three class tokens, summed."""

    own: Config

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model = self.own.model
        self.fine = make_backbone(BACKBONE, width=model.width, depth=model.depth)
        self.coarse = _early(make_backbone(BACKBONE, width=model.width, depth=model.depth))
        if model.highpass_stem:
            for network in (self.fine.network.embeddings, self.coarse):
                blind_to_flat_colour(network)
        self.edge = ConvStack(1, model.edge_widths, [3] * len(model.edge_widths))
        self.fine_tokens = Tokens(self.fine.dim, 7, model.fine)
        self.coarse_tokens = Tokens(self.coarse[-1].projection.project_conv.out_channels, COARSE_SIDE, model.coarse)
        self.edge_tokens = Tokens(model.edge_widths[-1], 224 // 2 ** len(model.edge_widths), model.coarse)
        self.rounds = nn.ModuleList(Round(model) for _ in range(model.rounds))
        self.norm_fine, self.norm_coarse, self.norm_edge = (
            nn.LayerNorm(dim) for dim in (model.fine, model.coarse, model.coarse)
        )
        dim = model.fine + 2 * model.coarse
        self.head = nn.Linear(dim, self.num_classes)  # three heads summed are one over the three tokens side by side
        self.add_centers(dim)

    def begin(self) -> None:
        model = self.own.model
        if model.weights == SCRATCH:
            return
        take_published(self.fine.network, BACKBONE, model.weights)
        self.coarse.load_state_dict(_early(copy.deepcopy(self.fine)).state_dict())

    def embed(self, batch: Batch) -> Tensor:
        """The three class tokens side by side, float (B, D)."""
        images = image_input(batch)
        streams = (
            self.fine_tokens(self.fine.last_map(images)),
            self.coarse_tokens(self.coarse((images - self.fine.mean) / self.fine.std)),
            self.edge_tokens(self.edge(edge_input(batch))),
        )
        for one in self.rounds:
            streams = one(*streams)
        norms = (self.norm_fine, self.norm_coarse, self.norm_edge)
        return torch.cat([norm(tokens[:, 0]) for norm, tokens in zip(norms, streams, strict=True)], dim=1).float()

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features).float()

    def activations(self) -> dict[str, nn.Module]:
        return {"edge": self.edge}


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=Cael)
