"""Figures with their intervals, and what is not estimable."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from bmrl.model.errors import WrongUseError
from bmrl.model.evaluation import estimates
from bmrl.model.evaluation.case import About, Case
from bmrl.model.evaluation.comparison import Entrant, compare, holm
from bmrl.model.evaluation.evaluate import completed, evaluate
from bmrl.model.evaluation.open_set import t_interval
from bmrl.model.evaluation.predictions import Predictions
from bmrl.model.evaluation.resampling import represented

ABOUT = About(
    attributor="x", preset="", semantics="", protocol=None, task="attribution", published={}, relations={},
    simulated=False, calibration=None,
    data={"name": "n", "root_digest": "0", "n_per_generator": {}, "n_train": {}, "missing_sources": [], "other_views": []},
)  # fmt: skip


def rows(part: str, sources: int, each: int, *, known: bool, skill: float, seed: int, classes: int = 12) -> Predictions:
    """skill: how far the logit of the right class lies above the others, shifted by source."""
    rng = np.random.default_rng([seed, known, len(part)])
    labels = np.repeat(np.arange(sources), each)
    logits = rng.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels % classes] += (skill if known else skill / 3) * (0.6 + 0.1 * (labels % 9))
    prefix = "s" if known else "u"
    return Predictions(
        keys=[f"{part}-{row}" for row in range(len(labels))],
        generators=[f"{prefix}{label:02}" for label in labels],
        labels=labels if known else np.full(len(labels), -1),
        logits=logits,
        features=rng.normal(size=(len(labels), 5)) + labels[:, None] * (0.3 if known else 0.1),
        groups=[f"face{row % each}" for row in range(len(labels))],
    )


def case(unseen: int = 11, skill: float = 3.0, seed: int = 0, each: int = 20, **more: Any) -> Case:
    sources = {
        f"{prefix}{k:02}": {"kind": "EFS" if k % 2 else "FS", "family": "GAN"} for prefix in "su" for k in range(12)
    }
    return Case(
        seen=rows("seen", 12, each, known=True, skill=skill, seed=seed),
        unseen=rows("unseen", unseen, each, known=False, skill=skill, seed=seed),
        controls=Predictions.none(12, 5),
        train=rows("train", 12, 30, known=True, skill=skill, seed=seed + 100),
        validation=rows("validation", 12, 10, known=True, skill=skill, seed=seed + 200),
        classes=tuple(f"s{k:02}" for k in range(12)),
        thresholds=(0.7, 0.9),
        about=ABOUT,
        sources=sources,
        **more,
    )


@pytest.fixture(scope="module")
def done() -> Case:
    return completed(case())


def test_every_figure_lies_in_its_interval(done: Case) -> None:
    for path, one in done.estimates.items():
        if one.low is None or one.high is None or path[-1] == "ece":  # the mean of absolute gaps grows under noise
            continue
        assert one.value is not None and one.low - 1e-9 <= one.value <= one.high + 1e-9, (path, one)


def test_the_document_and_the_intervals_are_one_tree(done: Case) -> None:
    document = evaluate(case()).document

    def walk(tree: dict[str, Any], values: Any, path: tuple[str, ...] = ()) -> int:
        count = 0
        for name, inside in tree.items():
            if isinstance(inside, dict):
                count += walk(inside, values[name], (*path, name))
            else:
                assert name in values, (*path, name)
                assert inside is None or (len(inside) == 2 and inside[0] <= inside[1])
                assert values[name] is None or isinstance(values[name], float), (*path, name)
                count += 1
        return count

    assert walk(document["intervals"], document) > 100


def test_the_closed_set_is_scikit_learns(done: Case) -> None:
    predicted = done.seen.logits.argmax(axis=1)
    assert done.estimates["seen", "accuracy"].value == pytest.approx((predicted == done.seen.labels).mean())
    assert done.estimates["seen", "macro_f1"].value == pytest.approx(
        f1_score(done.seen.labels, predicted, average="macro")
    )


def test_calibration_by_plain_loops(done: Case) -> None:
    assert done.temperature is not None
    for path, temperature in ((("calibration", "uncalibrated"), 1.0), (("calibration",), done.temperature)):
        nll, brier, bins = 0.0, 0.0, [[0, 0.0, 0] for _ in range(15)]
        for row, label in zip(done.seen.logits.tolist(), done.seen.labels.tolist(), strict=True):
            powers = [math.exp(value / temperature) for value in row]
            shares = [power / sum(powers) for power in powers]
            nll -= math.log(shares[label])
            brier += sum((share - (place == label)) ** 2 for place, share in enumerate(shares))
            one = bins[min(14, int(max(shares) * 15))]
            one[0] += 1
            one[1] += max(shares)
            one[2] += shares.index(max(shares)) == label
        n = len(done.seen)
        ece = sum(abs(confidence - right) for count, confidence, right in bins if count) / n
        for name, value in (("nll", nll / n), ("brier", brier / n), ("ece", ece)):
            assert done.estimates[(*path, name)].value == pytest.approx(value, abs=1e-10), (path, name)


def test_the_unit_is_the_source_and_not_the_image() -> None:
    """Ten times as many images of the same sources hardly narrow an interval that comes from the sources."""
    width = {}
    for each in (20, 200):
        one = completed(case(each=each)).estimates["open_set", "max_softmax", "auroc"]
        assert one.low is not None and one.high is not None
        width[each] = one.high - one.low
    assert width[200] > 0.6 * width[20]


def test_few_sources_have_no_interval() -> None:
    few = completed(case(unseen=4))
    one = few.estimates["open_set", "energy", "auroc"]
    assert one.value is not None and one.low is None and one.units == 4
    assert few.estimates["seen", "accuracy"].low is not None, "there are twelve seen sources"
    document = evaluate(case(unseen=7)).document
    found = document["open_set"]["energy"]
    points = list(found["per_generator"].values())
    mean, sd = np.mean(points), np.std(points, ddof=1)
    assert found["t_interval"] == pytest.approx(
        (mean - 2.447 * sd / math.sqrt(7), mean + 2.447 * sd / math.sqrt(7)), abs=1e-3
    )
    assert "t_interval" not in evaluate(case(unseen=11)).document["open_set"]["energy"]
    assert t_interval([0.5] * 4) is None


def test_a_rate_of_a_handful_is_not_estimable() -> None:
    document = evaluate(case(unseen=5, each=10)).document
    found = document["open_set"]["energy"]
    assert found["ccr_at_fpr_0.1"] is not None and found["ccr_at_fpr_0.01"] is None  # half an image of 50
    assert document["intervals"]["open_set"]["energy"]["ccr_at_fpr_0.01"] is None


def test_many_rows_are_represented(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = case(each=60)
    exact = completed(whole).estimates
    monkeypatch.setattr(estimates, "BOOTSTRAP_ROWS", 400)
    fewer = completed(whole).estimates
    for path, one in exact.items():
        assert fewer[path].value == one.value, path
    a, b = (found["open_set", "energy", "auroc"] for found in (exact, fewer))
    assert a.low is not None and b.low is not None and abs(a.low - b.low) < 0.05
    assert len(represented(whole.seen, 200)) < len(whole.seen)


def test_within_a_kind_its_own_rows_alone(done: Case) -> None:
    from bmrl.model.evaluation.scores import auroc

    scores = done.scores
    for kind in ("EFS", "FS"):
        of = [name for name, facts in done.sources.items() if facts["kind"] == kind]
        seen = np.isin(done.seen.generators, of)
        per = [
            auroc(
                scores["seen"]["max_softmax"][seen],
                scores["unseen"]["max_softmax"][np.array(done.unseen.generators) == name],
            )
            for name in done.unseen.sources
            if name in of
        ]
        assert done.estimates["within_kind", kind, "max_softmax", "auroc"].value == pytest.approx(np.mean(per))


def entrant(name: str, recipe: str = "", **facts: Any) -> Entrant:
    return Entrant(name=name, recipe=recipe, case=completed(case(**facts)))


def test_a_better_attributor_is_claimed_and_an_equal_one_is_not(done: Case) -> None:
    first = Entrant(name="first", recipe="", case=done)
    better, equal = entrant("better", skill=9.0, seed=1), entrant("equal", seed=2)
    document = compare([first, better, equal]).document
    claims = {(one["method"], one["figure"]): one for one in document["differences"]}
    high, none = claims["better", "seen/accuracy"], claims["equal", "seen/accuracy"]
    assert high["claim"] == "higher" and high["low"] > 0 and high["value"] >= high["detectable"] > 0
    assert none["claim"] == "none" and none["low"] <= 0 <= none["high"]
    assert high["p_holm"] >= high["p"] > 0


def test_the_same_rows_in_another_order_are_the_same(done: Case) -> None:
    order = np.random.default_rng(0).permutation(len(done.seen))
    other = case()
    other = completed(replace(other, seen=other.seen.where(order)))
    document = compare([Entrant(name="a", recipe="", case=done), Entrant(name="b", recipe="", case=other)]).document
    for one in document["differences"]:
        assert one["value"] == pytest.approx(0.0, abs=1e-12), one
        assert one["low"] == pytest.approx(0.0, abs=1e-12) and one["claim"] == "none"


def test_other_images_are_not_compared(done: Case) -> None:
    other = replace(done, seen=replace(done.seen, keys=["new", *list(done.seen.keys)[1:]]))
    with pytest.raises(WrongUseError, match="do not judge the same seen images: seen-0 is one in a and not in b"):
        compare([Entrant(name="a", recipe="", case=done), Entrant(name="b", recipe="", case=other)])


def test_seeds_are_one_method_with_their_spread(done: Case) -> None:
    seeds = [Entrant(name="s0", recipe="r", case=done), entrant("s1", "r", seed=3), entrant("s2", "r", seed=4)]
    found = compare([*seeds, entrant("other", skill=5.0, seed=5)]).document
    assert list(found["methods"]) == ["s0 (3 seeds)", "other"]
    method = found["methods"]["s0 (3 seeds)"]
    values = [one.case.estimates["seen", "accuracy"].value for one in seeds]
    assert method["figures"]["seen/accuracy"]["value"] == pytest.approx(np.mean(values))
    assert method["spread"]["seen/accuracy"] == {"values": values, "sd": pytest.approx(np.std(values, ddof=1))}
    wide = method["figures"]["seen/accuracy"]
    assert wide["low"] < min(values) and wide["high"] > max(values)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("trouble", ["one class", "one image", "equal scores", "one of many"])
def test_awkward_cases_end_in_a_result(trouble: str) -> None:
    whole = case(unseen=6)
    if trouble == "one class":
        whole = replace(whole, seen=whole.seen.of("s00"))
    elif trouble == "one image":
        places = np.array([np.flatnonzero(whole.unseen.codes == code)[0] for code in range(6)])
        whole = replace(whole, unseen=whole.unseen.where(places), seen=whole.seen.where(np.arange(0, 240, 20)))
    elif trouble == "equal scores":
        parts = {name: getattr(whole, name) for name in ("seen", "unseen", "train", "validation")}
        flat = {
            name: replace(rows, logits=np.zeros_like(rows.logits), features=np.zeros_like(rows.features))
            for name, rows in parts.items()
        }
        whole = replace(whole, **flat)
    else:
        many = np.concatenate(
            [np.repeat(np.flatnonzero(whole.unseen.codes == 0), 50), np.flatnonzero(whole.unseen.codes == 1)[:3]]
        )
        rows_of = whole.unseen.where(many)
        whole = replace(whole, unseen=replace(rows_of, keys=[f"m{row}" for row in range(len(many))]))
    document = evaluate(whole).document
    assert document["seen"]["n"] == len(whole.seen)
    if trouble == "equal scores":
        assert document["open_set"]["energy"]["auroc"] == 0.5 and document["open_set"]["knn"]["auroc"] == 0.5
