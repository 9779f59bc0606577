"""The zero-shot questions that an attributor answers by its prompts: level by level, and unseen names among themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..attributor import Attributor
from ..evaluation.predictions import Floats
from ..evaluation.question import LEVELS, Question
from ..evaluation.zero_shot import UNSEEN_NAMES

_NAMES = LEVELS.index("source")

Prompts = Mapping[str, Mapping[str, Any]]  # source -> its four sentences and their tokens (4, 77), as in dataset.json


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
    aligned = model.aligned_text(tokens.to(device))
    if aligned is None:
        return None
    features: Floats = aligned.features.double().cpu().numpy()
    place = {source: row for row, source in enumerate(known)}
    kept = [number for number in range(len(LEVELS)) if number + 1 in aligned.levels]

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
