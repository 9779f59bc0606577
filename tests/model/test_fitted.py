"""Heads that are fitted in one pass, against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bmrl.model.layers.fitted import ABSENT, HEADS, LinearHead, MahalanobisHead, NeighbourHead, Principal


def rows(count: int = 60, dim: int = 8, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    return (rng.normal(size=(count, dim)) + labels[:, None] * 0.7).astype(np.float32), labels


def test_principal_components_are_scikit_learns() -> None:
    features, _ = rows()
    features[:, 3] = 5.0  # constant: counts for nothing
    part = Principal(8, 4)
    found = part.fit(features)
    expected = PCA(4).fit_transform(StandardScaler().fit_transform(features.astype(np.float64)))
    signs = np.sign((found * expected).sum(axis=0))
    assert found == pytest.approx(expected * signs, abs=1e-4)
    assert part(torch.from_numpy(features)).numpy() == pytest.approx(found, abs=1e-4)
    again = Principal(8, 4)
    assert np.array_equal(again.fit(features), found)


def test_directions_that_the_rows_do_not_fill_are_zero() -> None:
    features, _ = rows(count=3)
    part = Principal(8, 6)
    assert np.abs(part.fit(features)[:, 2:]).max() == 0.0


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_head_is_scikit_learns(classes: int) -> None:
    features, labels = rows(classes=classes)
    head = LinearHead(8, classes, penalty=0.3)
    head.fit(features, labels)
    model = LogisticRegression(C=0.3, tol=1e-3, max_iter=2000).fit(features, labels)
    shares = head(torch.from_numpy(features)).softmax(dim=1).numpy()
    assert shares == pytest.approx(model.predict_proba(features), abs=1e-4)


def test_the_mahalanobis_head_is_the_loop() -> None:
    features, labels = rows()
    head = MahalanobisHead(8, 3)
    head.fit(features, labels)
    wide = features.astype(np.float64)
    means = np.stack([wide[labels == k].mean(axis=0) for k in range(3)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(wide - means[labels]).covariance_)
    expected = [[-0.5 * (row - mean) @ precision @ (row - mean) for mean in means] for row in wide[:7]]
    assert head(torch.from_numpy(features[:7])).numpy() == pytest.approx(np.array(expected), rel=1e-3, abs=1e-3)


def test_neighbours_vote_as_in_the_loop() -> None:
    features, labels = rows()
    head = NeighbourHead(8, 3, rows=100, neighbours=5)
    head.fit(features, labels)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i in range(10):
        nearest = np.argsort(-(unit @ unit[i]), kind="stable")[:5]
        expected = np.log(0.5 + np.bincount(labels[nearest], minlength=3))
        assert head(torch.from_numpy(features[i : i + 1])).numpy()[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_class_without_rows_is_never_the_answer(name: str) -> None:
    features, labels = rows(classes=2)
    head = HEADS[name](8, 4, 40, 5)
    head.fit(features, labels * 2)  # classes 0 and 2 of four
    found = head(torch.from_numpy(features))
    assert bool(found.isfinite().all()) and set(found.argmax(dim=1).tolist()) <= {0, 2}
    assert torch.allclose(found[:, 1], found[:, [0, 2]].amin(dim=1) - ABSENT)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_one_class_alone_can_be_fitted(name: str) -> None:
    features, _ = rows()
    head = HEADS[name](8, 2, 40, 5)
    head.fit(features, np.ones(len(features), dtype=np.int64))
    assert (head(torch.from_numpy(features)).argmax(dim=1) == 1).all()
