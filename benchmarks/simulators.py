"""The simulators of `demo`: how separable their traces are to a linear probe, and whether anything but traces tells them.

    python benchmarks/simulators.py --out benchmarks/results/simulators.md

Fixes the range of T once, by the linear probe alone (no attributor of this project is involved), and runs the leak checks.
Everything is drawn in memory with the generators that `draw_demo` uses; about 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import sklearn
import torch
from machine import commit, cpu
from sklearn.metrics import roc_auc_score

from bmrl.model.evaluation.controls.features import CONTENT_FEATURES
from bmrl.model.evaluation.controls.leaks import CLASSIFIERS, linear_probe
from bmrl.model.traces import F32, TRACE_FEATURES
from bmrl.pipeline.demo.camera import IMAGE_SIZE, photograph
from bmrl.pipeline.demo.draw import derange, reduce_labels
from bmrl.pipeline.demo.faces import draw_face, identity_split
from bmrl.pipeline.demo.finishes import stable_rng
from bmrl.pipeline.demo.simulators import SEEN, SIMULATORS, TRACE_RMS, UNSEEN, simulate

RANGES = (TRACE_RMS, (2.0, 4.5), (1.0, 3.0))  # gray levels; the first is the frozen one


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a classifier may look at, one row an image."""

    source: npt.NDArray[np.str_]  # (n,)
    columns: dict[str, F32]  # name -> (n, d)


def draw_inputs(split: str, num: int) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """The real images and label maps of a split, as draw_demo makes them with seed 0."""
    inputs = []
    for identity in identity_split(split, num):
        face = draw_face(identity)
        inputs.append((photograph(face.rgb, stable_rng("camera", 0, identity)), reduce_labels(face.labels, IMAGE_SIZE)))
    return inputs


def compute_features(
    inputs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]],
    split: str,
    sources: tuple[str, ...],
    trace_rms: tuple[float, float],
    extractors: dict[str, Callable[[npt.NDArray[np.uint8]], F32]],
) -> Features:
    names: list[str] = []
    columns: dict[str, list[F32]] = {name: [] for name in (*extractors, "support RMS", "label areas")}
    identities = identity_split(split, len(inputs))
    for source in sources:
        order = derange(len(inputs), stable_rng("partners", 0, split, source))
        for index, (x, labels) in enumerate(inputs):
            partner = inputs[order[index]] if SIMULATORS[source].kind == "FS" else None
            rng = stable_rng("source", 0, source, identities[index])
            made = simulate(source, x, labels, partner=partner, rng=rng, trace_rms=trace_rms)
            residual = (made.rgb.astype(np.float32) - made.content)[made.mask]
            names.append(source)
            columns["support RMS"].append(np.array([np.sqrt(np.mean(residual**2))], dtype=np.float32))
            columns["label areas"].append(np.bincount(labels.ravel(), minlength=19).astype(np.float32))
            for name, extract in extractors.items():
                columns[name].append(extract(made.rgb))
    return Features(source=np.array(names), columns={name: np.stack(rows) for name, rows in columns.items()})


def probe_rows(train: Features, test: Features, column: str) -> dict[str, float]:
    """Seen accuracy; AUROC of 1 - max softmax of each unseen source against the seen ones; kind and family of unseen."""
    model = linear_probe().fit(train.columns[column], train.source)
    probability = model.predict_proba(test.columns[column])
    predicted = model.classes_[probability.argmax(axis=1)]
    novelty = 1 - probability.max(axis=1)
    seen = np.isin(test.source, SEEN)
    row = {"seen accuracy": float(np.mean(predicted[seen] == test.source[seen]))}
    row |= {name: float(np.mean(predicted[test.source == name] == name)) for name in SEEN}
    for name in UNSEEN:
        chosen = seen | (test.source == name)
        row[name] = float(roc_auc_score(test.source[chosen] == name, novelty[chosen]))
    row["AUROC, mean of unseen"] = float(np.mean([row[name] for name in UNSEEN]))
    for what in ("kind", "family"):
        true = [getattr(SIMULATORS[name], what) for name in test.source[~seen]]
        given = [getattr(SIMULATORS[name], what) for name in predicted[~seen]]
        row[f"{what} of unseen"] = float(np.mean([a == b for a, b in zip(true, given, strict=True)]))
    return row


def leak_table(train: Features, test: Features) -> list[tuple[str, str, float]]:
    seen = np.isin(test.source, SEEN)
    rows = []
    for column in (*CONTENT_FEATURES, "label areas", "support RMS"):
        names = ("logistic", "boosted trees") if column == "support RMS" else ("nearest centre", "logistic", "1-NN")
        for name in names:
            model = CLASSIFIERS[name]().fit(train.columns[column], train.source)
            accuracy = np.mean(model.predict(test.columns[column][seen]) == test.source[seen])
            rows.append((column, name, float(accuracy)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the Markdown here too")
    parser.add_argument("--num-train", type=int, default=200)
    parser.add_argument("--num-test", type=int, default=100)
    parser.add_argument(
        "--ranges", type=int, default=len(RANGES), help="how many ranges of T to probe, frozen one first"
    )
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    start = time.perf_counter()
    train_inputs, test_inputs = draw_inputs("train", options.num_train), draw_inputs("test", options.num_test)
    faces_s = (time.perf_counter() - start) / (options.num_train + options.num_test)
    probes: dict[tuple[float, float], dict[str, dict[str, float]]] = {}
    leaks: list[tuple[str, str, float]] = []
    for trace_rms in RANGES[: options.ranges]:
        extractors = TRACE_FEATURES | (CONTENT_FEATURES if trace_rms == TRACE_RMS else {})
        train = compute_features(train_inputs, "train", SEEN, trace_rms, extractors)
        test = compute_features(test_inputs, "test", tuple(SIMULATORS), trace_rms, extractors)
        for features in (train, test):
            features.columns["both"] = np.concatenate([features.columns[name] for name in TRACE_FEATURES], axis=1)
        probes[trace_rms] = {name: probe_rows(train, test, name) for name in (*TRACE_FEATURES, "both")}
        if trace_rms == TRACE_RMS:
            leaks = leak_table(train, test)
    speed = measure_speed(test_inputs)
    text = report(options, probes, leaks, speed, faces_s)
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def measure_speed(inputs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]) -> dict[str, float]:
    """Seconds an image of each simulator, over 10 images."""
    speed = {}
    for source in SIMULATORS:
        start = time.perf_counter()
        for index in range(10):
            simulate(source, *inputs[index], partner=inputs[index + 1], rng=stable_rng("speed", index))
        speed[source] = (time.perf_counter() - start) / 10
    return speed


def report(
    options: argparse.Namespace,
    probes: dict[tuple[float, float], dict[str, dict[str, float]]],
    leaks: list[tuple[str, str, float]],
    speed: dict[str, float],
    faces_s: float,
) -> str:
    frozen = probes[TRACE_RMS]
    chance = 1 / len(SEEN)
    num_seen = options.num_test * len(SEEN)
    spread = float(np.sqrt(frozen["both"]["seen accuracy"] * (1 - frozen["both"]["seen accuracy"]) / num_seen))
    command = (
        f"python benchmarks/simulators.py --num-train {options.num_train} --num-test {options.num_test} "
        f"--ranges {options.ranges} --out benchmarks/results/simulators.md"
    )
    lines = [
        "# The simulators of `demo` (simulated sources: nothing here is evidence about real generators)",
        "",
        f"* Command: `{command}`",
        f"* Commit before this file: {commit()}",
        f"* Machine: {cpu()}, {os.cpu_count()} cores (one used)",
        f"* Versions: Python {platform.python_version()}, numpy {np.__version__}, OpenCV {cv2.__version__}, "
        f"scikit-learn {sklearn.__version__}, torch {torch.__version__}",
        f"* Data: {options.num_train} train identities x 10 seen sources; {options.num_test} test identities x 19 sources",
        f"* Spread: one standard error of a seen accuracy is {100 * spread:.1f} points (n = {num_seen})",
        "",
        f"**The range of T is frozen at LogUniform({TRACE_RMS[0]:g}, {TRACE_RMS[1]:g}) gray levels.** The rule, fixed "
        "beforehand: take the first of the ranges below at which a linear probe is neither trivial (over 95 %) nor hopeless "
        "(under 50 %) on the seen sources. No attributor of this project was looked at.",
        "",
        "## Linear probe, by range of T",
        "",
        "Logistic regression (C .003, standardised). AUROC: 1 - max softmax, an unseen source against all seen ones; mean of 9.",
        "",
        "| T, gray levels | features | seen accuracy (chance 10.0 %) | AUROC of unseen | kind of unseen | family of unseen |",
        "|---|---|---|---|---|---|",
    ]
    for trace_rms, table in probes.items():
        for name, row in table.items():
            lines.append(
                f"| {trace_rms[0]:g}-{trace_rms[1]:g} | {name} | {100 * row['seen accuracy']:.1f} % "
                f"| {row['AUROC, mean of unseen']:.3f} | {row['kind of unseen']:.3f} | {row['family of unseen']:.3f} |"
            )
    kinds, families = (_majority([getattr(SIMULATORS[name], what) for name in UNSEEN]) for what in ("kind", "family"))
    lines += [
        "",
        f"Always answering the majority gives {kinds:.3f} (kind) and {families:.3f} (family).",
        "",
        f"## Each source at T {TRACE_RMS[0]:g}-{TRACE_RMS[1]:g}",
        "",
        "Recall of the seen; AUROC of the unseen (failure on FAR sources is expected and stays).",
        "",
        "| source | relation | log-spectrum | SRM co-occurrences | both | ms an image |",
        "|---|---|---|---|---|---|",
    ]
    for source, simulator in SIMULATORS.items():
        cells = [f"{frozen[name][source]:.2f}" for name in (*TRACE_FEATURES, "both")]
        lines.append(f"| {source} | {simulator.relation} | {' | '.join(cells)} | {1000 * speed[source]:.1f} |")
    lines += [
        "",
        f"Drawing and photographing a face: {1000 * faces_s:.0f} ms.",
        "",
        "## Leak checks (10 seen sources, trained on train identities, tested on test identities)",
        "",
        "Content must stay within 10 points of chance (10.0 %), the RMS in the support alone within 3.",
        "Label areas are those of the drawn map of the real image, the same for every source by construction; the parsing view",
        "of a fake comes from a parser run on the fake and is checked where a parser runs. All samples are 224x224 PNG.",
        "",
        "| seen by the classifier | classifier | accuracy | limit | |",
        "|---|---|---|---|---|",
    ]
    for column, name, accuracy in leaks:
        limit = chance + (0.03 if column == "support RMS" else 0.10)
        verdict = "ok" if accuracy <= limit else "LEAK"
        lines.append(f"| {column} | {name} | {100 * accuracy:.1f} % | {100 * limit:.0f} % | {verdict} |")
    return "\n".join(lines) + "\n"


def _majority(values: list[str]) -> float:
    return max(values.count(value) for value in values) / len(values)


if __name__ == "__main__":
    main()
