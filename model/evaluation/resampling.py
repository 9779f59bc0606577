"""A crossed bootstrap: the unit is the source, not the image. Seen sources, unseen sources and identities are drawn anew,
each with replacement, and a row's weight is the product of how often its source and its identities were drawn (the pigeonhole
bootstrap, Owen 2007, 0711.2612; a swap has two identities).

Legend: R resamples, N seen rows, V unseen rows, S seen sources, U unseen sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .predictions import IDENTITY_JOIN, Floats, Labels, Predictions, codes_of, spread

RESAMPLES = 1_000
BLOCK = 25  # resamples at a time: weights of 20,000 rows stay in the processor's cache
BOOTSTRAP_ROWS = 20_000  # resampled at most; more are represented, alike from every source
FEW, TOO_FEW = 10, 5  # sources: every point is shown too; no interval


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Weights of R resamples."""

    seen: Floats  # (R, N), sources and identities
    unseen: Floats  # (R, V), identities alone: within one source it counts for nothing how often that was drawn
    unseen_sources: Floats  # (R, U)


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """What is drawn: sources and identities of seen and unseen rows."""

    seen: Predictions
    unseen: Predictions
    seed: int = 0

    @cached_property
    def _identities(self) -> tuple[list[Labels], list[Labels], int]:
        """First and second identity of seen and of unseen rows, -1: has none, and how many there are."""
        parts = [self.seen, self.unseen]
        own = [list(rows.groups) or [f"row {key}" for key in rows.keys] for rows in parts]
        pairs = [[group.partition(IDENTITY_JOIN)[::2] for group in groups] for groups in own]
        names = sorted({name for rows in pairs for pair in rows for name in pair if name})
        codes = []
        for rows in pairs:
            first, second = ([pair[side] or names[0] for pair in rows] for side in (0, 1))
            is_single = np.array([not pair[1] for pair in rows], dtype=bool)
            codes.append([codes_of(first, names), np.where(is_single, -1, codes_of(second, names))])
        return codes[0], codes[1], len(names)

    def whole(self) -> Draws:
        """Every row once: the figures themselves."""
        return Draws(
            seen=np.ones((1, len(self.seen))),
            unseen=np.ones((1, len(self.unseen))),
            unseen_sources=np.ones((1, len(self.unseen.sources))),
        )

    def blocks(self, resamples: int = RESAMPLES) -> Iterator[Draws]:
        """The same ones for the same sources, identities and seed, so that two attributors are compared on equal draws."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        of_seen, of_unseen, count = self._identities
        for start in range(0, resamples, BLOCK):
            size = min(BLOCK, resamples - start)
            sources = _multiplicities(generator, len(self.seen.sources), size)
            others = _multiplicities(generator, len(self.unseen.sources), size)
            identities = _multiplicities(generator, count, size)
            yield Draws(
                seen=sources[:, self.seen.codes] * _of_identities(identities, of_seen),
                unseen=_of_identities(identities, of_unseen),
                unseen_sources=others,
            )


def _multiplicities(generator: np.random.Generator, count: int, resamples: int) -> Floats:
    """How often each of `count` was drawn in as many draws, (R, count)."""
    if count == 0:
        return np.zeros((resamples, 0))
    return generator.multinomial(count, np.full(count, 1.0 / count), size=resamples).astype(np.float64)


def _of_identities(drawn: Floats, codes: list[Labels]) -> Floats:
    weights = drawn[:, codes[0]]
    has_two = codes[1] >= 0
    weights[:, has_two] *= drawn[:, codes[1][has_two]]
    return weights


def represented(rows: Predictions, most: int) -> Labels:
    """Places of at most `most` rows, alike from every source and spread over it; all of them where they are few."""
    if len(rows) <= most:
        return np.arange(len(rows))
    each = max(1, most // len(rows.sources))
    kept = []
    for code in range(len(rows.sources)):
        places = np.flatnonzero(rows.codes == code)
        kept.append(places[spread(len(places), each)])
    return np.sort(np.concatenate(kept))
