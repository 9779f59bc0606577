"""Class centres as a part that any attributor can add: DFACC (`--set losses.dfacc=1`) or VCC (`--set losses.vcc=1`).

Legend: B batch, D feature dimension, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..config import LossConfig
from .dfacc import contrastive_center_loss, dfacc_terms


class CenterLoss(nn.Module):
    """Trainable centres and the loss that the weights choose.

    space: `feature`, unit-norm features with unit-norm centres, which start at the class means of the first epoch (random
    unit centres are farther apart than any margin, M3); until then the term is 0. `prob`: the softmax output with random
    centres. An attributor adds `terms |= self.center_loss(features, logits, labels)`, merges `record` into its own, and
    calls `end_epoch` from its own.
    """

    sums: Tensor  # (K, D) of the first epoch
    counts: Tensor  # (K,)
    ready: Tensor  # bool scalar

    def __init__(self, num_classes: int, dim: int, *, weights: LossConfig, space: str) -> None:
        super().__init__()
        self.weights, self.space = weights, space
        width = dim if space == "feature" else num_classes
        self.centers = nn.Parameter(torch.randn(num_classes, width) * width**-0.5)
        self.register_buffer("sums", torch.zeros(num_classes, width))
        self.register_buffer("counts", torch.zeros(num_classes))
        self.register_buffer("ready", torch.tensor(space != "feature"))
        self.record: dict[str, Tensor] = {}

    def forward(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """features float (B, D), logits float (B, K), labels int64 (B,) -> {"dfacc" or "vcc": scalar}."""
        name = "vcc" if self.weights.vcc else "dfacc"
        if self.space == "feature":
            points, centers = normalize(features.float(), dim=1), normalize(self.centers, dim=1)
        else:
            points, centers = logits.float().softmax(dim=1), self.centers
        self.record = {} if name == "vcc" else {"related_share": points.new_zeros(())}
        if not bool(self.ready):
            self.sums.index_add_(0, labels, points.detach())
            self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float32))
            return {name: points.sum() * 0.0}
        if name == "vcc":
            return {name: contrastive_center_loss(points, labels, centers, delta=self.weights.vcc_delta)}
        terms = dfacc_terms(points, labels, centers, margin=self.weights.margin)
        self.record["related_share"] = terms.related_share
        return {name: terms.intra + self.weights.inter_weight * terms.inter}

    def end_epoch(self) -> None:
        """Once, after the first epoch: the centres become that epoch's unit-norm class means."""
        if bool(self.ready):
            return
        seen = self.counts > 0
        with torch.no_grad():
            self.centers.copy_(torch.where(seen[:, None], normalize(self.sums, dim=1), self.centers))
            self.ready.fill_(True)
