"""Open-set figures from logits: what is accepted, what is rejected, and how well a score ranks seen above unseen.

All in float64. Seen rows have labels in [0, K), unseen ones -1. Ties count half in every AUROC.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from .predictions import Floats, Labels
from .softmax import log_odds, max_softmax

PAPERS_SCORE = "max_softmax"
LOGIT_SCORES = {
    PAPERS_SCORE: log_odds,  # monotone in it, and free of float ties
    "max_logit": lambda logits: logits.astype(np.float64).max(axis=1),
    "energy": lambda logits: np.asarray(logsumexp(logits.astype(np.float64), axis=1)),
}


def unit(vectors: Floats) -> Floats:
    """(N, D) -> rows of length 1; a zero row stays zero."""
    return np.asarray(vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12))


def unit_means(features: Floats, groups: Labels) -> Floats:
    """The mean of each group's rows, in the order of the group numbers, scaled to length 1 (G, D)."""
    return unit(np.stack([features[groups == group].mean(axis=0) for group in np.unique(groups)]))


def closed_set(logits: Floats, labels: Labels) -> dict[str, Any]:
    """accuracy and macro F1 of seen rows.

    The mean of F1 is over the classes that have rows or are attributed to, as scikit-learn takes it; one without rows
    that is attributed to counts 0.
    """
    from sklearn.metrics import f1_score  # a training does without scikit-learn

    predicted = logits.argmax(axis=1)
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0.0)),
        "n": len(labels),
    }


def confusion(logits: Floats, labels: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """(K, K) counts: rows true, columns predicted."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, (labels, logits.argmax(axis=1)), 1)
    return matrix


def at_threshold(logits: Floats, labels: Labels, threshold: float) -> dict[str, float]:
    """Of seen rows: the share rejected (max softmax < threshold), and the share accepted and correct."""
    accepted = max_softmax(logits) >= threshold
    return {
        "seen_rejection": float((~accepted).mean()),
        "accepted_correct": float((accepted & (logits.argmax(axis=1) == labels)).mean()),
    }


def rejection(logits: Floats, threshold: float) -> float:
    """Share of rows with max softmax < threshold: the papers' "ACC" of an unseen source."""
    return float((max_softmax(logits) < threshold).mean())


def auroc(seen: Floats, unseen: Floats) -> float:
    """P(score of a seen row > score of an unseen one), ties half."""
    from sklearn.metrics import roc_auc_score

    truth = np.concatenate([np.ones(len(seen)), np.zeros(len(unseen))])
    return float(roc_auc_score(truth, np.concatenate([seen, unseen])))


def taken_for(logits: Floats, classes: tuple[str, ...]) -> dict[str, Any]:
    """The class that most rows of a source are attributed to, without any threshold."""
    predicted = np.bincount(logits.argmax(axis=1), minlength=len(classes))
    top = int(predicted.argmax())
    return {"taken_for": classes[top], "taken_for_share": float(predicted[top] / len(logits))}


def threshold_name(threshold: float) -> str:
    """0.7 -> "0.7"; as short as it can be without being another number."""
    short = f"{threshold:g}"
    return short if float(short) == threshold else repr(threshold)  # 0.9999999 is not 1
