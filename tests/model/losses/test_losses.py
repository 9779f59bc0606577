"""Every loss against plain loops in float64, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bmrl.model.losses import contrastive_center_loss, contrastive_loss, dfacc_loss, dfacc_terms, kl_loss

Rows = list[list[float]]


def rows(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    exponentials = [math.exp(x - top) for x in row]
    return [x / sum(exponentials) for x in exponentials]


def plain_dfacc(x: Rows, labels: list[int], centers: Rows, margin: float = 0.7, inter_weight: float = 0.5) -> float:
    """BMRL Eq. 4-7, written as the sums of the paper."""
    b = len(x)
    intra = sum(distance(x[i], centers[labels[i]]) for i in range(b)) / b
    inter = 0.0
    for u in range(b):
        for v in range(b):
            if u == v or labels[u] == labels[v]:
                continue
            d = distance(x[u], x[v])
            near = distance(centers[labels[u]], centers[labels[v]]) < margin
            inter += max(d - margin, 0.0) if near else -d
    return intra + inter_weight * (inter / (b * (b - 1)) if b > 1 else 0.0)


def plain_vcc(x: Rows, labels: list[int], centers: Rows, delta: float = 1.0) -> float:
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        others = sum(distance(row, center) ** 2 for k, center in enumerate(centers) if k != label)
        total += 0.5 * distance(row, centers[label]) ** 2 / (others + delta)
    return total / len(x)


def plain_contrastive(first: Rows, second: Rows, scale: float, groups: list[int]) -> float:
    """Mean over rows and both directions of the cross entropy to a uniform target over equal groups."""

    def unit(row: list[float]) -> list[float]:
        norm = math.sqrt(sum(x * x for x in row))
        return [x / norm for x in row]

    a, b = [unit(row) for row in first], [unit(row) for row in second]
    n = len(a)
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i in range(n):
            p = softmax([scale * sum(x * y for x, y in zip(one[i], other[j], strict=True)) for j in range(n)])
            positives = [j for j in range(n) if groups[j] == groups[i]]
            total -= sum(math.log(p[j]) for j in positives) / len(positives) / n
    return total / 2


def plain_kl(target: Rows, predicted: Rows, temperature: float) -> float:
    total = 0.0
    for t, q in zip(target, predicted, strict=True):
        p, r = softmax([x / temperature for x in t]), softmax([x / temperature for x in q])
        total += sum(a * math.log(a / b) for a, b in zip(p, r, strict=True))
    return total / len(target)


def check_gradient(loss: Callable[[Tensor], Tensor], plain: Callable[[Rows], float], x: Tensor) -> None:
    """Autograd's gradient in x against central differences of the plain float64 reference."""
    leaf = x.clone().requires_grad_(True)
    loss(leaf).backward()
    assert leaf.grad is not None
    step = 1e-6
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            up, down = x.clone(), x.clone()
            up[i, j] += step
            down[i, j] -= step
            expected = (plain(up.tolist()) - plain(down.tolist())) / (2 * step)
            assert float(leaf.grad[i, j]) == pytest.approx(expected, abs=2e-5), (i, j)


CENTERS = torch.tensor([[0.0, 0, 0, 0], [0.3, 0, 0, 0], [3.0, 0, 0, 1], [3.0, 3, 0, 1]], dtype=torch.float64)
BATCHES = {
    "mixed": (6, [0, 1, 2, 3, 0, 2]),
    "one class": (4, [2, 2, 2, 2]),
    "two classes near": (5, [0, 1, 1, 0, 1]),
    "two classes far": (5, [1, 2, 2, 1, 2]),
    "b = 2": (2, [0, 3]),
    "b = 1": (1, [1]),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("scale", [0.2, 1.5])
def test_dfacc_and_its_gradient(name: str, scale: float) -> None:
    count, labels = BATCHES[name]
    x, y = rows(count, 4, scale=scale), torch.tensor(labels)
    found = float(dfacc_loss(x, y, CENTERS))
    assert found == pytest.approx(plain_dfacc(x.tolist(), labels, CENTERS.tolist()), abs=1e-5)
    check_gradient(
        lambda leaf: dfacc_loss(leaf, y, CENTERS), lambda leaf: plain_dfacc(leaf, labels, CENTERS.tolist()), x
    )


def test_dfacc_parts_and_share() -> None:
    x, labels = rows(4, 4), [0, 1, 2, 2]
    terms = dfacc_terms(x, torch.tensor(labels), CENTERS, margin=0.7)
    assert float(terms.related_share) == pytest.approx(1 / 5)  # of 5 different-class pairs, 0-1 alone is near
    weighted = float(terms.intra) + 2.0 * float(terms.inter)
    assert weighted == pytest.approx(plain_dfacc(x.tolist(), labels, CENTERS.tolist(), inter_weight=2.0), abs=1e-5)


def test_dfacc_centres_learn_from_the_intra_term_alone() -> None:
    centers = CENTERS.clone().requires_grad_(True)
    terms = dfacc_terms(rows(6, 4), torch.tensor(BATCHES["mixed"][1]), centers, margin=0.7)
    assert not terms.inter.requires_grad or torch.autograd.grad(terms.inter, centers, allow_unused=True)[0] is None
    (gradient,) = torch.autograd.grad(terms.intra, centers)
    assert gradient.abs().sum(dim=1).gt(0).tolist() == [True] * 4


def test_dfacc_margin_is_a_strict_bound() -> None:
    """Centres exactly at the margin are not related; a pair exactly at the margin has loss 0."""
    centers = torch.tensor([[0.0, 0.0], [0.5, 0.0]])
    x, y = torch.tensor([[0.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1])
    at = dfacc_terms(x, y, centers, margin=0.5)
    assert float(at.related_share) == 0.0 and float(at.inter) == -0.5
    above = dfacc_terms(x, y, centers, margin=0.625)
    assert float(above.related_share) == 1.0 and float(above.inter) == 0.0


def test_zero_distances_have_finite_gradients() -> None:
    x = CENTERS[[0, 0, 1, 2]].clone().requires_grad_(True)  # every row on its centre, two rows equal
    centers = CENTERS.clone().requires_grad_(True)
    y = torch.tensor([0, 1, 1, 2])
    loss = dfacc_loss(x, y, centers)
    assert loss.item() == pytest.approx(
        plain_dfacc(CENTERS[[0, 0, 1, 2]].tolist(), y.tolist(), CENTERS.tolist()), abs=1e-6
    )
    loss.backward()
    for gradient in (x.grad, centers.grad):
        assert gradient is not None and bool(torch.isfinite(gradient).all())


def test_batches_without_pairs_have_no_inter_term() -> None:
    for labels in ([1], [2, 2, 2]):
        x = rows(len(labels), 4).requires_grad_(True)
        terms = dfacc_terms(x, torch.tensor(labels), CENTERS, margin=0.7)
        assert terms.inter.item() == 0.0 and float(terms.related_share) == 0.0
        terms.inter.backward()
        assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("name", BATCHES)
def test_contrastive_center_loss(name: str) -> None:
    count, labels = BATCHES[name]
    x, y = rows(count, 4), torch.tensor(labels)
    for delta in (1.0, 0.1):
        expected = plain_vcc(x.tolist(), labels, CENTERS.tolist(), delta)
        assert float(contrastive_center_loss(x, y, CENTERS, delta=delta)) == pytest.approx(expected, rel=1e-5)
    check_gradient(
        lambda leaf: contrastive_center_loss(leaf, y, CENTERS),
        lambda leaf: plain_vcc(leaf, labels, CENTERS.tolist()),
        x,
    )


def test_contrastive_center_loss_on_the_centre() -> None:
    x = CENTERS[[0, 2]].clone().requires_grad_(True)
    loss = contrastive_center_loss(x, torch.tensor([0, 2]), CENTERS)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())


GROUPS = {
    "all different": [0, 1, 2, 3, 4],
    "repeated prompts": [3, 1, 3, 3, 1],
    "one prompt": [0, 0, 0, 0, 0],
    "b = 2": [0, 0],
    "b = 1": [0],
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07])
def test_contrastive_loss_with_groups(name: str, scale: float) -> None:
    groups = GROUPS[name]
    first, second = rows(len(groups), 3, seed=1), rows(len(groups), 3, seed=2)
    target = torch.tensor(groups)
    expected = plain_contrastive(first.tolist(), second.tolist(), scale, groups)
    assert float(contrastive_loss(first, second, scale, groups=target)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    check_gradient(
        lambda leaf: contrastive_loss(leaf, second, scale, groups=target),
        lambda leaf: plain_contrastive(leaf, second.tolist(), scale, groups),
        first,
    )
    check_gradient(
        lambda leaf: contrastive_loss(first, leaf, scale, groups=target),
        lambda leaf: plain_contrastive(first.tolist(), leaf, scale, groups),
        second,
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_hot_contrastive_loss_is_clips(count: int) -> None:
    first, second = rows(count, 3, seed=1), rows(count, 3, seed=2)
    found = float(contrastive_loss(first, second, 5.0))
    assert found == pytest.approx(
        plain_contrastive(first.tolist(), second.tolist(), 5.0, list(range(count))), rel=1e-5, abs=1e-6
    )


def test_samples_of_one_prompt_share_the_target() -> None:
    """Two prompts, two samples each, all aligned: at a high scale each row is torn between its two positives alone."""
    text = torch.eye(2, dtype=torch.float64).repeat_interleave(2, dim=0)
    groups = torch.tensor([0, 0, 1, 1])
    image = text.clone().requires_grad_(True)
    loss = contrastive_loss(image, text, 50.0, groups=groups)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    loss.backward()
    assert image.grad is not None and float(image.grad.abs().max()) < 1e-6


def test_the_scale_is_learned() -> None:
    first, second = rows(4, 3, seed=1), rows(4, 3, seed=2)
    scale = torch.tensor(3.0, requires_grad=True)
    contrastive_loss(first, second, scale).backward()
    up, down = (plain_contrastive(first.tolist(), second.tolist(), s, [0, 1, 2, 3]) for s in (3.001, 2.999))
    assert float(scale.grad) == pytest.approx((up - down) / 0.002, abs=1e-4)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_kl_and_its_gradients(temperature: float, count: int) -> None:
    target, predicted = rows(count, 6, seed=1), rows(count, 6, seed=2)
    expected = plain_kl(target.tolist(), predicted.tolist(), temperature)
    assert float(kl_loss(target, predicted, temperature=temperature)) == pytest.approx(expected, rel=1e-5)
    check_gradient(
        lambda leaf: kl_loss(target, leaf, temperature=temperature),
        lambda leaf: plain_kl(target.tolist(), leaf, temperature),
        predicted,
    )
    check_gradient(
        lambda leaf: kl_loss(leaf, predicted, temperature=temperature, detach=False),
        lambda leaf: plain_kl(leaf, predicted.tolist(), temperature),
        target,
    )


def test_kl_of_equal_features_is_zero_and_detach_spares_the_target() -> None:
    features = rows(3, 6)
    assert float(kl_loss(features, features)) == pytest.approx(0.0, abs=1e-7)
    target, predicted = rows(3, 6, seed=1).requires_grad_(True), rows(3, 6, seed=2).requires_grad_(True)
    kl_loss(target, predicted).backward()
    assert target.grad is None and predicted.grad is not None


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dfacc": lambda x, y: dfacc_loss(x, torch.arange(40) % 10, y[:10]),
    "vcc": lambda x, y: contrastive_center_loss(x, torch.arange(40) % 10, y[:10]),
    "contrastive": lambda x, y: contrastive_loss(x, y, 50.0),
    "groups": lambda x, y: contrastive_loss(x, y, 50.0, groups=torch.arange(40) % 10),
    "kl": lambda x, y: kl_loss(x, y, detach=False),
}


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_reach_the_losses(name: str) -> None:
    """At 1 / tau = 50 a similarity in bfloat16 is off by up to 1/8, and the gradient of a solved pair by most of itself."""
    found = []
    for enabled in (False, True):
        x = rows(40, 8, seed=1).float().requires_grad_(True)
        y = (x.detach() + rows(40, 8, seed=2).float() / 4).requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = LOSSES[name](x, y)
        loss.backward()
        assert x.grad is not None and y.grad is not None and loss.dtype == torch.float32
        found.append((loss.detach(), x.grad, y.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("loss", ["dfacc", "vcc"])
def test_the_papers_batch_and_the_centres_gradient(loss: str) -> None:
    """b = 32, where torch.cdist takes matrix products; gradients in the centres, a sample on its centre included."""
    labels = [k % 4 for k in range(32)]
    x, y = rows(32, 4, seed=1), torch.tensor(labels)
    x[5] = CENTERS[1]
    found: Callable[[Tensor, Tensor], Tensor] = {
        "dfacc": lambda points, centers: dfacc_loss(points, y, centers),
        "vcc": lambda points, centers: contrastive_center_loss(points, y, centers),
    }[loss]
    plain: Callable[[Rows, Rows], float] = {
        "dfacc": lambda points, centers: plain_dfacc(points, labels, centers),
        "vcc": lambda points, centers: plain_vcc(points, labels, centers),
    }[loss]
    assert float(found(x, CENTERS)) == pytest.approx(plain(x.tolist(), CENTERS.tolist()), rel=1e-5)
    check_gradient(lambda leaf: found(x, leaf), lambda leaf: plain(x.tolist(), leaf), CENTERS)
