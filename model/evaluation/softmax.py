"""Probabilities of the top class from logits, in float64."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax

from .predictions import Floats


def max_softmax(logits: Floats) -> Floats:
    """(N, K) -> (N,) in (0, 1]: the papers' score."""
    return np.asarray(softmax(logits.astype(np.float64), axis=1).max(axis=1))


def log_odds(logits: Floats) -> Floats:
    """log p / (1 - p) of the top class: ranks as max_softmax does, without its ties at 1.0 (N,)."""
    ordered = np.sort(logits.astype(np.float64), axis=1)
    return np.asarray(ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1))


def logit_scale(logits: Floats) -> float:
    """The mean distance of the highest logit from the mean of the others."""
    highest = logits.max(axis=1)
    others = (logits.sum(axis=1) - highest) / max(1, logits.shape[1] - 1)
    return float((highest - others).mean())
