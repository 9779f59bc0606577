"""What preparing shards costs, against the released code's way of doing it image by image.

    python benchmarks/prep.py --photographs ../shared/data/celebamask-hq/images --out benchmarks/results/prep.md

The reference is written from the description of the papers' released code (no code of theirs): per image OpenCV decodes
and resizes, Sobel in float64, four scikit-image GLCMs on torch's gray, SRM through torch, every result written as a PNG.
Both ways run in turns, one thread each, on the same photographs. Parsing is measured elsewhere (parsing.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import describe
from PIL import Image
from skimage.feature import graycomatrix, graycoprops

from bmrl.pipeline.build.build import build
from bmrl.pipeline.build.options import BuildOptions, RunSettings
from bmrl.pipeline.build.report import Progress
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.build.work import ShardTask, Stopwatch, build_views
from bmrl.pipeline.shards.plan import write_plan
from bmrl.pipeline.views.noise import patch_homogeneity

CPU_VIEWS = ("image", "edge", "noise", "text")
SRM = np.zeros((3, 5, 5), np.float32)
SRM[0, 1:4, 1:4] = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
SRM[1] = (
    np.array([[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]) / 12
)
SRM[2, 2, 1:4] = np.array([1, -2, 1]) / 2
SRM_WEIGHT = torch.from_numpy(SRM)[:, None].repeat(1, 3, 1, 1)  # (3, 3, 5, 5): each kernel over every colour
GRAY = torch.tensor([0.2989, 0.587, 0.114])[:, None, None]


# The released way ---------------------------------------------------------------------------------------------------


def released_image(path: Path, folder: Path, watch: Stopwatch) -> None:
    """One image: four results, four PNG files."""
    with watch("decode"):
        bgr = cv2.imread(str(path))
    with watch("resize"):
        bgr = cv2.resize(bgr, (224, 224))
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    with watch("edge"):
        gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        dx, dy = cv2.Sobel(gray, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(gray, cv2.CV_64F, 0, 1, ksize=3)
        magnitude = np.sqrt(dx**2 + dy**2) / 255
    with watch("noise"):
        patch = released_patch(torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)
        residual = torch.nn.functional.conv2d(patch[None], SRM_WEIGHT, padding=2)
        residual = torch.nn.functional.hardtanh(residual, -3, 3)[0].numpy()
    with watch("write"):
        stem = str(folder / path.stem)
        cv2.imwrite(stem + ".png", bgr)
        cv2.imwrite(stem + ".edge.png", np.rint(magnitude * 14563).astype(np.uint16))
        cv2.imwrite(stem + ".noise.png", np.rint((residual.transpose(1, 2, 0) + 3) * 10922).astype(np.uint16))


def released_patch(image: torch.Tensor) -> torch.Tensor:
    """(3, 224, 224) in [0, 1] -> the patch (3, 112, 112) of lowest homogeneity, patch after patch."""
    patches = [image[:, top : top + 112, left : left + 112] for top in (0, 112) for left in (0, 112)]
    scores = []
    for patch in patches:
        gray = ((patch * GRAY).sum(dim=0) * 255).numpy().astype(np.uint8)
        glcm = graycomatrix(gray, [1], [0], levels=256, symmetric=True, normed=True)
        scores.append(graycoprops(glcm, "homogeneity")[0, 0])
    return patches[int(np.argmin(scores))]


def scikit_scores(rgb: np.ndarray) -> list[float]:
    """Four GLCMs alone, the gray (NumPy, once for the image) included."""
    weighted = rgb.astype(np.float32) / 255 @ np.array([0.2989, 0.587, 0.114], np.float32)
    gray = (weighted * 255).astype(np.uint8)
    return [
        float(graycoprops(graycomatrix(tile, [1], [0], levels=256, symmetric=True, normed=True), "homogeneity")[0, 0])
        for tile in (gray[:112, :112], gray[:112, 112:], gray[112:, :112], gray[112:, 112:])
    ]


# Stages -------------------------------------------------------------------------------------------------------------


def stages(photographs: list[Path], work: Path, rounds: int) -> str:
    """Ours and the released way in turns over the same photographs; milliseconds an image, median of rounds."""
    source = link(photographs, work / "stages", len(photographs))
    ours, released = defaultdict(list), defaultdict(list)
    count = len(photographs)
    for number in range(rounds):
        out = work / f"root{number}"
        task = first_task(
            BuildOptions(dataset="folder", source_root=source, out=out, shard_size=count, views=CPU_VIEWS)
        )
        start, start_cpu = time.perf_counter(), time.process_time()
        done = build_views(task)
        ours["all"].append((time.perf_counter() - start) / count)
        ours["all, CPU time"].append((time.process_time() - start_cpu) / count)
        for name, seconds in done.seconds.items():
            ours[name].append(seconds / count)
        folder, watch = work / f"png{number}", Stopwatch()
        folder.mkdir()
        start, start_cpu = time.perf_counter(), time.process_time()
        for path in photographs:
            released_image(path, folder, watch)
        released["all"].append((time.perf_counter() - start) / count)
        released["all, CPU time"].append((time.process_time() - start_cpu) / count)
        for name, seconds in watch.seconds.items():
            released[name].append(seconds / count)
        shutil.rmtree(out)
        shutil.rmtree(folder)
    floor = timed(lambda: [cv2.imread(str(path)) for path in photographs], rounds) / count
    names = ["read", "hash", "decode", "resize", "edge", "noise", "text", "write", "commit", "all", "all, CPU time"]
    lines = ["| stage | ours, ms an image | released way, ms an image |", "|---|---|---|"]
    for name in names:
        both = [f"{1000 * statistics.median(one[name]):.2f}" if one[name] else "-" for one in (ours, released)]
        lines.append(f"| {name} | {both[0]} | {both[1]} |")
    ratios = sorted(slow / fast for slow, fast in zip(released["all"], ours["all"], strict=True))
    ratio = statistics.median(ratios)
    cpu = statistics.median(
        slow / fast for slow, fast in zip(released["all, CPU time"], ours["all, CPU time"], strict=True)
    )
    without = statistics.median(released["all"]) - statistics.median(released["write"])
    mine = statistics.median(ours["all"]) - statistics.median(ours["write"]) - statistics.median(ours["commit"])
    lines += [
        "",
        f"Ours, all of it (hashing sources and shards, tar writing, fsync), is {ratio:.2f} times as fast as the released way "
        f"(rounds: {', '.join(f'{one:.2f}' for one in ratios)}); by CPU time {cpu:.2f}. "
        "The released way hashes nothing and syncs nothing. "
        f"Without any writing on either side: {without / mine:.2f}.",
        "",
        f"The floor, decoding the JPEG with OpenCV alone: {1000 * floor:.2f} ms, "
        f"{100 * floor / statistics.median(ours['all']):.0f} % of ours. `read` and `hash` are of the source file; `write` "
        "encodes, tars and hashes the shard; `commit` is fsync and rename.",
    ]
    return "\n".join(lines)


def patch_scores(photographs: list[Path], rounds: int) -> str:
    images = [
        cv2.cvtColor(cv2.resize(cv2.imread(str(path)), (224, 224)), cv2.COLOR_BGR2RGB) for path in photographs[:60]
    ]
    tensors = [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]
    ways: dict[str, Callable[[], Any]] = {
        "ours (`patch_homogeneity`)": lambda: [patch_homogeneity(image) for image in images],
        "four scikit-image GLCMs, gray included": lambda: [scikit_scores(image) for image in images],
        "the released loop": lambda: [released_patch(tensor) for tensor in tensors],
    }
    for image in images:  # the same scores, or the comparison is none
        assert np.allclose(patch_homogeneity(image), scikit_scores(image), rtol=0, atol=2e-3)
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            found[name].append((time.process_time() - start) / len(images))
    base = statistics.median(found["ours (`patch_homogeneity`)"])
    lines = ["| patch scores | CPU ms an image | times ours |", "|---|---|---|"]
    for name, seconds in found.items():
        lines.append(f"| {name} | {1000 * statistics.median(seconds):.3f} | {statistics.median(seconds) / base:.1f} |")
    return "\n".join(lines)


# Builds -------------------------------------------------------------------------------------------------------------


def workers(photographs: list[Path], work: Path, rounds: int) -> str:
    """The same build with one and two workers, in turns; seconds from the first task to the end."""
    lines = ["| build | 1 worker, s | 2 workers, s | times |", "|---|---|---|---|"]
    for what, count, options in (
        ("image, edge, noise, text", 4000, {"views": CPU_VIEWS, "shard_size": 50}),
        ("all five, parser bisenet-lite", 400, {"parser": "bisenet-lite", "shard_size": 25}),
    ):
        source = link(photographs, work / f"workers-{count}", count)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for number in (1, 2):
                seconds[number].append(timed_build(source, work / "out", number, **options)["work_s"])
        one, two = statistics.median(seconds[1]), statistics.median(seconds[2])
        lines.append(f"| {what}; {count} images | {one:.1f} | {two:.1f} | {one / two:.2f} |")
    return "\n".join(lines)


def growth(photographs: list[Path], work: Path) -> str:
    """Cost an image at 1,000 and at 10,000 images."""
    lines = ["| images | ms an image (2 workers) | CPU stages, ms an image | start and end, s |", "|---|---|---|---|"]
    per_image = []
    for count in (1000, 10_000):
        source = link(photographs, work / f"growth-{count}", count)
        found = timed_build(source, work / "out", 2, views=CPU_VIEWS, shard_size=50)
        per_image.append(found["work_s"] / count)
        rest = found["seconds"] - found["work_s"]
        lines.append(
            f"| {count:,} | {1000 * per_image[-1]:.2f} | {1000 * found['stages_s'] / count:.2f} | {rest:.1f} |"
        )
    return "\n".join(
        [*lines, "", f"10,000 images cost {per_image[1] / per_image[0]:.2f} times as much an image as 1,000."]
    )


def driver_memory(work: Path, count: int) -> str:
    """Peak resident memory of the driver's process over a whole build of `count` small images."""
    picture = work / "one.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(picture)
    copies = [work / f"copy{number}.png" for number in range(20)]  # a file may have 65,000 links
    for copy in copies:
        shutil.copy(picture, copy)
    source = link(copies, work / "many", count)
    found = timed_build(source, work / "out", 2, views=("image",), codec="png", shard_size=1000)
    return (
        f"Driver over a whole build of {count:,} planned rows (64-pixel pictures, view `image`, codec png, shards of 1,000): "
        f"**{found['driver_mb']:.0f} MB** resident at most, {found['seconds']:.0f} s; a build of 400 rows: "
        f"{timed_build(link(copies, work / 'few', 400), work / 'out', 2, views=('image',), codec='png')['driver_mb']:.0f} MB."
    )


def timed_build(source: Path, out: Path, count: int, **options: Any) -> dict[str, float]:
    """A build in a process of its own, into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    command = [sys.executable, __file__, "--one-build", json.dumps([str(source), str(out), count, given])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def one_build(source: str, out: str, count: int, given: dict[str, Any]) -> dict[str, float]:
    """`work_s` counts from the first task that ended, scaled to all samples: neither Ray's start nor the walk is in it."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    ended: list[tuple[float, int]] = []

    def note(progress: Progress) -> None:
        if progress.done and (not ended or progress.done > ended[-1][1]):
            ended.append((time.perf_counter(), progress.done))

    start = time.perf_counter()
    report = build(
        BuildOptions(dataset="folder", source_root=Path(source), out=Path(out), **options),
        RunSettings(workers=count),
        on_progress=note,
        on_message=lambda _: None,
    )
    seconds = time.perf_counter() - start
    (first_s, first), (last_s, last) = ended[0], ended[-1]
    return {
        "seconds": seconds,
        "work_s": (last_s - first_s) * last / (last - first),
        "stages_s": sum(report.stage_seconds.values()),
        "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def first_task(options: BuildOptions) -> ShardTask:
    options.out.mkdir()
    intake = resolve(options)
    plan = intake.plan
    write_plan(options.out, plan)
    return ShardTask(
        root=options.out, source_root=intake.walk.root, shard="000000", rows=plan.shard_rows("000000").to_pylist(),
        plans=plan.views, views=CPU_VIEWS, plan_id=plan.id,
    )  # fmt: skip


def link(files: list[Path], root: Path, count: int) -> Path:
    """`count` hard links to the files in one split, so that equal ones are no leak; copies where links cannot be made."""
    if not root.exists():
        for number in range(count):
            file = files[number % len(files)]
            target = root / "train" / ("real", "StyleGAN2")[number % 2] / f"{number:06d}{file.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                os.link(file, target)
                continue
            shutil.copy(file, target)
    return root


def timed(way: Callable[[], Any], rounds: int) -> float:
    """Median seconds of a call."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        way()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def sections(options: argparse.Namespace, work: Path) -> Iterator[tuple[str, str]]:
    photographs = sorted(options.photographs.glob("*.jpg"))[: options.limit]
    local = link(photographs, work / "local", len(photographs))  # on the disk that is written to
    photographs = sorted(local.rglob("*.jpg"))
    ways: dict[str, tuple[str, Callable[[], str]]] = {
        "stages": ("Everything but parsing, one thread", lambda: stages(photographs, work, options.rounds)),
        "scores": ("Patch scores, one thread", lambda: patch_scores(photographs, options.rounds)),
        "workers": ("Two workers", lambda: workers(photographs, work, 2)),
        "growth": ("From 1,000 to 10,000 images", lambda: growth(photographs, work)),
        "memory": ("Memory of the driver", lambda: driver_memory(work, 200_000)),
    }
    for name in options.only or ways:
        yield ways[name][0], ways[name][1]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data/celebamask-hq/images"))
    parser.add_argument("--limit", type=int, default=300, help="photographs to use")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=["stages", "scores", "workers", "growth", "memory"])
    parser.add_argument("--work", type=Path, help="folder to work in, on the disk whose fsync counts")
    parser.add_argument("--out", type=Path, help="Markdown result file")
    parser.add_argument("--one-build", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_build:
        print(json.dumps(one_build(*options.one_build)))
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="prep-", dir=options.work))
    text = "# Preparing shards\n\n    python benchmarks/prep.py --photographs ../shared/data/celebamask-hq/images\n\n"
    text += describe("torch", "opencv-python-headless", "pillow", "scikit-image", "ray", "webdataset") + "\n"
    text += (
        f"{options.limit} photographs of 512 pixels (JPEG); medians of {options.rounds} rounds, the ways in turns.\n"
    )
    for title, body in sections(options, work):
        print(f"## {title}\n\n{body}\n", flush=True)
        text += f"\n## {title}\n\n{body}\n"
    if options.out:
        options.out.write_text(text)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
