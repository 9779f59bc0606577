"""Symmetric cross-modal contrastive loss: CMC between vision and text, CPC between vision and parsing.

BMRL Eq. 8-11, MFCLIP Eq. 7 and 11-12.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize


def contrastive_loss(
    first: Tensor,
    second: Tensor,
    scale: Tensor | float,
    *,
    groups: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> Tensor:
    """Mean of both directions of InfoNCE over cosine similarities ("dot product" needs unit vectors, M6).

    first, second float (B, D): row i of one belongs to row i of the other. scale: 1 / temperature. groups int64 (B,):
    rows of one group are positives of each other (uniform targets, for samples that share a prompt, D13); None means that
    each row's only positive is its own (one-hot targets). pair_weights float (B, B) multiply the logits (SPA, MFCLIP Eq. 7).
    """
    with torch.autocast(first.device.type, enabled=False):  # which would round similarities over tau to 8 bits
        logits = scale * normalize(first.float(), dim=1) @ normalize(second.float(), dim=1).T  # (B, B)
    if pair_weights is not None:
        logits = logits * pair_weights
    return info_nce(logits, groups)


def info_nce(logits: Tensor, groups: Tensor | None = None) -> Tensor:
    """The mean of both directions over similarities (B, B); groups as in contrastive_loss."""
    if groups is None:
        targets = torch.eye(logits.shape[0], device=logits.device)
    else:
        same = (groups[:, None] == groups[None, :]).float()
        targets = same / same.sum(dim=1, keepdim=True)  # symmetric: serves both directions
    forward = -(targets * log_softmax(logits, dim=1)).sum(dim=1).mean()
    backward = -(targets * log_softmax(logits.T, dim=1)).sum(dim=1).mean()
    return (forward + backward) / 2
