"""Near-identical images in different splits, by a perceptual hash of the stored images. Reported, never a failure.

The hash is DCT-based: of the gray image reduced to 32x32, the 64 lowest frequencies after the mean, each a bit that says
whether it lies above their median (Zauner 2010 takes the 8x8 lowest, the mean among them).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..shardset import ShardSet
from ..sources.rows import SPLITS

# Of 2.6 million pairs of distinct photographs and StyleGAN faces none came within 4 bits, 2 within 6 and 142 within 10,
# while 98.7 % of copies changed by JPEG, resizing, brightness or contrast did (docs/decisions/build.md).
MAX_BITS = 4
MAX_IMAGES = 20_000
MAX_LISTED = 20  # pairs
_SIDE, _BITS, _BATCH, _BLOCK = 32, 64, 64, 1024

Hashes = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rows of the index in different splits whose hashes are `bits` apart."""

    first: int
    second: int
    bits: int


def perceptual_hash(image: npt.NDArray[np.uint8]) -> Hashes:
    """RGB uint8 (H, W, 3) -> bool (64,)."""
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    frequencies = cv2.dct(gray.astype(np.float32))[_ROWS, _COLUMNS]
    return np.asarray(frequencies > np.median(frequencies))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What was found: all pairs are counted, the nearest are listed."""

    per_splits: dict[str, int]  # "train/test" -> pairs, in the order of their nearest ones
    nearest: list[Pair]

    @property
    def count(self) -> int:
        return sum(self.per_splits.values())


def find_pairs(
    hashes: Hashes, splits: npt.NDArray[np.str_], max_bits: int = MAX_BITS, max_listed: int | None = None
) -> Pairs:
    """Every pair of different splits within `max_bits`. hashes (N, 64), splits (N,); max_listed None lists them all.

    The distance of two sign vectors is (64 - their product) / 2, so one matrix product compares a block with a split. Of
    thousands of equal images there are millions of pairs: no more than the listed ones are ever held.
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))
    members = {split: np.flatnonzero(splits == split) for split in SPLITS}
    counts: dict[str, int] = {}
    listed: dict[str, list[Pair]] = {}
    for one, other in combinations(SPLITS, 2):
        name = f"{one}/{other}"
        right = signs[members[other]].T
        for start in range(0, len(members[one]), _BLOCK):
            rows = members[one][start : start + _BLOCK]
            products = signs[rows] @ right  # (block, other split), exact in float32
            if count := int(np.count_nonzero(products >= _BITS - 2 * max_bits)):
                counts[name] = counts.get(name, 0) + count
                found = listed.setdefault(name, [])
                found += _nearest_of(products, rows, members[other], max_bits, max_listed)
                listed[name] = sorted(found, key=_rank)[:max_listed]
    order = sorted(counts, key=lambda name: _rank(listed[name][0]))
    nearest = sorted((pair for found in listed.values() for pair in found), key=_rank)[:max_listed]
    return Pairs(per_splits={name: counts[name] for name in order}, nearest=nearest)


def _nearest_of(
    products: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    max_bits: int,
    limit: int | None,
) -> Iterator[Pair]:
    """The pairs of one block by distance, row and column, no more than `limit`."""
    given = 0
    for bits in range(max_bits + 1):
        at = products == _BITS - 2 * bits
        for i in np.flatnonzero(at.any(axis=1)):
            chosen = np.flatnonzero(at[i])[: None if limit is None else limit - given]
            yield from (Pair(first=int(rows[i]), second=int(columns[j]), bits=bits) for j in chosen)
            given += len(chosen)
            if limit is not None and given >= limit:
                return


def _rank(pair: Pair) -> tuple[int, int, int]:
    return pair.bits, pair.first, pair.second


def audit_near_duplicates(shard_set: ShardSet, max_images: int = MAX_IMAGES) -> dict[str, Any]:
    """How many pairs across splits are near-identical, per pair of splits, and the nearest by source path; JSON-ready.

    Of more than `max_images` rows an even share is compared, and `compared` says so.
    """
    rows = np.arange(len(shard_set))
    if len(rows) > max_images:
        rows = np.linspace(0, len(rows) - 1, max_images).round().astype(np.int64)
    chosen = shard_set.take(rows)
    hashes: list[Hashes] = []
    for batch in chosen.loader(views=["image"], batch_size=_BATCH, shuffle=False):
        images = batch["image"].permute(0, 2, 3, 1).numpy()  # (B, 3, H, W) -> (B, H, W, 3)
        hashes += [perceptual_hash(np.ascontiguousarray(image)) for image in images]
    splits, paths = (chosen.index[name].to_pylist() for name in ("split", "source_path"))
    return describe_pairs(hashes, splits, paths, of=len(shard_set))


def describe_pairs(hashes: list[Hashes], split_names: list[str], paths: list[str], *, of: int) -> dict[str, Any]:
    """The JSON-ready document; of: how many images there are, compared or not."""
    splits = np.array(split_names, dtype=np.str_)
    pairs = find_pairs(np.array(hashes, dtype=np.bool_).reshape(-1, _BITS), splits, max_listed=MAX_LISTED)
    return {
        "compared": len(paths),
        "of": of,
        "max_bits": MAX_BITS,
        "count": pairs.count,
        "per_splits": pairs.per_splits,
        "pairs": [
            {
                "bits": pair.bits,
                "paths": [str(paths[pair.first]), str(paths[pair.second])],
                "splits": [str(splits[pair.first]), str(splits[pair.second])],
            }
            for pair in pairs.nearest
        ],
    }


def duplicate_warnings(found: dict[str, Any]) -> list[str]:
    """A sentence that names the nearest pair, where there are any."""
    if not found["count"]:
        return []
    one = found["pairs"][0]
    capped = f", among {found['compared']} of {found['of']}" if found["compared"] < found["of"] else ""
    return [
        f"{found['count']} pairs of images in different splits look alike (within {found['max_bits']} of 64 bits of a "
        f"perceptual hash{capped}), such as {one['paths'][0]} ({one['splits'][0]}) and {one['paths'][1]} ({one['splits'][1]})"
    ]


def _lowest_frequencies() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the 64 lowest frequencies of a DCT but the mean, by their sum."""
    order = sorted(((u, v) for u in range(_SIDE) for v in range(_SIDE) if u + v), key=lambda at: (sum(at), at[0]))
    rows, columns = zip(*order[:_BITS], strict=True)
    return np.array(rows), np.array(columns)


_ROWS, _COLUMNS = _lowest_frequencies()
