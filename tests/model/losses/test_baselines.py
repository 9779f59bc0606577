"""The losses of the baselines against plain loops in float64, with gradients, ties and batches of one class."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bmrl.model.losses import (
    batch_entropy,
    bounded_scale,
    info_nce,
    kl_loss,
    supervised_contrastive_loss,
    voted_pair_loss,
)

Rows = list[list[float]]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(row: list[float]) -> list[float]:
    length = max(math.sqrt(sum(x * x for x in row)), 1e-12)
    return [x / length for x in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(x - top) for x in row]
    return [p / sum(powers) for p in powers]


def slope(plain: Callable[[Rows], float], rows: Rows, i: int, j: int) -> float:
    """The derivative by rows[i][j], by central differences in float64."""
    up, down = ([[*row] for row in rows] for _ in range(2))
    up[i][j] += 1e-5
    down[i][j] -= 1e-5
    return (plain(up) - plain(down)) / 2e-5


def check(loss: Callable[[Tensor], Tensor], plain: Callable[[Rows], float], rows: Rows) -> None:
    """Value, and the gradient at every place."""
    given = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    found = loss(given)
    assert found.dtype == torch.float32 and found.ndim == 0
    assert found.item() == pytest.approx(plain(rows), abs=2e-5)
    found.backward()
    assert given.grad is not None
    for i in range(len(rows)):
        for j in range(len(rows[0])):
            assert given.grad[i, j].item() == pytest.approx(slope(plain, rows, i, j), abs=2e-4)


def plain_supcon(labels: list[int], temperature: float) -> Callable[[Rows], float]:
    def loss(rows: Rows) -> float:
        units = [unit(row) for row in rows]
        total, count = 0.0, 0
        for i, label in enumerate(labels):
            positives = [j for j in range(len(labels)) if j != i and labels[j] == label]
            if not positives:
                continue
            others = [math.exp(dot(units[i], units[j]) / temperature) for j in range(len(labels)) if j != i]
            total -= sum(dot(units[i], units[j]) / temperature - math.log(sum(others)) for j in positives) / len(
                positives
            )
            count += 1
        return total / count if count else 0.0

    return loss


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 2], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]])
def test_supervised_contrast_is_the_loop(labels: list[int]) -> None:
    places = torch.tensor(labels)
    check(
        lambda x: supervised_contrastive_loss(x, places, temperature=0.5),
        plain_supcon(labels, 0.5),
        draw(5, 3).tolist(),
    )


def test_supervised_contrast_of_equal_rows_and_of_pairs() -> None:
    equal = torch.ones(4, 3, requires_grad=True)
    loss = supervised_contrastive_loss(equal, torch.tensor([0, 0, 1, 1]))
    assert loss.item() == pytest.approx(math.log(3), abs=1e-5), "three others that are all alike"
    loss.backward()
    assert equal.grad is not None and bool(equal.grad.isfinite().all())


def plain_votes(parts: list[Rows], features: Rows, labels: list[int]) -> Callable[[Rows], float]:
    count = len(labels)

    def partner(i: int) -> int | None:
        allowed = [j for j in range(count) if j != i and (labels[i] < 0 or labels[i] == labels[j])]
        if not allowed:
            return None
        votes = dict.fromkeys(allowed, 0.0)
        for rows in (features, *parts):
            similar = {j: dot(unit(rows[i]), unit(rows[j])) for j in allowed}
            votes[max(allowed, key=lambda j, s=similar: s[j])] += 1.0  # type: ignore[misc]
        return max(allowed, key=lambda j: votes[j] + dot(unit(features[i]), unit(features[j])) / 4)

    partners = [partner(i) for i in range(count)]

    def loss(rows: Rows) -> float:
        shares = [softmax(row) for row in rows]
        found = [-math.log(dot(shares[i], shares[j])) for i, j in enumerate(partners) if j is not None]
        return sum(found) / len(found) if found else 0.0

    return loss


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 0, 2], [0] * 6, [-1] * 6, [0, 0, -1, -1, 1, -1], [0, 1, 2, 3, 4, 5]])
def test_voted_pairs_are_the_loop(labels: list[int]) -> None:
    features, parts = draw(6, 4, seed=1), draw(6, 9, 4, seed=2)
    plain = plain_votes([part.tolist() for part in parts.unbind(1)], features.tolist(), labels)
    places = torch.tensor(labels)
    check(lambda x: voted_pair_loss(x, features.float(), parts.float(), places), plain, draw(6, 3, seed=3).tolist())


def test_the_entropy_of_a_batch_is_the_loop() -> None:
    def plain(rows: Rows) -> float:
        shares = [softmax(row) for row in rows]
        mean = [sum(column) / len(rows) for column in zip(*shares, strict=True)]
        return -sum(p * math.log(p) for p in mean)

    check(batch_entropy, plain, draw(5, 4).tolist())
    assert batch_entropy(torch.eye(3) * 50).item() == pytest.approx(math.log(3), abs=1e-5)
    assert batch_entropy(torch.tensor([[50.0, 0.0, 0.0]] * 3)).item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("groups", [None, [0, 1, 0, 2], [0, 0, 0, 0]])
def test_info_nce_over_similarities_is_the_loop(groups: list[int] | None) -> None:
    """CARZero's similarities are no cosines, and have no temperature."""

    def plain(rows: Rows) -> float:
        names = groups or list(range(len(rows)))

        def one_way(table: Rows) -> float:
            total = 0.0
            for i, row in enumerate(table):
                logs = [math.log(p) for p in softmax(row)]
                positives = [j for j in range(len(row)) if names[j] == names[i]]
                total -= sum(logs[j] for j in positives) / len(positives)
            return total / len(table)

        return (one_way(rows) + one_way([list(column) for column in zip(*rows, strict=True)])) / 2

    given = None if groups is None else torch.tensor(groups)
    check(lambda x: info_nce(x, given), plain, draw(4, 4).tolist())


def test_a_bounded_scale_can_come_back() -> None:
    scale = torch.nn.Parameter(torch.tensor(10.0))
    found = bounded_scale(scale, 100.0)
    assert found.item() == pytest.approx(100.0, rel=1e-5) and scale.item() == pytest.approx(math.log(100.0))
    found.backward()
    assert scale.grad is not None and scale.grad.item() > 0


def test_the_released_distillation_is_kl_at_20_times_200() -> None:
    """methods.md 1.2 [C2]: KDLoss of log softmax(T_pre / 20) against softmax(T_l / 20), times .5 * 400."""
    target, predicted = draw(6, 32, seed=1).float(), draw(6, 32, seed=2).float().requires_grad_()
    ours = 200.0 * kl_loss(target, predicted, temperature=20.0, detach=False)
    released = torch.nn.functional.kl_div(
        (predicted / 20).log_softmax(1), (target / 20).softmax(1), reduction="batchmean"
    ) * (0.5 * 400)
    assert ours.item() == pytest.approx(released.item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(ours, predicted)
    mse = (predicted - target).detach()
    mse = mse - mse.mean(dim=1, keepdim=True)
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), mse.flatten(), dim=0) > 0.99, "MSE-like"


def test_attention_behind_the_softmax_acts_on_nothing() -> None:
    """M8: the literal Eq. 9-11, CE of softmax times sigma(A), adds log sigma(A_ii): no gradient off A's diagonal, none to the
    features; Eq. 7, logits times sigma(A), has both."""
    similarity, table = draw(5, 5).requires_grad_(), draw(5, 5, seed=1).requires_grad_()

    def gradients(loss: Tensor) -> tuple[Tensor, Tensor]:
        first, second = torch.autograd.grad(loss, (table, similarity))
        return first, second

    diagonal = torch.eye(5, dtype=torch.bool)
    literal = -(similarity.softmax(dim=1) * table.sigmoid()).diagonal().log().mean()
    without = -similarity.softmax(dim=1).diagonal().log().mean()
    on_table, on_similarity = gradients(literal)
    assert on_table[~diagonal].abs().max() == 0.0
    assert torch.allclose(on_similarity, torch.autograd.grad(without, similarity)[0], atol=1e-12)
    acting, _ = gradients(-(similarity * table.sigmoid()).log_softmax(dim=1).diagonal().mean())
    assert (acting[~diagonal].abs() > 1e-6).any()
