"""Which texts a batch is aligned with: one feature a sample, or one a level.

Legend: B batch, D token dimension, U distinct prompts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pipeline.views.text import CONTEXT_LENGTH, NUM_LEVELS
from .encoders import END, START, LanguageEncoder

RANDOM_WORDS = 8  # of a sentence that says nothing


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


def packed(tokens: Tensor) -> Tensor:
    """The known sentences of prompts int (U, 4, 77) one after the other, int64 (U, N), filled up with 0."""
    ends, flat_length = tokens == END, tokens.shape[1] * tokens.shape[2]
    within = (ends.cumsum(dim=-1) == 0) | ends
    valid = (within & (tokens[..., 1] != END)[..., None] & (tokens.sum(dim=-1) > 0)[..., None]).flatten(1)
    longest = flat_length if tokens.is_meta else max(1, int(valid.sum(dim=1).max()))
    order = torch.argsort((~valid).int(), dim=1, stable=True)[:, :longest]
    return torch.where(valid.gather(1, order), tokens.flatten(1).gather(1, order), 0).long()


def random_sentences(tokens: Tensor) -> Tensor:
    """tokens (B, 4, 77) with every known sentence replaced by a sentence of RANDOM_WORDS random words, always the same ones
    for the same sentence: what is left of a prompt is which samples share it (M10)."""
    known = tokens[..., 1] != END  # (B, 4)
    places = torch.arange(CONTEXT_LENGTH, device=tokens.device)
    digest = (tokens.long() * (places * 2_654_435_761 % 1_000_003 + 1)).sum(dim=-1, keepdim=True)  # (B, 4, 1)
    words = (digest * 48_271 + (places[1 : RANDOM_WORDS + 1] * 1_327_217_885 % 998_244_353)) % 2_147_483_647
    words = words * 48_271 % 2_147_483_647 % (START - 1) + 1
    drawn = torch.zeros_like(tokens)
    drawn[..., 0], drawn[..., RANDOM_WORDS + 1] = START, END
    drawn[..., 1 : RANDOM_WORDS + 1] = words.to(tokens.dtype)
    return torch.where(known[..., None], drawn, tokens)


def encode_first(language: LanguageEncoder, tokens: Tensor) -> list[TextTargets]:
    """As encode_whole, read at the end of level 1, as the released code does."""
    return _encode_distinct(language.first, tokens)


def encode_whole(language: LanguageEncoder, tokens: Tensor) -> list[TextTargets]:
    """All four sentences as one text. Each distinct prompt is encoded once and gathered: exact, nothing here is random."""
    return _encode_distinct(language, tokens)


def _encode_distinct(encode: Callable[[Tensor], Tensor], tokens: Tensor) -> list[TextTargets]:
    distinct, groups = torch.unique(tokens.flatten(1), dim=0, return_inverse=True)
    encoded = encode(distinct.view(-1, *tokens.shape[1:])).float()
    return [TextTargets(rows=torch.arange(len(tokens), device=tokens.device), features=encoded[groups], groups=groups)]


def encode_levels(language: Any, tokens: Tensor) -> list[TextTargets]:
    """One entry a level; unknown sentences are left out, and levels of which fewer than two sentences are left: a level
    that is constant over the classes says nothing. language: has `levels`, (U, 4, 77) -> (U, 4, D)."""
    distinct, prompts = torch.unique(tokens.flatten(1), dim=0, return_inverse=True)
    encoded = language.levels(distinct.view(-1, *tokens.shape[1:])).float()  # (U, 4, D)
    targets = []
    for level in range(NUM_LEVELS):
        rows = (tokens[:, level, 1] != END).nonzero()[:, 0]
        sentences, groups = torch.unique(tokens[rows, level], dim=0, return_inverse=True)
        if len(sentences) > 1:
            targets.append(TextTargets(rows=rows, features=encoded[prompts[rows], level], groups=groups))
    return targets


ENCODERS = {"last": encode_whole, "levels": encode_levels, "first": encode_first}
