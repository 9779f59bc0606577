"""What a training finds out on its seen validation rows: a temperature, and the threshold that accepts 95 % of them."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from .predictions import Floats, Labels
from .softmax import max_softmax


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The T that minimises the NLL of logits / T (Guo et al. 2017), within [0.05, 20]."""
    logits = logits.astype(np.float64)

    def nll(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(nll, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def threshold_for_acceptance(logits: Floats, share: float = 0.95) -> float:
    """The max-softmax threshold that accepts `share` of these (seen, validation) rows."""
    return float(np.quantile(max_softmax(logits), 1.0 - share))
