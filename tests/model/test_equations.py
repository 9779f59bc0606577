"""All terms of BMRL's Eq. 12 as the attributor puts them together, values and gradients, against plain loops in float64.

The encoders are replaced by tables whose rows are the features, so that what follows them is checked alone: fusion, head,
predictor, centres, temperatures, which text belongs to which sample, and what each semantics detaches or normalises.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bmrl.model import build

Rows = list[list[float]]

LABELS = [0, 1, 2, 0, 2, 1]
PROMPTS = [0, 1, 2, 0, 1, 1]  # not the labels: samples of two classes share prompt 1
MARGIN, LAMBDA, TEMPERATURE = 0.6, 0.4, 0.7
CENTERS = {
    "sound": [[2.0, 0, 0, 0, 0, 0, 0, 0], [1.0, 0.4, 0, 0, 0, 0, 0, 0], [0, 0, -0.5, 0, 0, 0, 0, 0]],
    "strict": [[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.0, 0.0, 1.5]],
}  # in both the first two are nearer than the margin and the third is not


class Given(nn.Module):
    """An encoder that knows its output."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, _: Tensor) -> Tensor:
        return self.rows


class GivenPrompts(nn.Module):
    """A language encoder that knows the feature of each of its prompts (P, 4, 77)."""

    def __init__(self, prompts: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.prompts, self.rows = prompts, nn.Parameter(rows)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.stack([self.rows[int((self.prompts == one).all(dim=(1, 2)).nonzero())] for one in tokens])

    def levels(self, tokens: Tensor) -> Tensor:
        """Four features a prompt: its own, turned by a place a level."""
        return torch.stack([self(tokens).roll(level, dims=1) for level in range(4)], dim=1)


def assembled(semantics: str, batch: dict[str, Any], tiny: dict[str, Any], **more: Any) -> tuple[Any, dict[str, Any]]:
    """A model of 8 dimensions whose every part is random, and its batch."""
    sizes = {**tiny, "model.dim": 8, "model.mlp": 8, "model.text_mlp": 8}
    constants = {"losses.margin": MARGIN, "losses.inter_weight": LAMBDA, "losses.kl_temperature": TEMPERATURE}
    torch.manual_seed(0)
    model: Any = build("bmrl", 3, preset="demo", semantics=semantics, **{**sizes, **constants, **more})
    for view in ("image", "edge", "noise"):
        model.visual[view] = Given(torch.randn(6, 8))
    model.parsing = Given(torch.randn(6, 8))
    model.language = GivenPrompts(batch["text"][:3], torch.randn(3, 8))
    with torch.no_grad():
        for parameter in (*model.head.parameters(), *model.predictor.parameters()):
            parameter.normal_()
        model.log_scale_cmc.fill_(1.5)
        model.log_scale_cpc.fill_(0.9)
        model.center_loss.centers.copy_(torch.tensor(CENTERS[semantics]))
        model.center_loss.ready.fill_(True)
    return model, {**batch, "label": torch.tensor(LABELS), "text": batch["text"][torch.tensor(PROMPTS)]}


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a: list[float]) -> list[float]:
    return [x / math.sqrt(dot(a, a)) for x in a]


def gap(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def softmax(a: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in a)
    return [math.exp(x) / total for x in a]


def linear(weight: Rows, bias: list[float], x: list[float]) -> list[float]:
    return [dot(row, x) + one for row, one in zip(weight, bias, strict=True)]


def layer_norm(x: list[float], weight: list[float], bias: list[float]) -> list[float]:
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
    return [(v - mean) / spread * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def info_nce(first: Rows, second: Rows, scale: float, groups: list[int]) -> float:
    """Eq. 8-11; a row's target is uniform over the rows of its group."""
    total = 0.0
    for a, b in ((first, second), (second, first)):
        for u in range(6):
            p = softmax([scale * dot(unit(a[u]), unit(b[v])) for v in range(6)])
            same = [v for v in range(6) if groups[v] == groups[u]]
            total -= sum(math.log(p[v]) for v in same) / len(same) / 6
    return total / 2


def plain_terms(given: dict[str, Any], text_of_kl: Rows, *, sound: bool) -> dict[str, float]:
    """`given`: the parameters by name, as nested lists. text_of_kl: KL's target, constant under `sound`."""
    views = [given[f"visual.{view}.rows"] for view in ("image", "edge", "noise")]
    summed = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*views, strict=True)]
    vision = [unit(row) for row in summed] if sound else summed
    if sound:
        normed = [layer_norm(row, given["head.0.weight"], given["head.0.bias"]) for row in vision]
        logits = [linear(given["head.1.weight"], given["head.1.bias"], row) for row in normed]
    else:
        logits = [linear(given["head.weight"], given["head.bias"], row) for row in vision]
    points = vision if sound else [softmax(row) for row in logits]
    centers = [unit(c) if sound else c for c in given["center_loss.centers"]]
    inter = 0.0
    for u in range(6):
        for v in range(u + 1, 6):
            if LABELS[u] != LABELS[v]:
                far = gap(points[u], points[v])
                related = gap(centers[LABELS[u]], centers[LABELS[v]]) < MARGIN
                inter += max(far - MARGIN, 0.0) if related else -far
    kl = 0.0
    for row, prompt in zip(vision, PROMPTS, strict=True):
        predicted = linear(given["predictor.weight"], given["predictor.bias"], row)
        p = softmax([x / TEMPERATURE for x in text_of_kl[prompt]])
        q = softmax([x / TEMPERATURE for x in predicted])
        kl += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 6
    text = [given["language.rows"][prompt] for prompt in PROMPTS]
    own = list(range(6))
    return {
        "dfa": -sum(math.log(softmax(row)[y]) for row, y in zip(logits, LABELS, strict=True)) / 6,
        "dfacc": sum(gap(x, centers[y]) for x, y in zip(points, LABELS, strict=True)) / 6 + LAMBDA * inter * 2 / 30,
        "cmc": info_nce(vision, text, math.exp(given["log_scale_cmc"]), PROMPTS if sound else own),
        "cpc": info_nce(vision, given["parsing.rows"], math.exp(given["log_scale_cpc"]), own),
        "kl": kl,
    }


@pytest.mark.parametrize("semantics", ["sound", "strict"])
def test_the_terms_are_the_equations(semantics: str, batch: dict[str, Any], tiny: dict[str, Any]) -> None:
    model, batch = assembled(semantics, batch, tiny)
    given = {name: parameter.double().tolist() for name, parameter in model.named_parameters()}
    expected = plain_terms(given, given["language.rows"], sound=semantics == "sound")
    found = {name: float(term.detach()) for name, term in model.losses(batch).items()}
    assert found == pytest.approx(expected, rel=1e-5)
    pairs = sum(LABELS[u] != LABELS[v] for u in range(6) for v in range(u))
    related = sum({LABELS[u], LABELS[v]} == {0, 1} for u in range(6) for v in range(u))
    assert float(model.record["related_share"]) == pytest.approx(related / pairs)
    assert float(model.record["temperature_cmc"]) == pytest.approx(math.exp(-1.5))
    assert float(model.record["temperature_cpc"]) == pytest.approx(math.exp(-0.9))
    logits = model.logits(batch)
    assert float(model.record["accuracy"]) == pytest.approx(
        sum(row.index(max(row)) == y for row, y in zip(logits.tolist(), LABELS, strict=True)) / 6
    )


@pytest.mark.parametrize("semantics", ["sound", "strict"])
@pytest.mark.parametrize("term", ["dfa", "dfacc", "cmc", "cpc", "kl"])
def test_each_terms_gradient_is_the_equations(
    term: str, semantics: str, batch: dict[str, Any], tiny: dict[str, Any]
) -> None:
    """In every parameter, by central differences; what a term does not reach or detaches has none."""
    model, batch = assembled(semantics, batch, tiny)
    model.losses(batch)[term].backward()
    given = {name: parameter.double().tolist() for name, parameter in model.named_parameters()}
    constant = given["language.rows"]
    sound = semantics == "sound"

    def value(name: str, place: tuple[int, ...], step: float) -> float:
        moved = torch.tensor(given[name], dtype=torch.float64)
        moved[place] += step
        changed = {**given, name: moved.tolist()}
        return plain_terms(changed, constant if sound else changed["language.rows"], sound=sound)[term]

    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        places = [tuple(place) for place in torch.ones(parameter.shape).nonzero().tolist()]
        for place in places[::5]:  # of 8 columns: every one in turn
            expected = (value(name, place, 1e-6) - value(name, place, -1e-6)) / 2e-6
            assert float(gradient[place]) == pytest.approx(expected, rel=1e-3, abs=1e-5), (name, place)


# Of the fixture's prompts the third knows levels 1 and 4 alone, and shares level 1 with the second.
KNOWN = {0: (0, 1, 2, 3), 1: (0, 1, 2, 3), 2: (0, 3)}
SENTENCE = {0: (0, 0, 0, 0), 1: (1, 1, 1, 1), 2: (1, -1, -1, 2)}


def turned(row: list[float], places: int) -> list[float]:
    return [*row[-places:], *row[:-places]] if places else row


@pytest.mark.parametrize("semantics", ["sound", "strict"])
def test_a_readout_a_level_with_sample_pair_attention(
    semantics: str, batch: dict[str, Any], tiny: dict[str, Any]
) -> None:
    """CMC is the mean over levels, each over the samples that know it; KL's target the mean of the levels a sample knows."""
    model, batch = assembled(semantics, batch, tiny, **{"text_readout": "levels", "losses.spa": "class"})
    with torch.no_grad():
        model.spa.table.normal_()
    given = {name: parameter.double().tolist() for name, parameter in model.named_parameters()}
    views = [given[f"visual.{view}.rows"] for view in ("image", "edge", "noise")]
    vision = [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*views, strict=True)]
    vision = [unit(row) for row in vision] if semantics == "sound" else vision

    levels = []
    for level in range(4):
        rows = [u for u in range(6) if level in KNOWN[PROMPTS[u]]]
        text = {u: turned(given["language.rows"][PROMPTS[u]], level) for u in rows}
        weigh = {(u, v): 1 / (1 + math.exp(-given["spa.table"][LABELS[u]][LABELS[v]])) for u in rows for v in rows}
        s = {(u, v): 4.0 * dot(unit(vision[u]), unit(text[v])) * weigh[u, v] for u in rows for v in rows}
        total = 0.0
        for u in rows:
            sentence = SENTENCE[PROMPTS[u]][level]
            same = [v for v in rows if SENTENCE[PROMPTS[v]][level] == sentence] if semantics == "sound" else [u]
            along, down = (
                math.log(sum(math.exp(s[pair]) for pair in pairs))
                for pairs in ([(u, v) for v in rows], [(v, u) for v in rows])
            )
            total -= sum(s[u, v] - along + s[v, u] - down for v in same) / len(same)
        levels.append(total / 2 / len(rows))
    kl = 0.0
    for u in range(6):
        known = [turned(given["language.rows"][PROMPTS[u]], level) for level in KNOWN[PROMPTS[u]]]
        p = softmax([sum(column) / len(known) / TEMPERATURE for column in zip(*known, strict=True)])
        predicted = linear(given["predictor.weight"], given["predictor.bias"], vision[u])
        q = softmax([x / TEMPERATURE for x in predicted])
        kl += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 6

    with torch.no_grad():
        model.log_scale_cmc.fill_(math.log(4.0))
        found = model.losses(batch)
        aligned = model.aligned_text(batch["text"]).features
    assert float(found["cmc"]) == pytest.approx(sum(levels) / 4, rel=1e-5)
    assert float(found["kl"]) == pytest.approx(kl, rel=1e-5)
    for u in range(6):
        for level in range(4):
            expected = unit(turned(given["language.rows"][PROMPTS[u]], level))
            assert aligned[u, level].tolist() == pytest.approx(expected, abs=1e-6)
