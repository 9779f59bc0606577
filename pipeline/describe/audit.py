"""The leak audit: do container, colour or alignment tell the sources apart without a look at any trace?

A small forest per attribute, cross-validated so that no identity is in a training and a test fold, beside chance and a
run on shuffled labels. What it finds is a warning, never a failure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from sklearn.ensemble import ExtraTreesClassifier

from ..shardset import ShardSet
from .audit_features import F64, AuditRows, measure, summarise
from .near_duplicates import audit_near_duplicates, duplicate_warnings

NUM_FOLDS = 4
MIN_GROUPS = 8  # tested identities or videos of a source, all folds together; sources with fewer are left out
# An attribute whose balanced accuracy is this far above chance and above shuffled labels tells the sources apart.
LEAK_MARGIN = 0.10
LITTLE_FACE = 0.10  # share of the image
LITTLE_FACE_ROWS = 0.10  # share of a source's rows
UNALIGNED = 12.0  # pixels of 224: deviation of the eyes' centre over a source's rows
ENLARGED_ROWS = 0.10


def audit(shard_set: ShardSet) -> dict[str, Any]:
    """One JSON-ready document: per source what was measured, what tells them apart, near-identical images, warnings."""
    rows = measure(shard_set)
    found: dict[str, Any] = {
        "rows": len(rows.sources),
        "sources": summarise(rows),
        "tells_apart": tells_apart(rows),
        "near_duplicates": audit_near_duplicates(shard_set),
        "shared_groups": shared_groups(shard_set),
    }
    found["warnings"] = [
        *_leak_warnings(found["tells_apart"]),
        *_picture_warnings(rows),
        *duplicate_warnings(found["near_duplicates"]),
    ]
    return found


def shared_groups(shard_set: ShardSet) -> dict[str, int]:
    """Identities, videos or (of a folder) file stems that stand in more than one split, and how many there are."""
    splits: dict[str, set[str]] = {}
    for group, split in zip(*(shard_set.index[name].to_pylist() for name in ("group", "split")), strict=True):
        for one in group.split("+"):
            splits.setdefault(one, set()).add(split)
    return {"count": sum(len(found) > 1 for found in splits.values()), "of": len(splits)}


def tells_apart(rows: AuditRows) -> dict[str, Any]:
    """Per attribute: balanced accuracy of naming the source by it alone, of the same on shuffled labels, and chance."""
    folds = assign_folds(rows.groups)
    groups = _tested_groups(rows, folds)
    names = [name for name, number in groups.items() if number >= MIN_GROUPS]
    left_out = [name for name in groups if name not in names]
    document: dict[str, Any] = {
        "folds": NUM_FOLDS,
        "chance": None,
        "margin": None,
        "left_out": left_out,
        "attributes": {},
    }
    if len(names) < 2:
        return document
    kept = np.isin(rows.sources, names)
    labels = np.searchsorted(np.array(names), rows.sources[kept])
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(labels)
    chance = 1 / len(names)
    document |= {"chance": chance, "margin": _margin(np.array([groups[name] for name in names]), chance)}
    for name, values in _attributes(rows).items():
        chosen, constant = values[kept], bool((values[kept] == values[kept][0]).all())
        recalls = np.full(len(names), chance) if constant else _recalls(chosen, labels, folds[kept])
        control = chance if constant else float(_recalls(chosen, shuffled, folds[kept]).mean())
        document["attributes"][name] = {
            "accuracy": float(recalls.mean()),
            "shuffled_labels": control,
            "constant": constant,
            "per_source": dict(zip(names, recalls.tolist(), strict=True)),
        }
    return document


def assign_folds(groups: list[str]) -> npt.NDArray[np.bool_]:
    """(N, NUM_FOLDS): the folds that a row's identities are in; identities are dealt out evenly, in hash order."""
    identities = sorted({one for group in groups for one in group.split("+")}, key=_hash)
    fold_of = {identity: number % NUM_FOLDS for number, identity in enumerate(identities)}
    folds = np.zeros((len(groups), NUM_FOLDS), dtype=np.bool_)
    for row, group in enumerate(groups):
        folds[row, [fold_of[one] for one in group.split("+")]] = True
    return folds


def _attributes(rows: AuditRows) -> dict[str, F64]:
    """Name -> (N, d)."""
    formats = sorted(set(rows.formats.tolist()))
    found = {
        "native size and resize factor": rows.sizes,
        "file format": np.column_stack([rows.formats == name for name in formats]).astype(np.float64),
        "JPEG quality": rows.qualities[:, None],
        "colour means": rows.colours,
    }
    if rows.alignment is not None:
        found["alignment of face, eyes and mouth"] = rows.alignment
    return {**found, "all of them together": np.column_stack(list(found.values()))}


def _recalls(values: F64, labels: npt.NDArray[np.int64], folds: npt.NDArray[np.bool_]) -> F64:
    """(K,): share of each class's tested rows that are named right; a row of two folds (a swap) is trained on only."""
    right, tested = np.zeros(labels.max() + 1), np.zeros(labels.max() + 1)
    for fold in range(NUM_FOLDS):
        train, test = ~folds[:, fold], folds[:, fold] & (folds.sum(axis=1) == 1)
        if not test.any() or len(np.unique(labels[train])) < 2:
            continue
        forest = ExtraTreesClassifier(n_estimators=20, max_depth=8, min_samples_leaf=3, random_state=0)
        weights = 1 / np.bincount(labels[train], minlength=len(right))[labels[train]]  # every source counts the same
        forest.fit(values[train], labels[train], sample_weight=weights)
        hits = forest.predict(values[test]) == labels[test]
        right += np.bincount(labels[test], weights=hits, minlength=len(right))
        tested += np.bincount(labels[test], minlength=len(right))
    return np.asarray(right / np.maximum(tested, 1))


def _tested_groups(rows: AuditRows, folds: npt.NDArray[np.bool_]) -> dict[str, int]:
    """source -> identities or videos that are tested: frames of one video are one observation."""
    groups: dict[str, set[str]] = {source: set() for source in sorted(set(rows.sources.tolist()))}
    for source, group, number in zip(rows.sources.tolist(), rows.groups, folds.sum(axis=1), strict=True):
        if number == 1:
            groups[source].add(group)
    return {source: len(found) for source, found in groups.items()}


def _margin(groups: npt.NDArray[np.int64], chance: float) -> float:
    """LEAK_MARGIN, or four standard errors of guessing where there are too few identities for it. groups (K,)."""
    return max(LEAK_MARGIN, 4 * float(np.sqrt((chance * (1 - chance) / groups).sum())) / len(groups))


def _leak_warnings(found: dict[str, Any]) -> list[str]:
    warnings = []
    attributes, chance = found["attributes"], found["chance"]
    telling = [
        name
        for name, facts in attributes.items()
        if facts["accuracy"] > max(chance, facts["shuffled_labels"]) + found["margin"]
    ]
    if len(telling) > 1 and "all of them together" in telling:
        telling.remove("all of them together")  # it adds nothing to what is said of one of them
    for name in telling:
        facts = attributes[name]
        best = sorted(facts["per_source"].items(), key=lambda item: (-item[1], item[0]))[:3]
        warnings.append(
            f"{name}: by that alone the sources are told apart, {facts['accuracy']:.0%} right on held-out identities, chance "
            f"{chance:.0%}, shuffled labels {facts['shuffled_labels']:.0%}; most easily "
            f"{', '.join(f'{source} {share:.0%}' for source, share in best)}. An attributor may learn the pipeline, "
            "not the generator"
        )
    return warnings


def _picture_warnings(rows: AuditRows) -> list[str]:
    """Sources that were enlarged, show little face, or are not aligned."""
    enlarged, little, unaligned = [], [], []
    for source in sorted(set(rows.sources.tolist())):
        at = rows.sources == source
        factors = rows.sizes[at, 2]
        if (factors < 1).mean() > ENLARGED_ROWS:
            enlarged.append(f"{source} (short side {int(rows.sizes[at, :2].min(axis=1).min())} pixels)")
        if rows.face is None or rows.alignment is None:
            continue
        share = float((rows.face[at] < LITTLE_FACE).mean())
        if share > LITTLE_FACE_ROWS:
            little.append(f"{source} ({share:.0%} of its images)")
        eyes = rows.alignment[at, 4:6]
        eyes = eyes[eyes[:, 0] >= 0]
        if len(eyes) >= MIN_GROUPS and (deviation := float(eyes.std(axis=0).max())) > UNALIGNED:
            unaligned.append(f"{source} ({deviation:.0f} pixels of 224)")
    found = (
        (enlarged, "images were enlarged to 224, so edge and noise show interpolation, not what the generator left"),
        (little, f"little face is found in the parsing (less than {LITTLE_FACE:.0%} of the image)"),
        (unaligned, "faces are not aligned: the eyes' centre deviates over the images"),
    )
    return [f"{what}: {', '.join(sources)}" for sources, what in found if sources]


def _hash(identity: str) -> int:
    return xxhash.xxh3_64_intdigest(identity.encode())
