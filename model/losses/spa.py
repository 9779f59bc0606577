"""Sample pair attention (MFCLIP Eq. 7): a learnable weight on every pair of the vision-text similarity matrix.

The released code's table is indexed by slots of a shuffled batch, so it can only tell the diagonal from the rest (M8);
`class` indexes it by the pair of classes, which is what the text claims. Eq. 8 prints sigma(A) for the other direction too;
this is its transpose, as the pairs are the same (M7). Eq. 9-10 put it behind the softmax, where it acts on nothing (M8).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SamplePairAttention(nn.Module):
    """sigma(A) for a batch; A starts at 0, so every weight at 1/2 (the released one is uninitialised memory, D8)."""

    def __init__(self, kind: str, *, num_classes: int, batch_size: int) -> None:
        super().__init__()
        self.kind = kind  # class, batch, or scalar: one weight for all pairs, the control of the other two
        size = {"class": num_classes, "batch": batch_size, "scalar": 1}[kind]
        self.table = nn.Parameter(torch.zeros(size, size))

    def forward(self, labels: Tensor) -> Tensor:
        """labels int64 (B,) -> (B, B) in (0, 1); rows are vision, columns text. Raises ValueError for too large a batch."""
        if self.kind == "scalar":
            return self.table.sigmoid().expand(len(labels), len(labels))
        if self.kind == "class":
            return self.table.sigmoid()[labels][:, labels]
        if len(labels) > len(self.table):
            raise ValueError(f"{len(labels)} samples, and losses.spa=batch was made for batches of {len(self.table)}")
        return self.table[: len(labels), : len(labels)].sigmoid()
