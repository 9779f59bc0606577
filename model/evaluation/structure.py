"""What the embedding knows of sources it was never trained on: do their images lie together, and is an image's nearest neighbour,
of another person, from the same source?

Legend: N rows, U sources, D embedding dimension.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from .case import Case
from .predictions import IDENTITY_JOIN, Floats, Labels, Mask, Predictions
from .resampling import represented
from .result import Cell, Column, Figure, Section, Table
from .scores import unit

ROWS = 2_000  # unseen rows at most, alike from every source
LEAST = 3  # rows of a source that is clustered and retrieved
SEED = 0


def structure_section(case: Case) -> Section:
    rows = case.unseen.where(represented(case.unseen, ROWS)) if len(case.unseen) else case.unseen
    sizes = np.bincount(rows.codes, minlength=len(rows.sources)) if len(rows) else np.zeros(0, dtype=np.int64)
    kept = [name for name, size in zip(rows.sources, sizes, strict=True) if size >= LEAST]
    if len(kept) < 2 or not rows.features.shape[1]:
        reason = f"{len(kept)} unseen sources of {LEAST} images or more: nothing to tell apart"
        return Section(document={"structure": {"reason": reason}})
    rows = rows.where(np.isin(rows.codes, [rows.sources.index(name) for name in kept]))
    features = unit(rows.features.astype(np.float64))
    found: dict[str, Any] = {"n": len(rows), "of": len(case.unseen), "sources": len(kept), "reason": ""}
    found |= {"clusters": clusters(features, rows.codes), "retrieval": retrieval(features, rows)}
    return Section(document={"structure": found}, tables=(_table(found),))


def clusters(features: Floats, codes: Labels) -> dict[str, Any]:
    """k-means of unit embeddings into as many clusters as there are sources, and into as many as the silhouette suggests."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    count = len(np.unique(codes))
    found = {}
    guessed = guess_count(features, 2 * count)
    for name, clusters_wanted in (("known", count), ("guessed", guessed)):
        given = _k_means(features, clusters_wanted)
        found[name] = {
            "clusters": clusters_wanted,
            "hungarian_accuracy": hungarian_accuracy(codes, given),
            "nmi": float(normalized_mutual_info_score(codes, given)),
            "ari": float(adjusted_rand_score(codes, given)),
        }
    found["chance"] = {"hungarian_accuracy": _chance(codes)}
    return found


def guess_count(features: Floats, most: int) -> int:
    """The number of clusters with the highest silhouette, from 2 to `most`. A guess: it has no interval."""
    from sklearn.metrics import silhouette_score

    few = features[:: max(1, len(features) // 600)]
    tried = {}
    for count in range(2, min(most, len(few) - 1) + 1):
        given = _k_means(few, count)
        tried[count] = silhouette_score(few, given) if 1 < len(np.unique(given)) < len(few) else -1.0
    return max(tried, key=lambda count: tried[count])


def hungarian_accuracy(true: Labels, given: Labels) -> float:
    """The share of rows in the cluster that their source is matched with, at the best one-to-one matching."""
    table = np.zeros((true.max() + 1, given.max() + 1), dtype=np.int64)
    np.add.at(table, (true, given), 1)
    matched = linear_sum_assignment(-table)
    return float(table[matched].sum() / len(true))


def retrieval(features: Floats, rows: Predictions) -> dict[str, Any]:
    """Rank-1 and mAP of each image among those of other identities, the EER of telling pairs of one source from pairs of two,
    and, as a control of bias, the EER of telling one person from two where the sources differ."""
    similarity = features @ features.T
    same_source = rows.codes[:, None] == rows.codes[None, :]
    same_person = shared_identities(rows)
    gallery = ~same_person
    has_answer = (same_source & gallery).any(axis=1)
    hits, precisions = [], []
    for row in np.flatnonzero(has_answer):
        order = np.flatnonzero(gallery[row])
        order = order[np.argsort(-similarity[row, order], kind="stable")]
        right = same_source[row, order]
        hits.append(bool(right[0]))
        places = np.flatnonzero(right)
        precisions.append(float((np.arange(1, len(places) + 1) / (places + 1)).mean()))
    upper = np.triu(np.ones_like(same_source), 1)
    pairs = upper & gallery
    found: dict[str, Any] = {
        "n": int(has_answer.sum()),
        "rank1": float(np.mean(hits)) if hits else None,
        "map": float(np.mean(precisions)) if precisions else None,
        "chance_rank1": float((same_source & gallery).sum() / max(1, gallery.sum())),
        "verification_eer": equal_error_rate(similarity[pairs & same_source], similarity[pairs & ~same_source]),
    }
    across = upper & ~same_source
    found["identity_eer"] = equal_error_rate(similarity[across & same_person], similarity[across & ~same_person])
    return found


def shared_identities(rows: Predictions) -> Mask:
    """Whether two rows show one person: groups share an identity (N, N). Without groups nobody is known to be shown twice."""
    if not rows.groups:
        return np.eye(len(rows), dtype=bool)
    pairs = [[name for name in group.split(IDENTITY_JOIN) if name] for group in rows.groups]
    names = {name: place for place, name in enumerate(sorted({name for pair in pairs for name in pair}))}
    member: npt.NDArray[np.float32] = np.zeros((len(rows), len(names)), dtype=np.float32)
    for row, pair in enumerate(pairs):
        member[row, [names[name] for name in pair]] = 1.0
    shared: Mask = (member @ member.T) > 0
    np.fill_diagonal(shared, val=True)
    return shared


def equal_error_rate(positives: Floats, negatives: Floats) -> float | None:
    """Where the shares of rejected positives and accepted negatives meet; None where either is empty."""
    if not len(positives) or not len(negatives):
        return None
    positives, negatives = np.sort(positives), np.sort(negatives)
    values = np.unique(np.concatenate([positives, negatives]))
    values = values[:: max(1, len(values) // 20_000)]
    rejected = np.searchsorted(positives, values, side="left") / len(positives)
    accepted = 1.0 - np.searchsorted(negatives, values, side="left") / len(negatives)
    place = int(np.abs(rejected - accepted).argmin())
    return float((rejected[place] + accepted[place]) / 2)


def _k_means(features: Floats, count: int) -> Labels:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # of scikit-learn

    count = min(count, len(np.unique(features, axis=0)))
    if count < 2:  # embeddings that are all the same
        return np.zeros(len(features), dtype=np.int64)
    with threadpool_limits(1):  # the same sums in the same order, whatever the machine
        return np.asarray(KMeans(count, n_init=4, random_state=SEED).fit_predict(features), dtype=np.int64)


def _chance(codes: Labels) -> float:
    """Hungarian accuracy of the same labels in a random order, mean of 20."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    return float(np.mean([hungarian_accuracy(codes, generator.permutation(codes)) for _ in range(20)]))


def _table(found: dict[str, Any]) -> Table:
    known, guessed, chance = (found["clusters"][name] for name in ("known", "guessed", "chance"))
    near = found["retrieval"]
    columns = (
        Column(title="structure of unseen sources", width=44),
        Column(title="value", width=8, unit="score"),
        Column(title="beside", width=0, gap=2),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            f"{known['clusters']} clusters, Hungarian accuracy",
            Figure(known["hungarian_accuracy"], n=found["n"]),
            f"chance {chance['hungarian_accuracy']:.3f}",
        ),
        (f"{known['clusters']} clusters, NMI and ARI", Figure(known["nmi"]), f"ARI {known['ari']:.3f}"),
        (
            f"{guessed['clusters']} clusters (guessed), Hungarian accuracy",
            Figure(guessed["hungarian_accuracy"]),
            f"NMI {guessed['nmi']:.3f}, ARI {guessed['ari']:.3f}; a number of clusters is a guess without an interval",
        ),
        (
            "Rank-1, gallery of other identities",
            Figure(near["rank1"], n=near["n"]),
            f"chance {near['chance_rank1']:.3f}",
        ),
        ("mAP", Figure(near["map"], n=near["n"]), ""),
        ("verification EER, same source or not", Figure(near["verification_eer"]), "chance 0.500"),
        ("identity EER, same person or not (bias)", Figure(near["identity_eer"]), "0.500 knows nothing of the person"),
    ]
    notes = [f"{found['n']} of {found['of']} unseen images of {found['sources']} sources; unit embeddings, cosine"]
    return Table(
        name="structure", title="Structure of unseen sources", columns=columns, rows=tuple(rows), notes=tuple(notes)
    )
