"""How long an evaluation of predictions takes, and how much memory: a resampling of 10,000 rows, and a million rows whole.

    python benchmarks/evaluation.py --work WORK --out benchmarks/results/evaluation.md

The predictions are drawn: 50 seen and 50 unseen sources, embeddings of 128 numbers. Each case runs in a fresh process pinned
to one core; the command is `bmrl-eval --predictions`, its reading and its page included. The baseline of the resampling is
the AUROCs alone by scikit-learn's roc_auc_score, source by source and score by score.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from machine import describe

CLASSES, DIM = 50, 128


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--work", type=Path, required=True, help="a folder for the predictions")
    options.add_argument("--out", type=Path, help="write the table there too")
    options.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--measure", help=argparse.SUPPRESS)  # the fresh process
    chosen = options.parse_args()
    if chosen.measure:
        print(json.dumps(resample(chosen.work) if chosen.measure == "resample" else judge(chosen.work, chosen.measure)))
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    lines = [describe("numpy", "scikit-learn", "pyarrow"), "", "One core, a fresh process each, command:"]
    lines += [
        "`python benchmarks/evaluation.py --work WORK`",
        "",
        "| what | rows | seconds | peak memory |",
        "|---|---|---|---|",
    ]
    found = measured(chosen.work, "resample")
    for name in ("resampled", "baseline"):
        lines.append(f"| {found['words'][name]} | 10,000 | {found[name]:.1f} | |")
    for rows in chosen.rows:
        write(chosen.work / f"{rows}.parquet", rows)
        found = measured(chosen.work, f"{rows}.parquet")
        lines.append(
            f"| `bmrl-eval --predictions`, whole | {rows:,} | {found['seconds']:.1f} | {found['peak'] / 1e9:.2f} GB |"
        )
    table = "\n".join(lines) + "\n"
    print(table)
    if chosen.out:
        chosen.out.write_text(f"# Evaluation of predictions\n\n{table}")


def measured(work: Path, what: str) -> dict[str, float]:
    command = ["taskset", "-c", "0", sys.executable, __file__, "--work", str(work), "--measure", what]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def judge(work: Path, name: str) -> dict[str, float]:
    from bmrl.cli.eval import main as command

    begun = time.perf_counter()
    command.main(["--predictions", str(work / name), "--out", str(work / "out")], standalone_mode=False)
    return {
        "seconds": time.perf_counter() - begun,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def resample(work: Path) -> dict[str, float | dict[str, str]]:
    from sklearn.metrics import roc_auc_score

    from bmrl.model.evaluation.case import Case
    from bmrl.model.evaluation.estimates import estimate
    from bmrl.model.report.files import judge_file

    write(work / "10000.parquet", 10_000)
    case: Case = judge_file(work / "10000.parquet").case
    begun = time.perf_counter()
    estimate(case)
    resampled = time.perf_counter() - begun
    begun = time.perf_counter()
    tried = 3
    rng = np.random.default_rng(0)
    for _ in range(tried):
        weights = rng.multinomial(50, np.full(50, 0.02))[case.seen.codes].astype(float)
        for name, values in case.scores["unseen"].items():
            for code in range(len(case.unseen.sources)):
                low = values[case.unseen.codes == code]
                truth = np.r_[np.ones(len(case.seen)), np.zeros(len(low))]
                roc_auc_score(
                    truth, np.r_[case.scores["seen"][name], low], sample_weight=np.r_[weights, np.ones(len(low))]
                )
    baseline = (time.perf_counter() - begun) / tried * 1000
    words = {
        "resampled": "1,000 resamples, every figure",
        "baseline": f"the AUROCs alone by scikit-learn, from {tried} resamples",
    }
    return {"resampled": resampled, "baseline": baseline, "words": words}


def write(file: Path, rows: int) -> None:
    """4 of 10 rows seen, 4 unseen, 1 training, 1 validation."""
    from bmrl.model.evaluation.predictions import Predictions
    from bmrl.model.evaluation.predictions_file import About, Contents, write_predictions

    if file.exists():
        return
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2 * CLASSES, DIM)).astype(np.float32)
    head = centres[:CLASSES].T
    names = [f"seen{k:02}" for k in range(CLASSES)] + [f"unseen{k:02}" for k in range(CLASSES)]
    parts = {}
    for part, share in (("train", 0.1), ("validation", 0.1), ("seen", 0.4), ("unseen", 0.4)):
        count = int(rows * share)
        source = np.arange(count) % CLASSES + (CLASSES if part == "unseen" else 0)
        features = 0.25 * centres[source] + rng.normal(size=(count, DIM)).astype(np.float32)
        parts[part] = Predictions(
            keys=[f"{part}-{row:07}" for row in range(count)],
            generators=[names[code] for code in source],
            groups=[f"p{row // CLASSES:06}" for row in range(count)],
            labels=np.where(source < CLASSES, source, -1),
            logits=(features @ head / 4).astype(np.float64),
            features=features,
        )
    sources = {name: {"kind": "EFS" if k % 2 else "FS", "family": "GAN"} for k, name in enumerate(names)}
    about = About(classes=names[:CLASSES], attributor="drawn")
    write_predictions(file, Contents(about=about, parts=parts, sources=sources))


if __name__ == "__main__":
    main()
