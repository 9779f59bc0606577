"""Which texts a batch is aligned with: one feature a sample, or one a level.

Legend: B batch, D token dimension, U distinct prompts of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...pipeline.views.text import CONTEXT_LENGTH, NUM_LEVELS
from .encoders import END, START, LanguageEncoder


@dataclass(frozen=True, kw_only=True)
class TextTargets:
    """Text features of some samples of a batch."""

    rows: Tensor  # int64 (R,), the samples that have this text
    features: Tensor  # float (R, D)
    groups: Tensor  # int64 (R,), equal for equal texts


def blank_levels(tokens: Tensor, kept: tuple[int, ...]) -> Tensor:
    """tokens (B, 4, 77) with the levels outside `kept` (of 1-4) empty, as unknown ones are."""
    if len(set(kept)) == NUM_LEVELS:
        return tokens
    blank = torch.zeros(CONTEXT_LENGTH, dtype=tokens.dtype, device=tokens.device)
    blank[0], blank[1] = START, END
    absent = [level for level in range(NUM_LEVELS) if level + 1 not in kept]
    result = tokens.clone()
    result[:, absent] = blank
    return result


def encode_whole(language: LanguageEncoder, tokens: Tensor) -> list[TextTargets]:
    """All four sentences as one text. Each distinct prompt is encoded once and gathered: exact, nothing here is random."""
    distinct, groups = torch.unique(tokens.flatten(1), dim=0, return_inverse=True)
    encoded = language(distinct.view(-1, *tokens.shape[1:])).float()
    return [TextTargets(rows=torch.arange(len(tokens), device=tokens.device), features=encoded[groups], groups=groups)]


def encode_levels(language: LanguageEncoder, tokens: Tensor) -> list[TextTargets]:
    """One entry a level; unknown sentences are left out, and levels of which fewer than two sentences are left: a level
    that is constant over the classes says nothing."""
    distinct, prompts = torch.unique(tokens.flatten(1), dim=0, return_inverse=True)
    encoded = language.levels(distinct.view(-1, *tokens.shape[1:])).float()  # (U, 4, D)
    targets = []
    for level in range(NUM_LEVELS):
        rows = (tokens[:, level, 1] != END).nonzero()[:, 0]
        sentences, groups = torch.unique(tokens[rows, level], dim=0, return_inverse=True)
        if len(sentences) > 1:
            targets.append(TextTargets(rows=rows, features=encoded[prompts[rows], level], groups=groups))
    return targets


ENCODERS = {"last": encode_whole, "levels": encode_levels}
