"""What an attributor said of some rows: the one form that every section of the evaluation is a function of.

Legend: N rows, K classes, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

IDENTITY_JOIN = "+"  # between the two identities in the group of a swap


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """An attributor's answers for some rows."""

    keys: Sequence[str]
    generators: Sequence[str]
    labels: Labels  # (N,), -1 for unseen
    logits: Floats  # (N, K)
    features: npt.NDArray[np.floating]  # (N, D), the embedding, float64 or float32
    groups: Sequence[str] = ()  # whose face it is, two identities joined by +; without them every row is its own

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sources(self) -> list[str]:
        """Their generators, by name."""
        return sorted(set(self.generators))

    @cached_property
    def codes(self) -> Labels:
        """The place of each row's generator in `sources` (N,)."""
        return codes_of(self.generators, self.sources)

    @cached_property
    def predicted(self) -> Labels:
        """The class of the highest logit, the first of equal ones (N,)."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @cached_property
    def correct(self) -> Mask:
        return np.asarray(self.predicted == self.labels)

    def where(self, chosen: Mask | Labels) -> Predictions:
        """The rows of a mask, or those of some places in their order."""
        places = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return replace(
            self,
            keys=[self.keys[i] for i in places],
            generators=[self.generators[i] for i in places],
            groups=[self.groups[i] for i in places] if self.groups else (),
            labels=self.labels[places],
            logits=self.logits[places],
            features=self.features[places],
        )

    def between(self, start: int, end: int) -> Predictions:
        """Consecutive rows, their arrays not copied."""
        return replace(
            self,
            keys=self.keys[start:end],
            generators=self.generators[start:end],
            groups=self.groups[start:end],
            labels=self.labels[start:end],
            logits=self.logits[start:end],
            features=self.features[start:end],
        )

    def blind_to(self, label: int) -> Predictions:
        """As if the attributor had no such class: its logit is gone, and the labels are still those of all classes."""
        return replace(self, logits=np.delete(self.logits, label, axis=1))

    def of(self, generator: str) -> Predictions:
        """The rows of one source."""
        if generator not in self.sources:
            return self.where(np.zeros(len(self), dtype=bool))
        return self.where(np.asarray(self.codes == self.sources.index(generator)))

    @classmethod
    def none(cls, num_classes: int, dim: int = 0) -> Predictions:
        """No rows."""
        return cls(
            keys=[],
            generators=[],
            labels=np.zeros(0, dtype=np.int64),
            logits=np.zeros((0, num_classes)),
            features=np.zeros((0, dim)),
        )


def codes_of(values: Sequence[str], names: Sequence[str]) -> Labels:
    """The place of each value in `names`, which has all of them (N,)."""
    place = {name: code for code, name in enumerate(names)}
    encoded = pa.array(values, pa.string()).dictionary_encode()
    table = np.array([place[name] for name in encoded.dictionary.to_pylist()], dtype=np.int64)
    found: Labels = table[encoded.indices.to_numpy(zero_copy_only=False)] if len(table) else np.zeros(0, np.int64)
    return found


def spread(count: int, most: int) -> Labels:
    """At most `most` of the places 0 to count - 1, evenly spread, the first and the last among them."""
    return np.asarray(np.linspace(0, count - 1, min(count, most)).round(), dtype=np.int64)


def counts(*predictions: Predictions) -> dict[str, int]:
    """generator -> evaluated rows."""
    total: dict[str, int] = {}
    for one in predictions:
        for name, n in zip(one.sources, np.bincount(one.codes, minlength=len(one.sources)), strict=True):
            total[name] = total.get(name, 0) + int(n)
    return dict(sorted(total.items()))
