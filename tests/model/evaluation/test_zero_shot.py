"""Zero-shot questions against plain loops, and with alignments planted in them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from bmrl.model import build
from bmrl.model.evaluation.predictions import Predictions
from bmrl.model.evaluation.question import Question
from bmrl.model.evaluation.zero_shot import ask, centre_questions, zero_shot_rows
from bmrl.model.runs.text_questions import text_questions
from bmrl.pipeline.views.text import tokenize

CPU = torch.device("cpu")
KINDS = {  # source -> level 2, level 3, level 4 of its prompt
    "real": ("an unmanipulated face", "captured by a camera", "a camera"),
    "SimSwap": ("a swapped face", "by a GAN", "model is SimSwap"),
    "DDPM": ("an entire face", "by diffusion", "model is DDPM"),
    "mystery": ("", "", "model is a mystery without a name"),
    "StyleGAN": ("an entire face", "by a GAN", "model is StyleGAN"),
    "DDPMSwap": ("a swapped face", "by diffusion", "model is DDPM SimSwap"),
    "SwapDDPM": ("a swapped face", "by diffusion", "model is SimSwap DDPM"),
    "Edit": ("an edited face", "by a GAN", "model is Edit"),
}
TRAINED = ["real", "SimSwap", "DDPM", "mystery"]
UNSEEN = ["StyleGAN", "DDPMSwap", "Edit"]


def prompts() -> dict[str, dict[str, Any]]:
    found = {}
    for source, lines in KINDS.items():
        sentences = ["a real face" if source == "real" else "a fake face", *lines]
        found[source] = {"sentences": sentences, "tokens": tokenize(sentences).tolist()}
    return found


def rows(features: np.ndarray, generators: list[str]) -> Predictions:
    return Predictions(
        keys=[f"k{row}" for row in range(len(features))],
        logits=np.zeros((len(features), 2)),
        features=features,
        labels=np.zeros(len(features), dtype=np.int64),
        generators=generators,
    )


NONE = rows(np.zeros((0, 5)), [])


def model(tiny: dict[str, Any], **overrides: Any) -> Any:
    torch.manual_seed(0)
    return build("bmrl", 4, preset="demo", **{**tiny, "model.text_readout": "levels", **overrides}).eval()


def questions(attributor: Any, unseen: list[str] = UNSEEN) -> dict[str, Question]:
    found = text_questions(attributor, prompts(), trained=TRAINED, unseen=unseen, device=CPU)
    assert found is not None
    return {question.level: question for question in found[0]}


def plain(question: Question, outputs: Predictions) -> dict[str, Any]:
    """One row, one column at a time."""
    right, truths = 0, []
    by_source: dict[str, list[bool]] = {}
    for feature, source in zip(outputs.features.tolist(), outputs.generators, strict=True):
        truth = question.truth[source]
        if truth not in question.answers:
            continue
        best, chosen = -math.inf, ""
        for column, answer in zip(question.columns.tolist(), question.answers, strict=True):
            lengths = math.sqrt(sum(a * a for a in feature)) * math.sqrt(sum(b * b for b in column))
            cosine = sum(a * b for a, b in zip(feature, column, strict=True)) / lengths
            if cosine > best:
                best, chosen = cosine, answer
        truths.append(truth)
        right += chosen == truth
        by_source.setdefault(source, []).append(chosen == truth)
    most = [sum(answers) > len(answers) / 2 for answers in by_source.values()]
    return {
        "accuracy": right / len(truths),
        "majority": Counter(truths).most_common(1)[0][1] / len(truths),
        "n": len(truths),
        "n_outside": len(outputs.generators) - len(truths),
        "sources_right": [sum(most), len(most)],
    }


def test_answers_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((6, 5))
    question = Question(
        level="kind",
        columns=columns / np.linalg.norm(columns, axis=1, keepdims=True),
        answers=("FS", "EFS", "FS", "real", "EFS", "FS"),
        truth={"a": "FS", "b": "EFS", "c": "real", "d": "AM", "e": ""},
    )
    seen = rows(3 * rng.standard_normal((70, 5)), ["a", "b", "c", "a", "e", "b", "b"] * 10)
    unseen = rows(3 * rng.standard_normal((40, 5)), ["d", "b", "a", "a"] * 10)
    (found,) = ask([question], seen, unseen).values()
    assert found["candidates"] == ["FS", "EFS", "real"] and found["chance"] == 1 / 3
    assert found["seen"] == plain(question, seen) and found["unseen"] == plain(question, unseen)
    assert (found["seen"]["n"], found["seen"]["n_outside"], found["seen"]["majority"]) == (60, 10, 0.5)
    assert (found["unseen"]["n"], found["unseen"]["n_outside"]) == (30, 10)


def test_the_first_of_equal_candidates_is_chosen() -> None:
    columns, outputs = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), rows(np.array([[2.0, 0.0]]), ["s"])
    for answers, accuracy in ((("x", "GAN", "diffusion"), 1.0), (("x", "diffusion", "GAN"), 0.0)):
        question = Question(level="family", columns=columns, answers=answers, truth={"s": "GAN"})
        assert ask([question], outputs, NONE)["family"]["seen"]["accuracy"] == accuracy


def test_what_cannot_be_asked_is_null() -> None:
    columns, outputs = np.eye(2), rows(np.eye(2), ["s", "s"])
    two = Question(level="kind", columns=columns, answers=("FS", "AM"), truth={"s": "EFS"})
    assert ask([two], outputs, NONE)["kind"] == {
        "candidates": ["FS", "AM"],
        "chance": 0.5,
        "seen": {"accuracy": None, "majority": None, "n": 0, "n_outside": 2, "sources_right": [0, 0]},
        "unseen": None,
    }
    one = Question(level="kind", columns=columns, answers=("FS", "FS"), truth={"s": "FS"})
    assert ask([one], outputs, NONE) == {}
    unknown = {"s": {"kind": "unknown", "family": "unknown"}}
    nothing = centre_questions(outputs, unknown, trained=["s"])
    assert [question.answers for question in nothing] == [(), (), ()] and ask(nothing, outputs, NONE) == {}
    assert zero_shot_rows({"text": None, "centres": {"levels": {}, "split": "val"}}) == []


def test_candidates_are_the_distinct_sentences_of_the_trained_sources(tiny: dict[str, Any]) -> None:
    attributor = model(tiny)
    found = questions(attributor)
    assert {level: question.answers for level, question in found.items()} == {
        "authenticity": ("a real face", "a fake face"),
        "kind": ("an unmanipulated face", "a swapped face", "an entire face"),
        "family": ("captured by a camera", "by a GAN", "by diffusion"),
        "source": ("a camera", "model is SimSwap", "model is DDPM", "model is a mystery without a name"),
        "unseen source": ("model is DDPM SimSwap",),
    }
    for number, level in enumerate(("authenticity", "kind", "family", "source")):
        for answer, column in zip(found[level].answers, found[level].columns, strict=True):
            alone = ["", "", "", ""]
            alone[number] = answer
            feature = attributor.language.levels(torch.from_numpy(tokenize(alone))[None])[0, number].double()
            assert column == pytest.approx((feature / feature.norm()).tolist(), abs=1e-6)


@pytest.mark.parametrize("level", ["authenticity", "kind", "family", "source"])
def test_a_planted_alignment_is_found_and_a_permuted_one_is_not(level: str, tiny: dict[str, Any]) -> None:
    question = questions(model(tiny))[level]
    place = {answer: row for row, answer in enumerate(question.answers)}
    seen = [source for source in TRAINED if question.truth[source]] * 5
    unseen = [*UNSEEN, "SimSwap"] * 5
    right = [place.get(question.truth[source], 0) for source in unseen]
    wrong = [(place[question.truth[source]] + 1) % len(place) for source in seen]
    scale = np.random.default_rng(0).uniform(0.5, 9.0, (20, 1))
    features = {
        "right": rows(scale * question.columns[right], unseen),
        "wrong": rows(scale[: len(seen)] * question.columns[wrong], seen),
    }
    found = ask([question], features["wrong"], features["right"])[level]
    assert (found["seen"]["accuracy"], found["unseen"]["accuracy"]) == (0.0, 1.0)
    outside = {"authenticity": 0, "kind": 5, "family": 0, "source": 15}[level]
    assert (found["unseen"]["n"], found["unseen"]["n_outside"]) == (20 - outside, outside)


def test_unseen_names_stand_among_themselves_where_they_can_be_read(tiny: dict[str, Any]) -> None:
    attributor = model(tiny)
    unseen = [*UNSEEN, "SwapDDPM"]
    found = text_questions(attributor, prompts(), trained=TRAINED, unseen=unseen, device=CPU)
    assert found is not None and found[1] == ["StyleGAN", "Edit"], "of tokens that no trained prompt has"
    question = found[0][-1]
    assert question.answers == ("model is DDPM SimSwap", "model is SimSwap DDPM")
    outputs = rows(question.columns[[0, 1, 1, 0]], ["DDPMSwap", "SwapDDPM", "DDPMSwap", "Edit"])
    answered = ask(found[0], outputs, outputs)["unseen source"]
    assert answered["seen"] is None and answered["chance"] == 0.5
    assert answered["unseen"] == {
        "accuracy": 2 / 3, "majority": 2 / 3, "n": 3, "n_outside": 1, "sources_right": [1, 2],
    }  # fmt: skip


def test_a_name_longer_than_any_trained_one_is_unread(tiny: dict[str, Any]) -> None:
    given = prompts()
    given["DDPMSwap"]["sentences"][3] = "model is DDPM SimSwap DDPM SimSwap DDPM SimSwap"
    given["DDPMSwap"]["tokens"][3] = tokenize([given["DDPMSwap"]["sentences"][3]])[0].tolist()
    found = text_questions(model(tiny), given, trained=TRAINED, unseen=["DDPMSwap"], device=CPU)
    assert found is not None and found[1] == ["DDPMSwap"]


def test_levels_that_were_not_trained_are_not_asked(tiny: dict[str, Any]) -> None:
    assert list(questions(model(tiny, **{"model.text_levels": "2,3"}))) == ["kind", "family"]
    nobody = text_questions(model(tiny), prompts(), trained=["mystery"], unseen=["StyleGAN"], device=CPU)
    assert nobody is not None and [question.answers for question in nobody[0]][1:3] == [(), ()] and nobody[1] == []
    same = text_questions(model(tiny), prompts(), trained=["SimSwap", "StyleGAN"], unseen=[], device=CPU)
    assert same is not None
    outputs = rows(np.ones((2, 16)), ["SimSwap", "StyleGAN"])
    assert list(ask(same[0], outputs, NONE)) == ["kind", "source"], "both are fakes of GANs"
    for overrides in (
        {"model.text_readout": "last"},
        {"losses.cmc": 0},
        {"model.text": 0, "model.text_readout": "last"},
    ):
        attributor = model(tiny, **overrides)
        assert text_questions(attributor, prompts(), trained=TRAINED, unseen=UNSEEN, device=CPU) is None


def test_centres_are_the_means_of_unit_features() -> None:
    facts = {
        "real": {"kind": "real", "family": "real"},
        "SimSwap": {"kind": "FS", "family": "GAN"},
        "DDPM": {"kind": "EFS", "family": "diffusion"},
        "mystery": {"kind": "unknown", "family": "unknown"},
        "StyleGAN": {"kind": "EFS", "family": "GAN"},
        "Edit": {"kind": "AM", "family": "other"},
    }
    # The long row must not outweigh the short one: the mean of unit vectors lies halfway between them.
    reference = rows(
        np.array([[0.0, 0.0, 2.0], [9.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]]),
        ["DDPM", "SimSwap", "SimSwap", "mystery", "real"],
    )
    found = {question.level: question for question in centre_questions(reference, facts, trained=TRAINED)}
    half = math.sqrt(0.5)
    assert found["kind"].answers == ("real", "FS", "EFS") and found["family"].answers == ("real", "GAN", "diffusion")
    assert found["authenticity"].answers == ("real", "fake", "fake")
    assert found["kind"].columns == pytest.approx(np.array([[-1, 0, 0], [half, half, 0], [0, 0, 1]]), abs=1e-9)
    unseen = rows(np.array([[0.9, 1.0, 0.0], [0.0, 0.1, 3.0], [0.0, 0.0, 1.0]]), ["StyleGAN", "StyleGAN", "Edit"])
    answered = ask(list(found.values()), reference, unseen)
    half_right = {"accuracy": 0.5, "majority": 1.0, "n": 2, "n_outside": 1, "sources_right": [0, 1]}
    assert answered["kind"]["unseen"] == answered["family"]["unseen"] == half_right
    assert answered["authenticity"]["unseen"] == {
        "accuracy": 1.0, "majority": 1.0, "n": 3, "n_outside": 0, "sources_right": [2, 2],
    }  # fmt: skip
    assert answered["authenticity"]["chance"] == 0.5
    assert answered["kind"]["seen"] == {
        "accuracy": 1.0, "majority": 0.5, "n": 4, "n_outside": 1, "sources_right": [3, 3],
    }  # fmt: skip
