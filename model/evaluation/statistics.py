"""What the scores by distance know of an attributor's training rows. Fitted once, at the end of a training, and stored in
the run: a deployed attributor has nothing else, and the evaluation uses the same.

Legend: N rows, K classes, C of them with training rows, D embedding dimension, M rows kept for nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .blocks import by_blocks
from .predictions import Floats, Predictions, spread
from .scores import LOGIT_SCORES, PAPERS_SCORE, unit
from .softmax import max_softmax

NEIGHBOURS = 10  # the score is the distance to the tenth (Sun et al. 2022, 2204.06507)
TRAIN_ROWS = 10_000  # that they are fitted on, at most
BANK_ROWS = 5_000  # kept for nearest neighbours, at most
DISTANCE_SCORES = ("nearest_class_mean", "mahalanobis", "relative_mahalanobis", "knn")
SCORE_NAMES = (*LOGIT_SCORES, *DISTANCE_SCORES)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Means and covariances of training embeddings, float64, and some of the embeddings themselves."""

    labels: npt.NDArray[np.int64]  # (C,) the classes that have rows
    unit_means: Floats  # (C, D) of unit embeddings, scaled to length 1
    means: Floats  # (C, D)
    whitening: Floats  # (D, D): its product with its transpose is the inverse covariance within classes
    total_mean: Floats  # (D,)
    total_whitening: Floats  # (D, D), of all rows without their classes
    bank: npt.NDArray[np.float32]  # (M, D) unit embeddings

    @classmethod
    def fit(cls, train: Predictions) -> Statistics:
        """Of rows with a class, at least two. Covariances are shrunk (Ledoit & Wolf 2004). Raises ValueError."""
        inside = np.flatnonzero(train.labels >= 0)
        if len(inside) < 2:
            raise ValueError(f"{len(inside)} training rows with a class; at least two are needed")
        features, truth = train.features[inside].astype(np.float64), train.labels[inside]
        labels, place = np.unique(truth, return_inverse=True)
        means = _group_means(features, place, len(labels))
        return cls(
            labels=labels,
            unit_means=unit(_group_means(unit(features), place, len(labels))),
            means=means,
            whitening=_whitening(features - means[place]),
            total_mean=features.mean(axis=0),
            total_whitening=_whitening(features - features.mean(axis=0)),
            bank=unit(features[spread(len(features), BANK_ROWS)]).astype(np.float32),
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """By name, as they are stored."""
        return dict(vars(self))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Statistics:
        """Raises ValueError where an array is missing, of another shape, or holds what is no number."""
        names = list(cls.__dataclass_fields__)
        if missing := [name for name in names if name not in arrays]:
            raise ValueError(f"{missing[0]} is missing")
        found = cls(**{name: arrays[name] for name in names})
        count, dim = len(found.labels), found.total_mean.shape[-1]
        shapes = {
            "labels": (count,), "unit_means": (count, dim), "means": (count, dim), "whitening": (dim, dim),
            "total_mean": (dim,), "total_whitening": (dim, dim), "bank": (len(found.bank), dim),
        }  # fmt: skip
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not shape[0]:
                raise ValueError(f"{name} has the shape {arrays[name].shape}, expected {shape}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} holds what is no number")
        return found

    def scores(self, features: npt.NDArray[np.floating]) -> dict[str, Floats]:
        """DISTANCE_SCORES of embeddings (N, D): the higher, the more like a source trained on, each (N,)."""
        if features.shape[1] != len(self.total_mean):
            raise ValueError(f"embeddings of {features.shape[1]} numbers, expected {len(self.total_mean)}")
        found = by_blocks(features, self._block)
        return {name: np.ascontiguousarray(found[:, k]) for k, name in enumerate(DISTANCE_SCORES)}

    def _block(self, features: Floats) -> Floats:
        unit_features = unit(features)
        whole = _square_distances((features - self.total_mean) @ self.total_whitening)
        white, centres = features @ self.whitening, self.means @ self.whitening
        within = np.stack([_square_distances(white - centre) for centre in centres], axis=1).min(axis=1)
        return np.stack(
            [(unit_features @ self.unit_means.T).max(axis=1), -within, whole - within, self._neighbours(unit_features)],
            axis=1,
        )

    def _neighbours(self, unit_features: Floats) -> Floats:
        """Minus the distance to the tenth nearest kept row, the last one where there are fewer."""
        place = min(NEIGHBOURS, len(self.bank)) - 1
        rows, found = unit_features.astype(np.float32), []
        last = len(self.bank) - 1 - place
        for start in range(0, len(rows), 1024):  # 1024 x 5000 distances at a time
            similarity = rows[start : start + 1024] @ self.bank.T
            nearest = np.partition(similarity, last, axis=1)[:, last].astype(np.float64)
            found.append(-np.sqrt(np.maximum(2.0 - 2.0 * nearest, 0.0)))
        return np.concatenate(found) if found else np.zeros(0)


def all_scores(rows: Predictions, statistics: Statistics | None) -> dict[str, Floats]:
    """SCORE_NAMES -> the score of each row (N,); those by distance only with statistics."""
    found = {name: score(rows.logits) for name, score in LOGIT_SCORES.items()}
    if statistics is None:
        return found
    dim = len(statistics.total_mean)
    features = rows.features if len(rows) else np.zeros((0, dim))
    return found | statistics.scores(features)


def told(scores: Mapping[str, Floats], rows: Predictions) -> dict[str, Floats]:
    """The scores in the scale in which a threshold is told: the max softmax as a probability."""
    return {**scores, PAPERS_SCORE: max_softmax(rows.logits)}


def _group_means(rows: Floats, place: npt.NDArray[np.int64], count: int) -> Floats:
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, place, rows)
    return np.asarray(sums / np.bincount(place, minlength=count)[:, None])


def _whitening(centred: Floats) -> Floats:
    """A matrix (D, D) whose product with its transpose is the inverse of the shrunk covariance of centred rows."""
    from sklearn.covariance import ledoit_wolf  # a training does without scikit-learn until its end

    covariance = ledoit_wolf(centred, assume_centered=True)[0]
    values, vectors = np.linalg.eigh(covariance)
    least = max(values.max() * 1e-10, 1e-12)  # embeddings that are all the same have no spread
    return np.asarray(vectors / np.sqrt(np.maximum(values, least)))


def _square_distances(rows: Floats) -> Floats:
    return np.asarray(np.einsum("nd,nd->n", rows, rows))
