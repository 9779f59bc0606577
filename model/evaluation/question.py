"""One question of the zero-shot evaluation: what may be answered, and what is true of each source.

Legend: C candidate columns, D feature dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .predictions import Floats

LEVELS = ("authenticity", "kind", "family", "source")  # of the prompts, in their order
_UNKNOWN = ("unknown", "other")  # no answer: `other` gathers what is not alike


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


def judge(
    given: npt.NDArray[np.str_], generators: Sequence[str], *, truth: Mapping[str, str], candidates: Sequence[str]
) -> dict[str, Any]:
    """accuracy, majority, n and n_outside of the answers given (N,) for rows of these sources; truth: source -> answer.

    sources_right: [k, n], in k of n sources most images are answered right; a share of nine sources is no percentage."""
    true = np.array([truth.get(name, "") for name in generators])
    inside = np.isin(true, candidates)
    facts: dict[str, Any] = {
        "accuracy": None,
        "majority": None,
        "n": int(inside.sum()),
        "n_outside": int((~inside).sum()),
    }
    facts["sources_right"] = [0, 0]
    if inside.any():
        names, codes = np.unique(np.asarray(generators)[inside], return_inverse=True)
        right = np.bincount(codes, weights=given[inside] == true[inside]) / np.bincount(codes)
        facts["sources_right"] = [int((right > 0.5).sum()), len(names)]
        counts = np.unique(true[inside], return_counts=True)[1]
        facts["accuracy"] = float((given[inside] == true[inside]).mean())
        facts["majority"] = float(counts.max() / counts.sum())
    return facts


def level_answers(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """authenticity, kind, family -> source -> its answer, empty where unknown. sources: name -> kind and family."""
    return {level: {name: _answer(level, facts) for name, facts in sources.items()} for level in LEVELS[:3]}


def _answer(level: str, facts: Mapping[str, Any]) -> str:
    found = str(facts["family" if level == "family" else "kind"])
    if found in _UNKNOWN:
        return ""
    return found if level != "authenticity" or found == "real" else "fake"
