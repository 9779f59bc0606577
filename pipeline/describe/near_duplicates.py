"""Near-identical images in different splits, by a perceptual hash of the stored images. Reported, never a failure.

The hash is DCT-based: of the gray image reduced to 32x32, the 64 lowest frequencies after the mean, each a bit that says
whether it lies above their median (Zauner 2010 takes the 8x8 lowest, the mean among them).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..shardset import ShardSet
from ..sources.rows import SPLITS

# Of 2.6 million pairs of distinct photographs and StyleGAN faces none came within 4 bits, 2 within 6 and 142 within 10,
# while 98.7 % of copies changed by JPEG, resizing, brightness or contrast did (docs/decisions.md).
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


def find_pairs(hashes: Hashes, splits: npt.NDArray[np.str_], max_bits: int = MAX_BITS) -> list[Pair]:
    """Every pair of different splits within `max_bits`, nearest first. hashes (N, 64), splits (N,).

    The distance of two sign vectors is (64 - their product) / 2, so one matrix product compares a block with a split.
    """
    signs = np.where(hashes, np.float32(1), np.float32(-1))
    members = {split: np.flatnonzero(splits == split) for split in SPLITS}
    pairs = []
    for one, other in combinations(SPLITS, 2):
        right = signs[members[other]].T
        for start in range(0, len(members[one]), _BLOCK):
            rows = members[one][start : start + _BLOCK]
            products = signs[rows] @ right  # (block, other split), exact in float32
            for i, j in np.argwhere(products >= _BITS - 2 * max_bits):
                bits = (_BITS - int(products[i, j])) // 2
                pairs.append(Pair(first=int(rows[i]), second=int(members[other][j]), bits=bits))
    return sorted(pairs, key=lambda pair: (pair.bits, pair.first, pair.second))


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
    splits, paths = (np.array(chosen.index[name].to_pylist(), dtype=np.str_) for name in ("split", "source_path"))
    pairs = find_pairs(np.array(hashes, dtype=np.bool_).reshape(-1, _BITS), splits)
    per_splits: dict[str, int] = {}
    for pair in pairs:
        name = f"{splits[pair.first]}/{splits[pair.second]}"
        per_splits[name] = per_splits.get(name, 0) + 1
    return {
        "compared": len(rows),
        "of": len(shard_set),
        "max_bits": MAX_BITS,
        "count": len(pairs),
        "per_splits": per_splits,
        "pairs": [
            {
                "bits": pair.bits,
                "paths": [str(paths[pair.first]), str(paths[pair.second])],
                "splits": [str(splits[pair.first]), str(splits[pair.second])],
            }
            for pair in pairs[:MAX_LISTED]
        ],
    }


def _lowest_frequencies() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the 64 lowest frequencies of a DCT but the mean, by their sum."""
    order = sorted(((u, v) for u in range(_SIDE) for v in range(_SIDE) if u + v), key=lambda at: (sum(at), at[0]))
    rows, columns = zip(*order[:_BITS], strict=True)
    return np.array(rows), np.array(columns)


_ROWS, _COLUMNS = _lowest_frequencies()
