"""Heads over frozen features that are fitted in one pass, without gradient steps.

Every head has buffers of shapes that the settings decide, `fit(features, labels)` on arrays, and logits as its forward.
A class without training rows gets the lowest logit of each row, less ABSENT.

Legend: N rows, B batch, D feature dimension, K classes, M rows kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
ABSENT = 10.0
SMOOTHED = 0.5  # votes that every class has before a neighbour is counted


class Principal(nn.Module):
    """Standardised features in the directions of their largest variance: (B, D) -> (B, C). A constant feature counts for
    nothing; directions that the rows do not fill are 0."""

    mean: Tensor  # (D,)
    basis: Tensor  # (D, C), each column over the features' standard deviations

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.components = min(dim, components)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("basis", torch.eye(dim)[:, : self.components].contiguous())

    def fit(self, features: F32) -> F32:
        """features (N, D) -> the same as forward gives them."""
        deviation = features.std(axis=0, dtype=np.float64)
        scale = np.where(deviation > 0, 1.0 / np.maximum(deviation, 1e-12), 0.0)
        mean = features.mean(axis=0, dtype=np.float64)
        standard = (features - mean) * scale
        _, vectors = np.linalg.eigh(standard.T @ standard / len(standard))
        basis = vectors[:, ::-1][:, : self.components]  # the largest last -> first
        basis = basis * np.sign(
            basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])]
        )  # a sign for every machine
        basis[:, min(len(standard) - 1, self.components) :] = 0.0
        _set(self.mean, mean)
        _set(self.basis, scale[:, None] * basis)
        found: F32 = (standard @ basis).astype(np.float32)
        return found

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) @ self.basis


class Head(nn.Module):
    """Base of the heads."""

    present: Tensor  # bool (K,), which classes had training rows

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("present", torch.zeros(num_classes, dtype=torch.bool))

    def fit(self, features: F32, labels: I64) -> None:
        """features (N, D), labels (N,) in [0, K)."""
        _set(self.present, np.bincount(labels, minlength=len(self.present)) > 0)
        self._fit(features, labels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> logits (B, K)."""
        found = self._logits(features.float())
        lowest = found.masked_fill(~self.present, torch.inf).amin(dim=1, keepdim=True)
        return torch.where(self.present, found, lowest - ABSENT)

    def _fit(self, features: F32, labels: I64) -> None:
        raise NotImplementedError

    def _logits(self, features: Tensor) -> Tensor:
        raise NotImplementedError


class LinearHead(Head):
    """Multinomial logistic regression with an L2 penalty, as scikit-learn fits it; C as the classical controls have it."""

    weight: Tensor  # (K, D)
    bias: Tensor  # (K,)

    def __init__(self, dim: int, num_classes: int, *, penalty: float = 0.003) -> None:
        super().__init__(num_classes)
        self.penalty = penalty
        self.register_buffer("weight", torch.zeros(num_classes, dim))
        self.register_buffer("bias", torch.zeros(num_classes))

    def _fit(self, features: F32, labels: I64) -> None:
        from sklearn.linear_model import LogisticRegression

        places = np.unique(labels)
        if len(places) < 2:  # nothing to tell apart
            return
        model = LogisticRegression(C=self.penalty, tol=1e-3, max_iter=2000).fit(features, labels)
        weight, bias = model.coef_, model.intercept_
        if len(places) == 2:  # one row, for the second class against the first
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        self.weight[places], self.bias[places] = _like(self.weight, weight), _like(self.bias, bias)

    def _logits(self, features: Tensor) -> Tensor:
        return features @ self.weight.T + self.bias


class MahalanobisHead(Head):
    """Minus half the squared distance to each class mean, under one covariance within classes (Ledoit & Wolf 2004); with
    `whiten=False` under one variance for all directions: the nearest mean."""

    means: Tensor  # (K, D), whitened
    whitening: Tensor  # (D, D); (1, 1) without whitening

    def __init__(self, dim: int, num_classes: int, *, whiten: bool = True) -> None:
        super().__init__(num_classes)
        self.whiten = whiten
        self.register_buffer("means", torch.zeros(num_classes, dim))
        self.register_buffer("whitening", torch.eye(dim if whiten else 1))

    def _fit(self, features: F32, labels: I64) -> None:
        from sklearn.covariance import ledoit_wolf

        wide = features.astype(np.float64)
        means = np.zeros(self.means.shape)
        for label in np.unique(labels):
            means[label] = wide[labels == label].mean(axis=0)
        within = wide - means[labels]
        if self.whiten:
            covariance, _ = ledoit_wolf(within, assume_centered=True)
            values, vectors = np.linalg.eigh(covariance)
            whitening = vectors / np.sqrt(np.maximum(values, 1e-12))
        else:
            whitening = np.full((1, 1), 1.0 / np.sqrt(max(float(np.square(within).mean()), 1e-12)))
        _set(self.whitening, whitening)
        _set(self.means, means @ whitening if self.whiten else means * whitening)

    def _logits(self, features: Tensor) -> Tensor:
        white = features @ self.whitening if self.whiten else features * self.whitening
        return -0.5 * torch.cdist(white[None], self.means[None])[0].square()


class NeighbourHead(Head):
    """The logarithm of the share of each class among the k nearest rows by cosine, of M rows kept evenly spread."""

    bank: Tensor  # (M, D) of length 1; rows of zeros where there were fewer
    labels: Tensor  # int64 (M,), -1 where there is none

    def __init__(self, dim: int, num_classes: int, *, rows: int, neighbours: int) -> None:
        super().__init__(num_classes)
        self.neighbours = neighbours
        self.register_buffer("bank", torch.zeros(rows, dim))
        self.register_buffer("labels", torch.full((rows,), -1))

    def _fit(self, features: F32, labels: I64) -> None:
        kept = np.linspace(0, len(features) - 1, min(len(features), len(self.bank))).round().astype(np.int64)
        rows = features[kept].astype(np.float64)
        unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        self.bank[: len(kept)], self.labels[: len(kept)] = _like(self.bank, unit), _like(self.labels, labels[kept])

    def _logits(self, features: Tensor) -> Tensor:
        similarity = nn.functional.normalize(features, dim=1) @ self.bank.T
        similarity = similarity.masked_fill(self.labels < 0, -torch.inf)
        nearest = similarity.topk(min(self.neighbours, len(self.bank)), dim=1)
        found = self.labels[nearest.indices]  # (B, k)
        votes = torch.full((len(features), len(self.present)), SMOOTHED, device=features.device)
        counted = ((found >= 0) & nearest.values.isfinite()).float()
        return votes.scatter_add(1, found.clamp(min=0), counted).log()


# setting -> what makes the head, from (D, K, rows kept, neighbours)
HEADS: Mapping[str, Callable[[int, int, int, int], Head]] = {
    "knn": lambda dim, classes, rows, k: NeighbourHead(dim, classes, rows=rows, neighbours=k),
    "mean": lambda dim, classes, _rows, _k: MahalanobisHead(dim, classes, whiten=False),
    "mahalanobis": lambda dim, classes, _rows, _k: MahalanobisHead(dim, classes),
    "linear": lambda dim, classes, _rows, _k: LinearHead(dim, classes),
}


def _like(buffer: Tensor, values: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(buffer)


def _set(buffer: Tensor, values: npt.NDArray[np.generic]) -> None:
    buffer.copy_(_like(buffer, values))
