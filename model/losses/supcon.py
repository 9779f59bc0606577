"""Supervised contrastive loss (Khosla et al. 2020, 2004.11362, Eq. 2): samples of one class are positives of each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def supervised_contrastive_loss(features: Tensor, labels: Tensor, *, temperature: float = 0.07) -> Tensor:
    """float (N, D), int64 (N,) -> scalar, the mean over samples that have a positive; 0 where none has.

    Similarities are cosines over the temperature; a sample is compared with all others but itself.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = normalize(features.float(), dim=1)
        logits = unit @ unit.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = (labels[:, None] == labels[None, :]) & ~itself
    likelihood = logits - logits.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    count = positives.sum(dim=1)
    mean = torch.where(positives, likelihood, 0.0).sum(dim=1) / count.clamp(min=1)
    has = count > 0
    return -(mean * has).sum() / has.sum().clamp(min=1)
