"""Zero-shot attribution: of an image, of a seen source or not, only authenticity, kind or family is asked.

By text: the prompt nearest to the image among the distinct prompts of one level, for attributors that align level by
level. By centre: the kind of the seen source whose mean feature is nearest, for every attributor. Beside them what
content and container alone tell of the same questions (evaluation/controls.py). Candidates are what the sources trained
on have; rows whose truth is none of them are counted and left out.

Legend: N rows, C candidates (or columns), D feature dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from .blocks import by_blocks
from .case import Case
from .predictions import Predictions
from .question import Question, judge, level_answers
from .result import Column, Figure, Section, Table
from .scores import unit, unit_means

UNSEEN_NAMES = "unseen source"
_SPLITS = {"val": "validation", "train": "training"}


def zero_shot_section(case: Case) -> Section:
    found: dict[str, Any] = {"text": None, "centres": None, "mass": None, "content": None, "probe": None}
    if case.text is not None:
        questions, unread = case.text
        found["text"] = {"levels": ask(questions, case.seen, case.unseen), "unread_names": unread}
    if case.centres is not None:
        questions, split = case.centres
        found["centres"] = {"levels": ask(questions, case.seen, case.unseen), "split": split}
    if levels := mass_levels(case):
        found["mass"] = {"levels": levels}
    if case.control_rows is not None:
        from .controls.leaks import level_controls  # scikit-learn, which a training does without

        tables = level_controls(*case.control_rows, level_answers(case.sources), track=case.track)
        found |= {way: {"levels": levels} if levels else None for way, levels in tables.items()}
    rows = zero_shot_rows(found)
    return Section(document={"zero_shot": found}, tables=(_table(rows, _notes(found)),) if rows else ())


def _table(rows: list[tuple[str, str, dict[str, Any]]], notes: list[str]) -> Table:
    part = (Column(title="majority", width=8, unit="share"), Column(title="n", width=6, unit="count"))
    columns = (
        Column(title="zero-shot", width=24),
        Column(title="cand.", width=5, unit="count"),
        Column(title="chance", width=7, unit="share"),
        *(Column(title="seen", width=7, unit="share"), *part),
        *(Column(title="unseen", width=7, unit="share"), *part),
        Column(title="sources", width=8, gap=2),
        Column(title="outside", width=7, unit="count"),
    )
    cells = tuple(
        (
            f"{way:8}{level}",
            Figure(len(facts["candidates"])),
            Figure(facts["chance"]),
            *_figures(facts["seen"]),
            *_figures(facts["unseen"]),
            "{} of {}".format(*facts["unseen"]["sources_right"]) if facts["unseen"] else "",
            Figure(facts["unseen"]["n_outside"] if facts["unseen"] else 0),
        )
        for way, level, facts in rows
    )
    title = "Zero-shot: authenticity, kind and family"
    return Table(name="zero-shot", title=title, columns=columns, rows=cells, notes=tuple(notes))


def _figures(facts: dict[str, Any] | None) -> tuple[Figure, Figure, Figure]:
    """accuracy, majority and n of the rows that could be asked."""
    if facts is None or not facts["n"]:
        return Figure(None), Figure(None), Figure(0)
    n = facts["n"]
    return Figure(facts["accuracy"], n=n), Figure(facts["majority"], n=n), Figure(n)


_NOTES = {
    "text": "text: the prompt of that level nearest to the image, among those of the sources trained on",
    "centres": "centres: the answer of the trained source whose mean {split} feature is nearest",
    "mass": "mass: the answer whose classes have most of the probability together",
    "content": "content: the best leak control, probe: the best classical baseline, each trained for that question",
    "majority": "majority: always the commonest answer; sources: unseen ones of which most images are answered right; outside: "
    "unseen images whose answer no trained source has, left out",
    "unseen source": "unseen source: names never trained on, by text; above chance only by words that trained names share",
    "unread": "unseen names that the text encoder cannot read (tokens or a length that no trained prompt has), not asked: {n}",
}


def _notes(found: dict[str, Any]) -> list[str]:
    """One line for each thing that the table shows."""
    notes = []
    if found["text"]:
        notes.append(_NOTES["text"])
    if found["centres"]:
        notes.append(_NOTES["centres"].format(split=_SPLITS[found["centres"]["split"]]))
    if found["mass"]:
        notes.append(_NOTES["mass"])
    if found.get("content"):
        notes.append(_NOTES["content"])
    notes.append(_NOTES["majority"])
    if found["text"] and "unseen source" in found["text"]["levels"]:
        notes.append(_NOTES["unseen source"])
    if found["text"] and found["text"]["unread_names"]:
        notes.append(_NOTES["unread"].format(n=len(found["text"]["unread_names"])))
    return notes


def zero_shot_rows(found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(text, centres, mass, content or probe; level; its facts); none where nothing could be asked, as of sources of unknown
    kind."""
    return [
        (way, level, facts)
        for way in ("text", "centres", "mass", "content", "probe")
        if found.get(way)
        for level, facts in found[way]["levels"].items()
    ]


def ask(questions: Sequence[Question], seen: Predictions, unseen: Predictions) -> dict[str, Any]:
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


def mass_levels(case: Case) -> dict[str, Any]:
    """The same facts by the softmax: the probabilities of the classes of one answer are added up."""
    found: dict[str, Any] = {}
    for level, truth in level_answers(case.sources).items():
        answers = [
            truth.get(name, "") for name in case.classes
        ]  # of a detection's classes, real and fake, none is known
        candidates = list(dict.fromkeys(answer for answer in answers if answer))
        if len(candidates) < 2:
            continue
        columns = np.array([[answer == candidate for candidate in candidates] for answer in answers], dtype=np.float64)
        found[level] = {"candidates": candidates, "chance": 1.0 / len(candidates)}
        for part, rows in (("seen", case.seen), ("unseen", case.unseen)):
            given = np.array(candidates)[(softmax(rows.logits, axis=1) @ columns).argmax(axis=1)]
            judged = judge(given, rows.generators, truth=truth, candidates=candidates) if len(rows) else None
            found[level][part] = judged
    return found


def _answered(question: Question, rows: Predictions) -> dict[str, Any] | None:
    if not rows.generators:
        return None
    nearest = by_blocks(rows.features, lambda block: (unit(block) @ question.columns.T).argmax(axis=1))
    given = np.array(question.answers)[nearest]
    return judge(given, rows.generators, truth=question.truth, candidates=question.candidates)


def centre_questions(
    reference: Predictions, sources: Mapping[str, Mapping[str, Any]], *, trained: Sequence[str]
) -> list[Question]:
    """Authenticity, kind and family by the nearest mean of the unit features of each trained source.

    reference: rows of every trained source that no row to be judged is among. sources: name -> kind and family.
    """
    number = {name: row for row, name in enumerate(trained)}
    means = unit_means(
        unit(reference.features.astype(np.float64)), np.array([number[name] for name in reference.generators])
    )
    questions = []
    for level, truth in level_answers(sources).items():
        rows = [row for name, row in number.items() if truth.get(name)]
        answers = tuple(truth[trained[row]] for row in rows)
        questions.append(Question(level=level, columns=means[rows], answers=answers, truth=truth))
    return questions
