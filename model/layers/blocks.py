"""Building blocks that all attributors share.

Legend: B batch, C channels, H W pixels, N tokens, D token dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class ConvStack(nn.Sequential):
    """CViT's backbone: stages of 3x3 convolutions with batch norm and ReLU, each stage ended by a 2x2 max pool.

    (B, in_channels, H, W) -> (B, widths[-1], H / 2^S, W / 2^S) for S stages. The paper's has 17 convolutions.
    strided_stem: the first convolution halves the map itself and its stage has no pool, for small machines.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], convs: Sequence[int], *, strided_stem: bool = False
    ) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, (width, count) in enumerate(zip(widths, convs, strict=True)):
            strided = strided_stem and stage == 0
            for number in range(count):
                stride = 2 if strided and number == 0 else 1
                layers += [
                    nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                channels = width
            if not strided:
                layers.append(nn.MaxPool2d(2))
        super().__init__(*layers)


class Attention(nn.Module):
    """Multi-head self-attention; scale head_dim^-0.5 (the released code's dim^-0.5 is a bug, D5)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, D); mask bool (B, 1, N, N), True: may attend."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, N, 3, heads, d) -> 3 x (B, heads, N, d)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, dim))  # (B, heads, N, d) -> (B, N, D)


class TransformerBlock(nn.Module):
    """Pre-norm: attention and MLP, each with a residual (BMRL Eq. 2)."""

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Pre-norm: queries attend to another sequence, not to each other, and an MLP follows; each with a residual."""

    def __init__(self, dim: int, heads: int, mlp: int, *, memory: int | None = None, dropout: float = 0.0) -> None:
        """memory: dimension of what is attended to, where it is another than the queries'."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.memory_norm = nn.LayerNorm(memory or dim)
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, kdim=memory, vdim=memory, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp), nn.GELU(), nn.Dropout(dropout), nn.Linear(mlp, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, memory: Tensor, ignored: Tensor | None = None) -> Tensor:
        """x (B, N, D), memory (B, M, D'), ignored bool (B, M): places of the memory that are padding -> (B, N, D)."""
        memory = self.memory_norm(memory)
        attended, _ = self.attention(self.norm1(x), memory, memory, key_padding_mask=ignored, need_weights=False)
        x = x + attended
        return x + self.mlp(self.norm2(x))


class MapTransformer(nn.Module):
    """A feature map -> tokens -> class token (BMRL Eq. 1-2).

    tokens=1: the whole map is one token, as in the papers (D3); otherwise tokens = a square number that divides it.
    Position embeddings belong to tokens, (1, n + 1, D) as Eq. 1 says, not to batch slots (D1).
    """

    def __init__(
        self, map_shape: tuple[int, int, int], *, dim: int, depth: int, heads: int, mlp: int, tokens: int
    ) -> None:
        super().__init__()
        channels, height, width = map_shape
        self.grid = int(tokens**0.5)
        if self.grid**2 != tokens or height % self.grid or width % self.grid:
            raise ValueError(f"{tokens} tokens do not divide a map of {height}x{width}")
        self.project = nn.Linear(channels * (height // self.grid) * (width // self.grid), dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, tokens + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, mlp) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D)."""
        batch, channels, height, width = x.shape
        g = self.grid
        x = x.view(batch, channels, g, height // g, g, width // g)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, g * g, -1)  # (B, C, gh, h, gw, w) -> (B, gh gw, C h w)
        x = torch.cat([self.class_token.expand(batch, -1, -1), self.project(x)], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return x[:, 0]


def use_channels_last(model: nn.Module) -> None:
    """Weights of convolutions as (out, H, W, in) in memory, which their kernels prefer; values stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def compile_blocks(model: nn.Module) -> None:
    """torch.compile of the parts where the time goes; names and values of the weights stay. Needs a C++ compiler on CPUs."""
    for module in model.modules():
        if isinstance(module, ConvStack | MapTransformer):
            module.compile()
