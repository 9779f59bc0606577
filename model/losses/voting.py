"""What CPL adds to cross-entropy (2309.11132): pairs found by votes of the whole face and its parts, and the entropy of a
batch's mean answer.

Legend: B batch, D feature dimension, K outputs, P parts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

SMALL = 1e-7  # under the logarithm


def voted_pair_loss(scores: Tensor, features: Tensor, parts: Tensor, labels: Tensor) -> Tensor:
    """-log of the probability that a sample and its partner have one class, mean over samples with a partner; 0 without.

    scores (B, K), features (B, D) of the whole face, parts (B, P, D), labels int64 (B,), -1: unlabelled. The whole face and
    each part vote for the most similar other sample (cosine), among those of the same label where the sample has one; most
    votes win, ties the more similar whole face.
    """
    count = len(scores)
    itself = torch.eye(count, dtype=torch.bool, device=scores.device)
    allowed = ~itself & ((labels[:, None] == labels[None, :]) | (labels[:, None] < 0))
    voters = torch.cat([features[:, None], parts], dim=1)  # (B, 1 + P, D)
    unit = normalize(voters.float(), dim=2).transpose(0, 1)  # (1 + P, B, D)
    similarity = (unit @ unit.transpose(1, 2)).masked_fill(~allowed, -torch.inf)  # (1 + P, B, B)
    ballots = torch.nn.functional.one_hot(similarity.argmax(dim=2), count).sum(dim=0)  # (B, B)
    # A cosine is at most 1 in size, a vote is worth more.
    partner = (ballots + similarity[0].clamp(min=-1.0) / 4).masked_fill(~allowed, -torch.inf).argmax(dim=1)
    probability = scores.float().softmax(dim=1)
    together = (probability * probability[partner]).sum(dim=1)
    has = allowed.any(dim=1)
    return -(together.clamp(min=SMALL).log() * has).sum() / has.sum().clamp(min=1)


def batch_entropy(scores: Tensor) -> Tensor:
    """Entropy in nats of the mean answer of a batch, scores (B, K): at most log K, where the classes share the batch."""
    mean = scores.float().softmax(dim=1).mean(dim=0)
    return -(mean * mean.clamp(min=SMALL).log()).sum()
