"""Planning 100,000 rows: a manifest, a folder tree and a named dataset of frames, each in a fresh process.

    python benchmarks/planning.py --rows 100000 --out benchmarks/results/planning.md

Planning is what `bmrl-prep build --dry-run` does before its timed sample: walk, splits, byte-identical files, shards, keys.
Two cases of file sizes, as the search for byte-identical files compares sizes first: `different` ones, about five files of each
(as of photographs), and `few`, where every file has one of four sizes and its end has to be read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pyarrow
from machine import commit, cpu

GENERATORS = ("real", "StyleGAN2", "StyleGAN3", "DDPM", "LatDiff", "Diffae", "FSLSD", "SimSwap", "InSwapper", "e4s")
FRAMES = 20  # of a video
SIZES = ("different", "few")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--out", type=Path, help="write the table there too")
    options.add_argument("--plan", nargs=2, metavar=("DATASET", "ROOT"), help=argparse.SUPPRESS)  # the fresh process
    chosen = options.parse_args()
    if chosen.plan:
        print(json.dumps(plan(chosen.plan[0], Path(chosen.plan[1]))))
        return
    lines = [header(chosen.rows, chosen.repeats), "", *table(chosen.rows, chosen.repeats)]
    print("\n".join(lines))
    if chosen.out:
        chosen.out.write_text("\n".join(lines) + "\n")


def plan(dataset: str, root: Path) -> dict[str, float]:
    """Seconds and peak memory of this process, imports included in the memory only."""
    from bmrl.pipeline.build.options import BuildOptions
    from bmrl.pipeline.build.resolve import resolve

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    intake = resolve(BuildOptions(dataset=dataset, source_root=root, out=root / "never", views=("image",)))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    return {
        "seconds": seconds,
        "peak_mb": peak * 1024 / 1e6,
        "imported_mb": before * 1024 / 1e6,
        "rows": intake.plan.rows.num_rows,
        "unused": intake.walk.unused.total(),
    }


def table(num_rows: int, repeats: int) -> Iterator[str]:
    yield f"| dataset | file sizes | rows | seconds, median of {repeats} (min - max) | peak memory, MB | after imports, MB |"
    yield "|---|---|---|---|---|---|"
    makers: dict[str, Callable[[Path, int, str], None]] = {
        "manifest": make_manifest,
        "folder": make_folder,
        "df40": make_df40,
    }
    for dataset, make in makers.items():
        for sizes in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder), num_rows, sizes)
                runs = [in_fresh_process(dataset, Path(folder)) for _ in range(repeats)]
            seconds = sorted(run["seconds"] for run in runs)
            peak = max(run["peak_mb"] for run in runs)
            yield (
                f"| {dataset} | {sizes} | {runs[0]['rows']:.0f} | {seconds[len(seconds) // 2]:.1f} ({seconds[0]:.1f} - "
                f"{seconds[-1]:.1f}) | {peak:.0f} | {peak - runs[0]['imported_mb']:.0f} |"
            )


def in_fresh_process(dataset: str, root: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--plan", dataset, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def content(number: int, sizes: str) -> bytes:
    """Distinct bytes; `different` lengths go round 20,000 values, `few` are one of four."""
    length = 64 + (number % 20_000 if sizes == "different" else number % 4)
    return b"%012d" % number + bytes(length - 12)


def write_all(root: Path, paths: Iterator[str], sizes: str) -> list[str]:
    written, folders = [], set()
    for number, path in enumerate(paths):
        file = root / path
        if file.parent not in folders:
            file.parent.mkdir(parents=True, exist_ok=True)
            folders.add(file.parent)
        file.write_bytes(content(number, sizes))
        written.append(path)
    return written


def make_manifest(root: Path, num_rows: int, sizes: str) -> None:
    """One csv with groups of two frames, no split column."""
    paths = (f"{GENERATORS[n % 10]}/{n // 10:06d}.png" for n in range(num_rows))
    lines = [f"{path},{path.split('/')[0]},person{n // 20}" for n, path in enumerate(write_all(root, paths, sizes))]
    (root / "manifest.csv").write_text("path,generator,group\n" + "\n".join(lines) + "\n")


def make_folder(root: Path, num_rows: int, sizes: str) -> None:
    write_all(root, (f"{GENERATORS[n % 10]}/{n // 10:06d}.png" for n in range(num_rows)), sizes)


def make_df40(root: Path, num_rows: int, sizes: str) -> None:
    """Four swaps in the train archive and four in the test archive; videos of ids that share a split, so all are planned."""
    methods = ("simswap", "inswap", "uniface", "e4s")
    videos = [f"{n % 1000:03d}_{n % 1000:03d}" for n in range(-(-num_rows // (8 * FRAMES)))]
    paths = (
        f"{archive}/{method}/ff/frames/{video}{'' if archive == 'DF40_train' else 'x'}/{frame:03d}.png"
        for archive in ("DF40_train", "DF40")
        for method in methods
        for video in videos
        for frame in range(FRAMES)
    )
    write_all(root, paths, sizes)


def header(num_rows: int, repeats: int) -> str:
    return "\n".join(
        [
            "# Planning",
            "",
            f"* Command: `python benchmarks/planning.py --rows {num_rows} --repeats {repeats} --out "
            "benchmarks/results/planning.md`",
            f"* Commit before this file: {commit()}",
            f"* Machine: {cpu()}, {os.cpu_count()} cores (one used)",
            f"* Versions: Python {platform.python_version()}, numpy {numpy.__version__}, pyarrow {pyarrow.__version__}",
            "* Asked: 100,000 rows in less than 20 s and less than 1 GB. The files are made just before, so the file system's",
            "  cache is warm. No earlier version plans named datasets or compares files: there is no baseline to compare with.",
            "* `different`: about five files of each size; `few`: every file has one of four sizes, the worst case of the search",
            "  for byte-identical files, as the end of each has to be read.",
        ]
    )


if __name__ == "__main__":
    main()
