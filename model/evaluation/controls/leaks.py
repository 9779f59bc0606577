"""Controls that stand beside every table: what content and container alone can tell, and a classical baseline.

An attributor that a thumbnail, a colour mean or the file format matches has learned the pipeline, not the generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ...traces import F32, TRACE_FEATURES
from ..case import Track, untracked
from ..question import judge
from .features import CONTENT_FEATURES, LEAK_CLASSIFIERS, Rows


def linear_probe() -> LogisticRegression:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.003, tol=1e-3, max_iter=2000))


CLASSIFIERS = {
    "nearest centre": lambda: make_pipeline(StandardScaler(), NearestCentroid()),
    "logistic": linear_probe,
    "1-NN": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
    "boosted trees": lambda: HistGradientBoostingClassifier(max_iter=60, random_state=0),
}
QUICK_CLASSIFIERS = ("nearest centre", "logistic")


def control_tables(
    train: Rows, seen: Rows, unseen: Rows, *, num_classes: int, seed: int = 0, track: Track = untracked
) -> dict[str, Any]:
    """leaks: content feature -> classifier -> accuracy on seen test rows; classical: probe -> accuracy and unseen AUROC.

    Also the best leak, chance, the majority guess, and the probe trained on shuffled labels, which must give chance.
    """
    leaks = _leak_accuracies(train, seen, LEAK_CLASSIFIERS, track)
    classical: dict[str, Any] = {}
    for feature in track(tuple(TRACE_FEATURES), "fitting the classical baseline"):
        model = linear_probe().fit(train.columns[feature], train.labels)
        classical[feature] = {"accuracy": _accuracy(model, seen, feature), **_probe_auroc(model, seen, unseen, feature)}
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(train.labels)
    feature = "SRM co-occurrences"
    return {
        "leaks": leaks,
        "best_leak": _best_of(leaks),
        "classical": classical,
        "shuffled_labels": _accuracy(linear_probe().fit(train.columns[feature], shuffled), seen, feature),
        "chance": 1.0 / num_classes,
        "majority": float(np.bincount(seen.labels, minlength=num_classes).max() / len(seen.labels)),
    }


def best_leak(train: Rows, judged: Rows) -> dict[str, Any]:
    """accuracy and control of the best of the quick leak classifiers, on the content features that the rows have."""
    return _best_of(_leak_accuracies(train, judged, QUICK_CLASSIFIERS))


def _leak_accuracies(
    train: Rows, judged: Rows, classifiers: Sequence[str], track: Track = untracked
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {feature: {} for feature in _leaks(train)}
    for feature, name in track([(feature, name) for feature in found for name in classifiers], "fitting leak controls"):
        model = _fit(CLASSIFIERS[name](), train.columns[feature], train.labels)
        found[feature][name] = _accuracy(model, judged, feature)
    return found


def _best_of(leaks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    best, where = max((value, f"{name}, {kind}") for name, row in leaks.items() for kind, value in row.items())
    return {"accuracy": best, "control": where}


def level_controls(
    train: Rows,
    seen: Rows,
    unseen: Rows,
    truths: Mapping[str, Mapping[str, str]],
    *,
    track: Track = untracked,
) -> dict[str, dict[str, Any]]:
    """content and probe -> level -> the facts of `zero_shot.ask`, of classifiers trained for that question alone.

    truths: level -> source -> its answer, empty where unknown. content: features of content and container; probe: the
    classical baseline. Of each the best classifier stands there, named by `control`: chosen by the rows it is judged
    on, so rather too high than too low.
    """
    pairs = {
        "content": [(feature, name) for feature in _leaks(train) for name in LEAK_CLASSIFIERS],
        "probe": [(feature, "logistic") for feature in TRACE_FEATURES],
    }
    tables: dict[str, dict[str, Any]] = {way: {} for way in pairs}
    for level, truth in track(tuple(truths.items()), "fitting zero-shot controls"):
        true = np.array([truth.get(name, "") for name in train.generators])
        kept = true != ""
        candidates = list(dict.fromkeys(true[kept].tolist()))
        if len(candidates) < 2:
            continue
        for way in pairs:
            models = {
                (feature, name): _fit(CLASSIFIERS[name](), train.columns[feature][kept], true[kept])
                for feature, name in pairs[way]
            }
            tables[way][level] = {
                "candidates": candidates,
                "chance": 1.0 / len(candidates),
                "seen": _best(models, seen, truth, candidates),
                "unseen": _best(models, unseen, truth, candidates),
            }
    return tables


def _best(
    models: Mapping[tuple[str, str], Any], rows: Rows, truth: Mapping[str, str], candidates: list[str]
) -> dict[str, Any] | None:
    if not rows.generators:
        return None
    judged = [
        judge(model.predict(rows.columns[feature]), rows.generators, truth=truth, candidates=candidates)
        | {"control": f"{feature}, {name}"}
        for (feature, name), model in models.items()
    ]
    return max(judged, key=lambda facts: facts["accuracy"] or 0.0)


def _leaks(rows: Rows) -> list[str]:
    return [name for name in (*CONTENT_FEATURES, "label-map areas", "native size and format") if name in rows.columns]


def _fit(model: Any, values: F32, labels: npt.NDArray[Any]) -> Any:
    """A feature that is the same for every row tells nothing: the classifier then guesses the commonest class."""
    if not np.ptp(values, axis=0).any():  # a standard deviation in float32 is not 0 where it should be
        model = DummyClassifier(strategy="most_frequent")
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # Images of a source may well share their size and format; NearestCentroid's deviations, then 0, are not used.
        warnings.filterwarnings("ignore", "self.within_class_std_dev_ has at least 1 zero", UserWarning)
        return model.fit(values, labels)


def _accuracy(model: Any, rows: Rows, feature: str) -> float:
    return float((model.predict(rows.columns[feature]) == rows.labels).mean())


def _probe_auroc(model: Any, seen: Rows, unseen: Rows, feature: str) -> dict[str, Any]:
    if not len(unseen.labels):
        return {"auroc": None, "per_generator": None}
    high = model.predict_proba(seen.columns[feature]).max(axis=1)
    low = model.predict_proba(unseen.columns[feature]).max(axis=1)
    names = np.array(unseen.generators)
    per_generator = {}
    for name in sorted(set(unseen.generators)):
        chosen = low[names == name]
        truth = np.concatenate([np.ones(len(high)), np.zeros(len(chosen))])
        per_generator[name] = float(roc_auc_score(truth, np.concatenate([high, chosen])))
    return {"auroc": float(np.mean(list(per_generator.values()))), "per_generator": per_generator}
