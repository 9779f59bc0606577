"""Controls that stand beside every table: what content and container alone can tell, and a classical baseline.

An attributor that a thumbnail, a colour mean or the file format matches has learned the pipeline, not the generator.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..inputs import Batch
from .zero_shot import judge

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Features of some rows, one array (n, d) a feature."""

    labels: npt.NDArray[np.int64]  # -1: unseen
    generators: list[str]
    columns: dict[str, F32]


def log_spectrum(rgb: npt.NDArray[np.uint8]) -> F32:
    """Log power of the high-passed luma, averaged over half-overlapping 64x64 Hann windows -> (64 * 33,)."""
    luma = _luma(rgb)
    high = luma - cv2.GaussianBlur(luma, (0, 0), 1.0)
    window = np.outer(np.hanning(64), np.hanning(64)).astype(np.float32)
    tiles = np.stack([high[r : r + 64, c : c + 64] * window for r in range(0, 161, 32) for c in range(0, 161, 32)])
    power = np.mean(np.abs(np.fft.rfft2(tiles)) ** 2, axis=0)
    return np.log(power + 1e-3).astype(np.float32).ravel()


def srm_cooccurrences(rgb: npt.NDArray[np.uint8]) -> F32:
    """Co-occurrences of three neighbouring SRM residuals (Fridrich & Kodovsky 2012), quantised to -2..2 -> (1000,).

    First and second order along both axes, the 3x3 and 5x5 square kernels; roots of the frequencies.
    """
    luma = _luma(rgb)
    square3 = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]], dtype=np.float32) / 4
    square5 = (
        np.array(
            [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]],
            dtype=np.float32,
        )
        / 12
    )
    first = np.array([[0, -1, 1]], dtype=np.float32)
    second = np.array([[1, -2, 1]], dtype=np.float32) / 2
    counts = []
    for kernel in (first, first.T, second, second.T, square3, square5):
        residual = cv2.filter2D(luma, -1, kernel)[3:-3, 3:-3]
        levels = np.clip(np.rint(residual / 1.5), -2, 2).astype(np.int64) + 2
        along = 25 * levels[:, :-2] + 5 * levels[:, 1:-1] + levels[:, 2:]
        across = 25 * levels[:-2] + 5 * levels[1:-1] + levels[2:]
        pairs = (along,) if kernel.shape[0] == 1 else (across,) if kernel.shape[1] == 1 else (along, across)
        counts += [np.bincount(codes.ravel(), minlength=125) / codes.size for codes in pairs]
    return np.sqrt(np.concatenate(counts)).astype(np.float32)


def thumbnail(rgb: npt.NDArray[np.uint8]) -> F32:
    """32x32 area means -> (3072,)."""
    return np.asarray(cv2.resize(rgb, (32, 32), interpolation=cv2.INTER_AREA), dtype=np.float32).ravel()


def blurred(rgb: npt.NDArray[np.uint8]) -> F32:
    """Gaussian of sigma 4, every 7th pixel (nothing is lost: it is below Nyquist) -> (3072,)."""
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 4.0)[3::7, 3::7], dtype=np.float32).ravel()


def color_means(rgb: npt.NDArray[np.uint8]) -> F32:
    return rgb.mean(axis=(0, 1)).astype(np.float32)


def _luma(rgb: npt.NDArray[np.uint8]) -> F32:
    return np.asarray(rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32), dtype=np.float32)


TRACE_FEATURES = {"log-spectrum": log_spectrum, "SRM co-occurrences": srm_cooccurrences}
CONTENT_FEATURES = {"32x32 thumbnail": thumbnail, "blurred, sigma 4": blurred, "colour means": color_means}


def linear_probe() -> LogisticRegression:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.003, tol=1e-3, max_iter=2000))


CLASSIFIERS = {
    "nearest centre": lambda: make_pipeline(StandardScaler(), NearestCentroid()),
    "logistic": linear_probe,
    "1-NN": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
    "boosted trees": lambda: HistGradientBoostingClassifier(max_iter=60, random_state=0),
}
LEAK_CLASSIFIERS = ("nearest centre", "logistic", "1-NN")


def extract(batches: Iterable[Batch], containers: dict[str, tuple[float, ...]]) -> Rows:
    """Features of every row. containers: key -> native width, height, format number, JPEG quality (source_* of the index)."""
    labels: list[int] = []
    generators: list[str] = []
    columns: dict[str, list[F32]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in batches:
            images = np.ascontiguousarray(batch["image"].permute(0, 2, 3, 1).numpy())  # (B, 3, H, W) -> (B, H, W, 3)
            labels += batch["label"].tolist()
            generators += batch["generator"]
            for i, found in enumerate(pool.map(_image_features, images)):
                if "parsing" in batch:
                    found["label-map areas"] = _areas(batch["parsing"][i].numpy())
                found["native size and format"] = np.array(containers[batch["key"][i]], dtype=np.float32)
                for name, values in found.items():
                    columns.setdefault(name, []).append(values)
    return Rows(
        labels=np.array(labels, dtype=np.int64),
        generators=generators,
        columns={name: np.stack(values) for name, values in columns.items()},
    )


def _image_features(rgb: npt.NDArray[np.uint8]) -> dict[str, F32]:
    return {name: make(rgb) for name, make in (TRACE_FEATURES | CONTENT_FEATURES).items()}


def control_tables(train: Rows, seen: Rows, unseen: Rows, *, num_classes: int, seed: int = 0) -> dict[str, Any]:
    """leaks: content feature -> classifier -> accuracy on seen test rows; classical: probe -> accuracy and unseen AUROC.

    Also the best leak, chance, the majority guess, and the probe trained on shuffled labels, which must give chance.
    """
    leaks = {
        feature: {
            name: _accuracy(_fit(CLASSIFIERS[name](), train.columns[feature], train.labels), seen, feature)
            for name in LEAK_CLASSIFIERS
        }
        for feature in _leaks(train)
    }
    classical: dict[str, Any] = {}
    for feature in TRACE_FEATURES:
        model = linear_probe().fit(train.columns[feature], train.labels)
        classical[feature] = {"accuracy": _accuracy(model, seen, feature), **_probe_auroc(model, seen, unseen, feature)}
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(train.labels)
    feature = "SRM co-occurrences"
    flat = [(value, f"{name}, {kind}") for name, row in leaks.items() for kind, value in row.items()]
    best, where = max(flat)
    return {
        "leaks": leaks,
        "best_leak": {"accuracy": best, "control": where},
        "classical": classical,
        "shuffled_labels": _accuracy(linear_probe().fit(train.columns[feature], shuffled), seen, feature),
        "chance": 1.0 / num_classes,
        "majority": float(np.bincount(seen.labels, minlength=num_classes).max() / len(seen.labels)),
    }


def level_controls(
    train: Rows, seen: Rows, unseen: Rows, truths: Mapping[str, Mapping[str, str]]
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
    for level, truth in truths.items():
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


def _areas(labels: npt.NDArray[np.uint8]) -> F32:
    return (np.bincount(labels.ravel(), minlength=19) / labels.size).astype(np.float32)
