"""The loader against a bare gather, the other formats' loaders and on-the-fly views; all five views as ready batches.

    python benchmarks/loader.py --photographs ../shared/data/celebamask-hq --work WORK \\
        --peers PEERS/bin/python --out benchmarks/results/loader.md

Builds 3,600 distinct samples (crops of photographs with their label maps) raw and as PNG, once. PEERS: the environment
of benchmarks/loader-peers.txt. Every way is a process of its own, bound to one core unless its row says two.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from PIL import Image

from bmrl.pipeline import ShardSet
from bmrl.pipeline.export.tars import export_tars
from bmrl.pipeline.loading.loader import Loader
from bmrl.pipeline.views.codec import npy_header
from bmrl.pipeline.views.column import default_array

Buffers = list[dict[str, np.ndarray]]
VIEWS = ("image", "edge", "noise", "parsing", "text")
BATCH = 64
ROUNDS = 9
SOAK_EPOCHS = 30
ROTATING = 4  # batches that the loader keeps in memory with one thread
PEERS = {
    "webdataset-png": "plain WebDataset over PNG columns",
    "webdataset": "WebDataset over .npy",
    "litdata": "litdata",
    "mds": "MosaicML Streaming (MDS)",
    "hf": "HF datasets (Arrow)",
    "on-the-fly": "views computed on the fly (released code's way)",
}


def prepare(photographs: Path, work: Path, peers: str) -> None:
    """WORK/source and maps (3,600 crops), raw and png (shard sets), joined and joined-png (single tars), the peers' sets."""
    for path in sorted((photographs / "images").glob("*.jpg"))[:900] if not (work / "source").exists() else ():
        with Image.open(path) as image, Image.open(photographs / "masks" / f"{path.stem}.png") as labels:
            for number, (x, y) in enumerate(((0, 0), (64, 0), (0, 64), (64, 64))):
                for kind, whole, suffix in (("source", image, "jpg"), ("maps", labels, "png")):
                    folder = work / kind / "train" / f"crop-{number}"
                    folder.mkdir(parents=True, exist_ok=True)
                    crop = whole.crop((x, y, x + 448, y + 448))
                    if number in (1, 2):
                        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                    crop.save(folder / f"{path.stem}.{suffix}", quality=95)
    for codec, joined in (("raw", "joined"), ("png", "joined-png")):
        root = work / codec
        if not (root / "dataset.json").exists():
            code = "from bmrl.cli.prep import main; main()"
            options = ["--dataset", "folder", "--root", str(work / "source"), "--out", str(root), "--codec", codec]
            options += ["--parser", f"maps:celebamask-hq:{work / 'maps'}", "--shard-size", "300"]
            subprocess.run([sys.executable, "-c", code, "build", *options], check=True)
        if not (work / joined).exists():
            export_tars(ShardSet.open(root), VIEWS, work / joined)
    if not (work / "litdata").exists():
        subprocess.run([peers, str(Path(__file__).with_name("loader_peers.py")), "convert", str(work)], check=True)


class BareGather:
    """The same bytes from memory-mapped tars into buffers that are used again, rows by precomputed addresses: nothing else."""

    def __init__(self, root: Path) -> None:
        shard_set = ShardSet.open(root)
        self.rows: dict[str, list[np.ndarray]] = {}
        for view, array in ((view, default_array(view)) for view in ("image", "edge", "noise", "parsing")):
            dtype, shape = np.dtype(array["dtype"]).newbyteorder("<"), tuple(array["shape"])
            count, header = int(np.prod(shape)) * dtype.itemsize, len(npy_header(dtype, shape))
            step = 512 + -(-(count + header) // 512) * 512
            self.rows[view] = []
            for shard in shard_set.document["shards"]:
                data = np.memmap(root / view / f"{shard['name']}.tar", np.uint8, "r")
                first = 512 + header
                rows = np.ndarray((shard["num_samples"], count), np.uint8, data, offset=first, strides=(step, 1))
                self.rows[view].append(rows)
        self.places = [
            (int(shard), row)
            for shard, row in zip(*(shard_set.index[n].to_pylist() for n in ("shard", "row")), strict=True)
        ]

    def buffers(self, keep: int) -> Buffers:
        """Memory of `keep` batches, its pages touched."""
        return [
            {view: np.ones((BATCH, rows[0].shape[1]), np.uint8) for view, rows in self.rows.items()}
            for _ in range(keep)
        ]

    def run(self, order: Sequence[int], buffers: Buffers) -> int:
        for number, start in enumerate(range(0, len(order) - BATCH + 1, BATCH)):
            part = [self.places[i] for i in order[start : start + BATCH]]
            for view, rows in self.rows.items():
                out = buffers[number % len(buffers)][view]
                for i, (shard, row) in enumerate(part):
                    out[i] = rows[shard][row]
        return len(order) // BATCH * BATCH

    def run_on_two_threads(self, order: Sequence[int], buffers: Sequence[Buffers]) -> int:
        half = len(order) // 2
        in_threads([lambda: self.run(order[:half], buffers[0]), lambda: self.run(order[half:], buffers[1])])
        return half // BATCH * BATCH * 2


def in_threads(calls: Sequence[Callable[[], Any]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class MemoryCopy:
    """1 GiB copied in pieces of 256 KiB: what the memory gives, whoever asks."""

    PIECE = 1 << 18

    def __init__(self) -> None:
        self.given, self.out = (np.ones(1 << 30, np.uint8) for _ in range(2))

    def run(self, part: int, parts: int) -> None:
        size = len(self.given) // parts
        for start in range(part * size, (part + 1) * size, self.PIECE):
            self.out[start : start + self.PIECE] = self.given[start : start + self.PIECE]

    def rate(self, threads: int) -> float:
        """GB/s."""
        start = time.perf_counter()
        in_threads([partial(self.run, part, threads) for part in range(threads)])
        return len(self.given) / 1e9 / (time.perf_counter() - start)


def rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def epoch_of(loader: Loader) -> Callable[[], int]:
    return lambda: sum(len(batch["key"]) for batch in loader)


def measure_first(work: Path) -> dict[str, list[float]]:
    """One epoch of a fresh process: opening, hashing and mapping every shard; the page cache is warm."""
    loader = ShardSet.open(work / "raw").loader(views=VIEWS, batch_size=BATCH)
    return {"first": [rate(epoch_of(loader))]}


def measure_one_core(work: Path) -> dict[str, list[float]]:
    """Bare gather and loader taking turns in one process, so that other work on the machine hits both alike."""
    bare = BareGather(work / "raw")
    buffers = bare.buffers(1)
    rng = np.random.default_rng(0)
    loaders = {
        name: ShardSet.open(work / root).loader(views=VIEWS, batch_size=BATCH, num_threads=threads)
        for name, root, threads in (("ours", "raw", 1), ("ours, no thread", "raw", 0), ("ours, png", "png", 1))
    }
    found: dict[str, list[float]] = {name: [] for name in ("bare", *loaders)}
    for _ in range(ROUNDS + 1):
        order = rng.permutation(len(bare.places)).tolist()
        found["bare"].append(rate(partial(bare.run, order, buffers)))
        for name, loader in loaders.items():
            if name != "ours, png" or len(found[name]) < 3:
                found[name].append(rate(epoch_of(loader)))
    return {name: rates[1:] for name, rates in found.items()}  # the first round maps and checks


def measure_two_cores(work: Path) -> dict[str, list[float]]:
    bare, memory = BareGather(work / "raw"), MemoryCopy()
    kept = {"bare": [bare.buffers(1) for _ in range(2)], "rotating": [bare.buffers(ROTATING) for _ in range(2)]}
    rng = np.random.default_rng(0)
    loaders = {
        (root, threads): ShardSet.open(work / root).loader(views=VIEWS, batch_size=BATCH, num_threads=threads)
        for root in ("raw", "png")
        for threads in (1, 2)
    }
    found: dict[str, list[float]] = {}
    for turn in range(ROUNDS + 1):
        order = rng.permutation(len(bare.places)).tolist()
        rates = {"copy, 1 thread": memory.rate(1), "copy, 2 threads": memory.rate(2)}
        for name, pair in kept.items():
            rates[f"{name}, 1 thread"] = rate(partial(bare.run, order, pair[0]))
            rates[f"{name}, 2 threads"] = rate(partial(bare.run_on_two_threads, order, pair))
        for (root, threads), loader in loaders.items():
            if root == "raw" or turn < 3:
                rates[f"{root}, {threads} thread{'s'[: threads - 1]}"] = rate(epoch_of(loader))
        for name, value in rates.items() if turn else ():
            found.setdefault(name, []).append(value)
    return found


def measure_soak(work: Path) -> dict[str, list[float]]:
    """Resident MiB without file pages after each of 30 epochs, two threads, and the number of files in /dev/shm."""
    loader = ShardSet.open(work / "raw").loader(views=VIEWS, batch_size=BATCH, num_threads=2)
    anonymous, shared = [], []
    for _ in range(SOAK_EPOCHS):
        epoch_of(loader)()
        status = Path("/proc/self/status").read_text()
        anonymous.append(int(status.split("RssAnon:")[1].split()[0]) / 1024)
        shared.append(len(os.listdir("/dev/shm")))  # noqa: PTH208
    return {"anonymous": anonymous, "shared": [float(count) for count in shared]}


def measure_endless(work: Path) -> dict[str, list[float]]:
    """Loads until it is killed."""
    loader = ShardSet.open(work / "raw").loader(views=VIEWS, batch_size=BATCH, num_threads=2)
    while True:
        epoch_of(loader)()
        print("epoch", flush=True)


CHILDREN: dict[str, tuple[Callable[[Path], dict[str, list[float]]], int]] = {  # way -> function, cores
    "first": (measure_first, 1),
    "one-core": (measure_one_core, 1),
    "two-cores": (measure_two_cores, 2),
    "soak": (measure_soak, 2),
    "endless": (measure_endless, 2),
}


def child(way: str, work: Path) -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, "--work", str(work)], check=True, capture_output=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peer(way: str, work: Path, python: str) -> list[float]:
    script = Path(__file__).with_name("loader_peers.py")
    done = subprocess.run([python, str(script), way, str(work)], check=True, capture_output=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def kill_and_look(work: Path) -> str:
    """SIGKILL a loading process; what it left behind."""

    def files() -> set[str]:
        return {str(path) for folder in (work / "raw", Path("/dev/shm")) for path in folder.rglob("*")}

    before = files()
    process = subprocess.Popen(
        [sys.executable, __file__, "--way", "endless", "--work", str(work)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = files() - before
    processes = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return f"{len(left)} files in ROOT and /dev/shm, {len(processes.split())} processes"


def middle(rates: Sequence[float]) -> str:
    if max(rates) < 100:
        return f"{statistics.median(rates):.1f}"
    if len(rates) < 3:
        return f"{statistics.median(rates):,.0f}"
    low, _, high = statistics.quantiles(rates, n=4)
    return f"{statistics.median(rates):,.0f} ± {(high - low) / 2:,.0f}"


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over rounds where both were measured in turn, else of the medians."""
    if len(above) == len(below):
        return statistics.median(a / b for a, b in zip(above, below, strict=True))
    return statistics.median(above) / statistics.median(below)


def report(work: Path, peers: str) -> str:
    one, two, first = child("one-core", work), child("two-cores", work), child("first", work)
    others = {way: peer(way, work, peers) for way in PEERS}
    soak = child("soak", work)
    ours = one["ours"]
    lines = ["| one core | samples/s | ours is |", "|---|---|---|"]
    lines.append(f"| bare gather of the same bytes | {middle(one['bare'])} | {ratio(ours, one['bare']):.0%} |")
    lines.append(f"| **ours, raw, check=first, every shard checked** | {middle(ours)} | |")
    lines.append(f"| ours, gathering in the caller's thread (num_threads=0) | {middle(one['ours, no thread'])} | |")
    lines.append(f"| ours, first epoch of a process: open, hash, map | {middle(first['first'])} | |")
    lines.append(f"| ours, PNG codec | {middle(one['ours, png'])} | |")
    for way, name in PEERS.items():
        lines.append(f"| {name} | {middle(others[way])} | {ratio(ours, others[way]):.1f}x |")
    best = max((way for way in PEERS if way not in ("webdataset-png", "on-the-fly")), key=lambda w: max(others[w]))
    lines += ["", f"Best of the four formats: {PEERS[best]}.", "", "| two cores | 1 thread | 2 threads | gain |"]
    lines.append("|---|---|---|---|")
    for name, row in (
        ("copy", "copy of 1 GiB, pieces of 256 KiB, GB/s"),
        ("bare", "bare gather"),
        ("rotating", f"bare gather into {ROTATING} batches in turn, as a loader must"),
        ("raw", "ours, raw"),
        ("png", "ours, PNG codec (decoding)"),
    ):
        single, double = two[f"{name}, 1 thread"], two[f"{name}, 2 threads"]
        lines.append(f"| {row} | {middle(single)} | {middle(double)} | {ratio(double, single):.2f}x |")
    memory = soak["anonymous"]
    lines += [
        "",
        f"Memory without file pages, two threads, {SOAK_EPOCHS} epochs: {memory[1]:.0f} MiB after the second epoch, "
        f"{memory[-1]:.0f} MiB after the last, at most {max(memory):.0f}; files in /dev/shm: {max(soak['shared']):.0f}.",
        f"After SIGKILL of a loading process: {kill_and_look(work)}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peers", help="Python of the peers' environment")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.way:
        run, cores = CHILDREN[options.way]
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        result: Any = run(options.work)
        print(json.dumps(result))
        return
    head = describe("torch", "numpy", "webdataset") + " Peers: benchmarks/loader-peers.txt."
    prepare(options.photographs, options.work, options.peers)
    table = report(options.work, options.peers)
    command = (
        "python benchmarks/loader.py --photographs ../shared/data/celebamask-hq --work WORK --peers PEERS/bin/python"
    )
    what = (
        f"3,600 distinct samples of five views, batches of {BATCH}, page cache warm; ± is half the interquartile range."
    )
    text = f"# The loader\n\n    {command}\n\n{head}\n{what}\n\n{table}\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
