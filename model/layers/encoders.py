"""What several attributors encode with: a backbone with a transformer over its map, and a causal language encoder.

Legend: B batch, C channels, H W pixels, N tokens, D token dimension, U distinct prompts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...pipeline.views.text import CONTEXT_LENGTH, NUM_LEVELS
from .blocks import ConvStack, MapTransformer, TransformerBlock

VOCABULARY = 49408  # CLIP's BPE
START, END = 49406, 49407


class MapEncoder(nn.Module):
    """Backbone, then what makes one feature of its map: float (B, C, S, S) -> (B, D)."""

    def __init__(self, backbone: nn.Module, transformer: nn.Module) -> None:
        super().__init__()
        self.backbone, self.transformer = backbone, transformer

    def forward(self, x: Tensor) -> Tensor:
        return self.transformer(self.backbone(x))


def map_encoder(
    channels: int,
    side: int,
    *,
    widths: tuple[int, ...],
    convs: tuple[int, ...],
    tokens: int,
    dim: int,
    depth: int,
    heads: int,
    mlp: int,
    strided_stem: bool = False,
    highpass_stem: bool = False,
) -> MapEncoder:
    """CViT's backbone, one token (or a square number of them), class token and blocks: (B, channels, side, side) -> (B, D)."""
    backbone = ConvStack(channels, widths, convs, strided_stem=strided_stem)
    if highpass_stem:
        blind_to_flat_colour(backbone)
    reduced = side // 2 ** len(widths)
    shape = (widths[-1], reduced, reduced)
    return MapEncoder(backbone, MapTransformer(shape, dim=dim, depth=depth, heads=heads, mlp=mlp, tokens=tokens))


def check_map(name: str, side: int, *, widths: tuple[int, ...], convs: tuple[int, ...], tokens: int) -> None:
    """Raises ValueError where no map encoder has these sizes; name: before those of the settings, such as `noise_`."""
    if not widths or len(widths) != len(convs) or min((*widths, *convs)) < 1:
        raise ValueError(
            f"model.{name}widths {widths} and model.{name}convs {convs}: expected as many of each, all 1 or more"
        )
    reduced = side // 2 ** len(widths)
    if reduced < 1:
        raise ValueError(
            f"model.{name}widths {widths} halve {side} pixels to nothing; {2 ** len(widths)} or more are needed"
        )
    grid = math.isqrt(max(tokens, 0))
    if grid < 1 or grid**2 != tokens or reduced % grid:
        raise ValueError(f"model.{name}tokens {tokens} does not divide a map of {reduced}x{reduced} (1 always does)")


def blind_to_flat_colour(backbone: nn.Module) -> None:
    """Start the first filters at zero mean. Traces are a few gray levels on top of the picture: filters that start blind
    to the picture find them sooner."""
    with torch.no_grad():
        weight = next(iter(backbone.parameters()))
        weight.sub_(weight.mean(dim=(2, 3), keepdim=True))


class LanguageEncoder(nn.Module):
    """Four sentences of 77 CLIP BPE ids -> the feature at the last end-of-text token, (U, 4, 77) -> (U, D).

    Causal, like CLIP's. attend_padding=False leaves padding and unknown levels out; every position keeps its own
    embedding, so only the tokens that count are computed. The end of level 4 is read: at level 1, as the released code
    does, no gradient would reach levels 2-4 (D12). L blocks as the paper says, trained from scratch (D4, D21).
    """

    def __init__(self, *, dim: int, depth: int, heads: int, mlp: int, attend_padding: bool) -> None:
        super().__init__()
        length = NUM_LEVELS * CONTEXT_LENGTH
        self.attend_padding = attend_padding
        self.embedding = nn.Embedding(VOCABULARY, dim)
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.01)
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, mlp) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        flat, positions, valid = self._pack(tokens.long())
        x = self._encode(flat, positions, valid[:, None, None, :])
        return x[torch.arange(len(x), device=x.device), _last((flat == END) & valid)]

    def first(self, tokens: Tensor) -> Tensor:
        """The feature at the end of level 1, (U, 4, 77) -> (U, D), where the released code reads it (D12): what is written in
        the other levels comes later and cannot be seen from there."""
        flat, positions, valid = self._pack(tokens.long())
        x = self._encode(flat, positions, valid[:, None, None, :])
        ends = (flat == END) & valid & (positions < CONTEXT_LENGTH)
        return x[torch.arange(len(x), device=x.device), _last(ends)]

    def levels(self, tokens: Tensor) -> Tensor:
        """One feature a level, (U, 4, 77) -> (U, 4, D): each sentence attends to itself alone, so that it means the same
        without the others. Rows of unknown levels mean nothing."""
        flat, positions, valid = self._pack(tokens.long())
        level = positions // CONTEXT_LENGTH  # (U, N)
        same = level[:, None, :, None] == level[:, None, None, :]  # (U, 1, N, N)
        x = self._encode(flat, positions, valid[:, None, None, :] & same)
        rows = torch.arange(len(x), device=x.device)
        ends = (flat == END) & valid
        return torch.stack([x[rows, _last(ends & (level == k))] for k in range(NUM_LEVELS)], dim=1)

    def _encode(self, flat: Tensor, positions: Tensor, allowed: Tensor) -> Tensor:
        """ids and positions (U, N), allowed bool to broadcast to (U, 1, N, N) -> (U, N, D)."""
        length = flat.shape[1]
        x = self.embedding(flat) + self.positions[positions]
        own = torch.eye(length, dtype=torch.bool, device=x.device)  # a padding row of `levels` would attend to nothing
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        mask = causal & allowed | own
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def _pack(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(U, 4, 77) -> ids, positions and validity, each (U, N)."""
        flat = tokens.reshape(len(tokens), -1)
        if self.attend_padding:
            positions = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
            return flat, positions, torch.ones_like(flat, dtype=torch.bool)
        known = (tokens[..., 1] != END)[..., None]  # a level without words is unknown
        ends = tokens == END
        within = (ends.cumsum(dim=-1) == 0) | ends  # up to the end-of-text token, which comes once
        valid = (within & known).reshape(flat.shape)
        order = torch.argsort((~valid).int(), dim=1, stable=True)[:, : max(1, int(valid.sum(dim=1).max()))]
        return flat.gather(1, order), order, valid.gather(1, order)


def _last(chosen: Tensor) -> Tensor:
    """bool (U, N) -> the last place of each row that is chosen, (U,); 0 where none is."""
    return (torch.arange(chosen.shape[1], device=chosen.device) * chosen).amax(dim=1)
