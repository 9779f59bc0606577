"""Zero-shot attribution: of an image, of a seen source or not, only authenticity, kind or family is asked.

By text: the prompt nearest to the image among the distinct prompts of one level, for attributors that align level by
level. By centre: the kind of the seen source whose mean feature is nearest, for every attributor. Beside them what
content and container alone tell of the same questions (evaluation/controls.py). Candidates are what the sources trained
on have; rows whose truth is none of them are counted and left out.

Legend: N rows, C candidates (or columns), D feature dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..attributor import Attributor
from .evaluate import Outputs
from .scores import Floats, unit, unit_means

LEVELS = ("authenticity", "kind", "family", "source")  # of the prompts, in their order
_NAMES = LEVELS.index("source")
UNSEEN_NAMES = "unseen source"
_UNKNOWN = ("unknown", "other")  # no answer: `other` gathers what is not alike

Prompts = Mapping[str, Mapping[str, Any]]  # source -> its four sentences and their tokens (4, 77), as in dataset.json


@dataclass(frozen=True, kw_only=True)
class Question:
    """One level: what may be answered, and what is true of each source."""

    level: str
    columns: Floats  # (C, D), unit rows
    answers: tuple[str, ...]  # of each column; several columns may say the same
    truth: Mapping[str, str]  # source -> its answer, empty where unknown

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.answers))


def ask(questions: Sequence[Question], seen: Outputs, unseen: Outputs) -> dict[str, Any]:
    """level -> candidates, chance, and accuracy, majority, n and n_outside of seen and of unseen rows.

    The answer is that of the column with the highest cosine, the first of equal ones. majority: the share of the
    commonest true answer, what a guess without looking reaches at best. Without unseen rows `unseen` is null; a level of
    one candidate is left out.
    """
    return {
        question.level: {
            "candidates": list(question.candidates),
            "chance": 1.0 / len(question.candidates),
            "seen": _answered(question, seen) if question.level != UNSEEN_NAMES else None,
            "unseen": _answered(question, unseen),
        }
        for question in questions
        if len(question.candidates) > 1
    }


def _answered(question: Question, rows: Outputs) -> dict[str, Any] | None:
    if not rows.generators:
        return None
    nearest = (unit(rows.features) @ question.columns.T).argmax(axis=1)
    given = np.array(question.answers)[nearest]
    return judge(given, rows.generators, truth=question.truth, candidates=question.candidates)


def judge(
    given: npt.NDArray[np.str_], generators: Sequence[str], *, truth: Mapping[str, str], candidates: Sequence[str]
) -> dict[str, Any]:
    """accuracy, majority, n and n_outside of the answers given (N,) for rows of these sources; truth: source -> answer."""
    true = np.array([truth.get(name, "") for name in generators])
    inside = np.isin(true, candidates)
    facts: dict[str, Any] = {
        "accuracy": None,
        "majority": None,
        "n": int(inside.sum()),
        "n_outside": int((~inside).sum()),
    }
    if inside.any():
        counts = np.unique(true[inside], return_counts=True)[1]
        facts["accuracy"] = float((given[inside] == true[inside]).mean())
        facts["majority"] = float(counts.max() / counts.sum())
    return facts


@torch.no_grad()
def text_questions(
    model: Attributor, prompts: Prompts, *, trained: Sequence[str], unseen: Sequence[str], device: torch.device
) -> tuple[list[Question], list[str]] | None:
    """The levels that were trained, by their sentences; None where the attributor does not align level by level.

    Last, the names of unseen sources among themselves (beside seen names, which images were pulled to, they would hardly
    be chosen). Only those that the text encoder can read; the others are the second value: a name with a token that no
    prompt trained on holds, or longer than all of them, meets embeddings as random as they were at the start.
    """
    known = [*trained, *(source for source in unseen if source not in trained)]
    tokens = torch.tensor([prompts[source]["tokens"] for source in known])
    encoded = model.level_features(tokens.to(device))
    if encoded is None:
        return None
    features: Floats = encoded.double().cpu().numpy()
    place = {source: row for row, source in enumerate(known)}
    kept = [number for number in range(len(LEVELS)) if number + 1 in model.config.model.text_levels]

    def question(level: str, number: int, sources: Sequence[str]) -> Question:
        truth = {source: str(prompts[source]["sentences"][number]) for source in known}
        first: dict[str, int] = {}
        for source in sources:
            if truth[source]:
                first.setdefault(truth[source], place[source])
        return Question(level=level, columns=features[list(first.values()), number], answers=tuple(first), truth=truth)

    questions = [question(LEVELS[number], number, trained) for number in kept]
    told = [number for number, one in zip(kept, questions, strict=True) if len(one.candidates) > 1]
    if _NAMES not in told:
        return questions, []
    names = questions[-1]
    new = [source for source in unseen if names.truth[source] not in ("", *names.answers)]
    words = set(tokens[: len(trained), told].flatten().tolist())
    longest = max(_length(tokens[place[source], _NAMES]) for source in trained)
    read = [
        source
        for source in new
        if set(tokens[place[source], _NAMES].tolist()) <= words and _length(tokens[place[source], _NAMES]) <= longest
    ]
    questions.append(question(UNSEEN_NAMES, _NAMES, read))
    return questions, [source for source in new if source not in read]


def _length(sentence: torch.Tensor) -> int:
    """Ids of a sentence (77,) without its padding."""
    return int((sentence != 0).sum())


def centre_questions(
    reference: Outputs, sources: Mapping[str, Mapping[str, Any]], *, trained: Sequence[str]
) -> list[Question]:
    """Authenticity, kind and family by the nearest mean of the unit features of each trained source.

    reference: rows of every trained source that no row to be judged is among. sources: name -> kind and family.
    """
    number = {name: row for row, name in enumerate(trained)}
    means = unit_means(unit(reference.features), np.array([number[name] for name in reference.generators]))
    questions = []
    for level, truth in level_answers(sources).items():
        rows = [row for name, row in number.items() if truth[name]]
        answers = tuple(truth[trained[row]] for row in rows)
        questions.append(Question(level=level, columns=means[rows], answers=answers, truth=truth))
    return questions


def level_answers(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """authenticity, kind, family -> source -> its answer, empty where unknown. sources: name -> kind and family."""
    return {level: {name: _answer(level, facts) for name, facts in sources.items()} for level in LEVELS[:3]}


def _answer(level: str, facts: Mapping[str, Any]) -> str:
    found = str(facts["family" if level == "family" else "kind"])
    if found in _UNKNOWN:
        return ""
    return found if level != "authenticity" or found == "real" else "fake"
