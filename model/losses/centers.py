"""Class centres as a part that any attributor can add: DFACC (`--set losses.dfacc=1`) or VCC (`--set losses.vcc=1`).

Legend: B batch, D feature dimension, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from .dfacc import contrastive_center_loss, dfacc_terms


class CenterLoss(nn.Module):
    """Trainable centres and the loss that pulls features to them.

    kind: `dfacc` (BMRL Eq. 4-7; margin is m, inter_weight lambda) or `vcc` (Qi & Su 2017, with delta).
    space: `feature`, unit-norm features with unit-norm centres, which start at the class means of the first epoch (random
    unit centres are farther apart than any margin, M3); until then the term is 0. `prob`: the softmax output with random
    centres. An attributor adds `terms |= self.center_loss(features, logits, labels)`, merges `record` into its own, and
    calls `end_epoch` from its own.
    """

    sums: Tensor  # (K, D) of the first epoch
    counts: Tensor  # (K,)
    ready: Tensor  # bool scalar

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        kind: str,
        space: str,
        margin: float = 0.7,
        inter_weight: float = 0.5,
        delta: float = 1.0,
    ) -> None:
        super().__init__()
        self.kind, self.space = kind, space
        self.margin, self.inter_weight, self.delta = margin, inter_weight, delta
        width = dim if space == "feature" else num_classes
        self.centers = nn.Parameter(torch.randn(num_classes, width) * width**-0.5)
        self.register_buffer("sums", torch.zeros(num_classes, width))
        self.register_buffer("counts", torch.zeros(num_classes))
        self.register_buffer("ready", torch.tensor(space != "feature"))
        self._known: tuple[Tensor, int, bool] | None = None  # `ready`, its version and its value
        self.record: dict[str, Tensor] = {}

    def forward(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """features float (B, D), logits float (B, K), labels int64 (B,) -> {kind: scalar}."""
        if self.space == "feature":
            points, centers = normalize(features.float(), dim=1), normalize(self.centers, dim=1)
        else:
            points, centers = logits.float().softmax(dim=1), self.centers
        self.record = {} if self.kind == "vcc" else {"related_share": points.new_zeros(())}
        if not self._is_ready():
            self.sums.index_add_(0, labels, points.detach())
            self.counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float32))
            return {self.kind: points.sum() * 0.0}
        if self.kind == "vcc":
            return {self.kind: contrastive_center_loss(points, labels, centers, delta=self.delta)}
        terms = dfacc_terms(points, labels, centers, margin=self.margin)
        self.record["related_share"] = terms.related_share
        return {self.kind: terms.intra + self.inter_weight * terms.inter}

    def end_epoch(self) -> None:
        """Once, after the first epoch: the centres become that epoch's unit-norm class means."""
        if self._is_ready():
            return
        seen = self.counts > 0
        with torch.no_grad():
            self.centers.copy_(torch.where(seen[:, None], normalize(self.sums, dim=1), self.centers))
            self.ready.fill_(True)

    def _is_ready(self) -> bool:
        """`ready`, asked anew only where it was changed: to ask each step would make the host wait for the device."""
        ready = self.ready
        if self._known is None or self._known[0] is not ready or self._known[1] != ready._version:
            self._known = (ready, ready._version, bool(ready))
        return self._known[2]
