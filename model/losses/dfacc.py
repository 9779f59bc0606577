"""Deepfake attribution contrastive centre loss (BMRL Eq. 4-7), and the VCC loss that it replaces (Qi & Su 2017).

Legend: B batch, D feature dimension, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DfaccTerms:
    """The parts of Eq. 4-7, before lambda."""

    intra: Tensor  # scalar, Eq. 4
    inter: Tensor  # scalar, Eq. 5-7
    related_share: (
        Tensor  # share of the different-class pairs whose centres are nearer than the margin; 0 without pairs
    )


def dfacc_loss(
    features: Tensor, labels: Tensor, centers: Tensor, *, margin: float = 0.7, inter_weight: float = 0.5
) -> Tensor:
    """L_intra + lambda * L_inter.

    features float (B, D), labels int64 (B,) in [0, K), centers float (K, D); margin is m, inter_weight lambda of the
    paper. Distances are L2, not squared; equal vectors have distance 0 and gradient 0.

    Eq. 4 compares y_pre in R^x with a centre in R^d (M1), and Eq. 7's push has no bound on logits (M2), so the caller
    chooses a bounded space: CenterLoss. Eq. 7 is taken literally: related pairs are pulled down to m and never pushed, and
    the loss jumps where two centres come nearer than m (M4).
    """
    terms = dfacc_terms(features, labels, centers, margin=margin)
    return terms.intra + inter_weight * terms.inter


def dfacc_terms(features: Tensor, labels: Tensor, centers: Tensor, *, margin: float) -> DfaccTerms:
    """See dfacc_loss. The branch of Eq. 7 is chosen by the centres' values: they get gradient from L_intra alone."""
    features, centers = features.float(), centers.float()
    intra = torch.linalg.vector_norm(features - centers[labels], dim=1).mean()
    batch = features.shape[0]
    first, second = torch.triu_indices(batch, batch, offset=1, device=features.device)  # u < v
    differ = labels[first] != labels[second]
    first, second = first[differ], second[differ]
    if first.numel() == 0:  # b = 1, or one class: Eq. 5 is an empty sum
        zero = features.sum() * 0.0
        return DfaccTerms(intra, zero, zero.detach())
    distance = torch.linalg.vector_norm(features[first] - features[second], dim=1)
    between = torch.linalg.vector_norm(centers.detach()[labels[first]] - centers.detach()[labels[second]], dim=1)
    related = between < margin
    pair = torch.where(related, torch.clamp(distance - margin, min=0.0), -distance)  # Eq. 7
    # Eq. 5: the mean over all pairs, not over the different ones (M5).
    inter = pair.sum() * (2.0 / (batch * (batch - 1)))
    return DfaccTerms(intra, inter, related.float().mean())


def contrastive_center_loss(features: Tensor, labels: Tensor, centers: Tensor, *, delta: float = 1.0) -> Tensor:
    """Contrastive centre loss of Qi & Su 2017 (called VCC in BMRL's Table 4, M9), averaged over the batch.

    1/2 ||x - c_y||^2 / (sum_{j != y} ||x - c_j||^2 + delta). features (B, D), labels (B,), centers (K, D).
    """
    squared = torch.cdist(features.float()[None], centers.float()[None])[0].square()  # (B, K)
    own = squared.gather(1, labels[:, None])[:, 0]
    return (0.5 * own / (squared.sum(dim=1) - own + delta)).mean()
