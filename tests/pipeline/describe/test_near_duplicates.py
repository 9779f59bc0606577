"""The perceptual hash and the pairs it finds, against a plain loop and real edits."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageEnhance
from support import picture

from bmrl.pipeline.describe.near_duplicates import MAX_BITS, Pair, audit_near_duplicates, find_pairs, perceptual_hash
from bmrl.pipeline.shardset import ShardSet


def distance(one: np.ndarray, other: np.ndarray) -> int:
    return int((perceptual_hash(one) != perceptual_hash(other)).sum())


def test_the_hash_is_the_lowest_64_frequencies_but_the_mean() -> None:
    image = picture(3, 224)
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA).astype(
        np.float64
    )
    u = np.arange(32)
    basis = np.cos(np.pi * np.outer(u, 2 * u + 1) / 64) * np.sqrt(2 / 32)  # row 0 is scaled below
    basis[0] /= np.sqrt(2)
    spectrum = basis @ gray @ basis.T
    chosen = [spectrum[i, total - i] for total in range(1, 11) for i in range(total + 1)][:64]
    assert perceptual_hash(image).tolist() == (np.array(chosen) > np.median(chosen)).tolist()


def test_pairs_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.random((300, 64)) < 0.5
    splits = np.array(["train", "val", "test"])[rng.integers(0, 3, 300)]
    for copy, original, flips in ((10, 20, 0), (30, 40, 3), (50, 60, 4), (70, 80, 5), (90, 91, 1)):
        hashes[copy] = hashes[original]
        hashes[copy, :flips] ^= True
        splits[copy], splits[original] = "train", "test"
    splits[90] = splits[91] = "val"
    expected = [
        (bits, tuple(sorted((i, j))))
        for i in range(300)
        for j in range(i + 1, 300)
        if splits[i] != splits[j] and (bits := int((hashes[i] != hashes[j]).sum())) <= MAX_BITS
    ]
    assert [bits for bits, _ in sorted(expected)] == [0, 3, 4]
    found = find_pairs(hashes, splits).nearest
    assert [(pair.bits, tuple(sorted((pair.first, pair.second)))) for pair in found] == sorted(expected)
    assert all((splits[pair.first], splits[pair.second]) == ("train", "test") for pair in found)
    assert find_pairs(hashes[:1], splits[:1]).nearest == []


def test_copies_among_ten_thousand_hashes() -> None:
    hashes = np.random.default_rng(1).random((10_000, 64)) < 0.5
    splits = np.array(["train"] * 7_000 + ["val"] * 1_500 + ["test"] * 1_500)
    hashes[9_999], hashes[7_000] = hashes[0], hashes[1]
    assert find_pairs(hashes, splits).nearest == [
        Pair(first=0, second=9_999, bits=0),
        Pair(first=1, second=7_000, bits=0),
    ]


def test_what_is_listed_are_the_nearest_and_all_are_counted() -> None:
    rng = np.random.default_rng(2)
    hashes = np.repeat(rng.random((12, 64)) < 0.5, 20, axis=0)
    for row in hashes:
        row[rng.integers(0, 64, rng.integers(0, 3))] ^= True
    splits = np.array(["train", "val", "test"])[rng.integers(0, 3, len(hashes))]
    everything = find_pairs(hashes, splits)
    assert everything.count == len(everything.nearest) > 300
    per_splits: dict[str, int] = {}
    for pair in everything.nearest:
        name = f"{splits[pair.first]}/{splits[pair.second]}"
        per_splits[name] = per_splits.get(name, 0) + 1
    for limit in (1, 7, 20, 200):
        some = find_pairs(hashes, splits, max_listed=limit)
        assert some.nearest == everything.nearest[:limit]
        assert list(some.per_splits.items()) == list(per_splits.items()) == list(everything.per_splits.items())


def test_memory_is_bounded_where_all_images_are_equal() -> None:
    hashes = np.zeros((20_000, 64), dtype=np.bool_)
    splits = np.array(["train"] * 12_000 + ["val"] * 4_000 + ["test"] * 4_000)
    tracemalloc.start()
    found = find_pairs(hashes, splits, max_listed=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.count == 12_000 * 8_000 + 4_000 * 4_000
    assert [(pair.first, pair.second) for pair in found.nearest] == [(0, 12_000 + n) for n in range(20)]
    assert peak < 60e6  # of one pair an object, it would be tens of gigabytes


def test_edits_stay_within_the_limit_and_other_photographs_do_not(photographs: list[Path]) -> None:
    for number, path in enumerate(photographs):
        image = Image.open(path).convert("RGB").resize((224, 224))
        stream = io.BytesIO()
        image.resize((160, 160)).save(stream, "JPEG", quality=60)
        edits = [Image.open(stream).convert("RGB").resize((224, 224)), ImageEnhance.Contrast(image).enhance(1.1)]
        for edit in edits:
            assert distance(np.asarray(image), np.asarray(edit)) <= MAX_BITS, path.name
        for other in photographs[number + 1 :]:
            photograph = Image.open(other).convert("RGB").resize((224, 224))
            assert distance(np.asarray(image), np.asarray(photograph)) > MAX_BITS, (path.name, other.name)


def test_a_large_set_is_sampled_and_says_so(small_set: ShardSet) -> None:
    found = audit_near_duplicates(small_set, max_images=20)
    assert (found["compared"], found["of"]) == (20, 50)
    assert audit_near_duplicates(small_set)["compared"] == 50
