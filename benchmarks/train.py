"""A training step of ours against one written from the description of the released code, and the cost of every module.

    python benchmarks/train.py --shards ROOT --out benchmarks/results/train.md

Both train the same model (preset `paper`, semantics strict: the padding attended, as released) on the same images, each
in processes of its own, in turns. "Compute" is forward, backward and optimizer; the whole step adds what comes before it: the
reference's preprocessing, our loader.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import describe
from torch import nn
from train_reference import ReferenceStep, UNet, encode_every_prompt, preprocess

from bmrl.cli.process import keep_freed_memory
from bmrl.model import build
from bmrl.model.layers import alignment
from bmrl.model.layers.blocks import Attention, use_channels_last
from bmrl.model.training.trainer import Trainer
from bmrl.pipeline.protocols import load_protocol
from bmrl.pipeline.shardset import ShardSet

WAYS = ("reference", "float32", "bfloat16")  # ours in either precision
WARM_UP, STEPS = 2, 2
# spec of the published sizes: module -> GMAC an image, forward (text: one prompt of 308 tokens)
EXPECTED = {"AE": 6.56, "EE": 6.51, "NE": 0.57, "PE": 6.56, "LE": 6.40}


def count_macs(module: nn.Module, call: Callable[[], Any]) -> int:
    """Multiplications of convolutions, linear layers and attention in one call."""
    total = 0

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            total += inputs[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        elif isinstance(layer, Attention):
            total += 2 * inputs[0].shape[0] * inputs[0].shape[1] ** 2 * inputs[0].shape[2]

    handles = [layer.register_forward_hook(hook) for layer in module.modules()]
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()
    return total


def costs() -> list[str]:
    """Parameters and MACs by module of preset `paper`, strict."""
    model: Any = build("bmrl", 10, preset="paper", semantics="strict").eval()
    image, edge, noise = torch.rand(1, 3, 224, 224), torch.rand(1, 1, 224, 224), torch.rand(1, 3, 112, 112)
    tokens = torch.full((1, 4, 77), 49407)
    parts: dict[str, tuple[nn.Module, torch.Tensor]] = {
        "AE": (model.visual["image"], image),
        "EE": (model.visual["edge"], edge),
        "NE": (model.visual["noise"], noise),
        "PE": (model.parsing, image),
        "LE": (model.language, tokens),
    }
    lines = ["| module | M parameters | GMAC an image | section 6 |", "|---|---|---|---|"]
    total = {"params": 0.0, "train": 0.0, "inference": 0.0}
    for name, (module, given) in parts.items():
        macs = count_macs(module, partial(module, given)) / 1e9
        params = _params(module)
        lines.append(f"| {name} | {params:.1f} | {macs:.2f} | {EXPECTED[name]} |")
        total["train"] += macs
        total["inference"] += macs if name in ("AE", "EE", "NE") else 0.0
    visual = _params(model.visual) + _params(model.head)
    lines.append(
        f"| training | {_params(model):.1f} | {total['train']:.2f} | 179.5 M with 3 layers in NE and EE, 26.6 |"
    )
    lines.append(f"| inference | {visual:.1f} | {total['inference']:.2f} | 98.6 M with 3 layers, 13.64 |")
    unet = UNet().eval()
    macs = count_macs(unet, lambda: unet(noise)) / 1e9
    lines.append(f"| the reference's U-Net | {_params(unet):.1f} | {macs:.2f} | 31, 9.2 |")
    return lines


def _params(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


class Ours:
    """Our trainer's step over our loader, in either precision."""

    def __init__(self, shards: ShardSet, run: Path, batch_size: int) -> None:
        torch.manual_seed(0)
        model: Any = build("bmrl", shards.classes, preset="paper", semantics="strict")
        use_channels_last(model)
        model.train()
        self.loader = shards.loader(views=model.training_views, batch_size=batch_size)
        self.trainer = Trainer(model, train=self.loader, validation=list, run=run, device=torch.device("cpu"))

    def __call__(self, batch: dict[str, Any], precision: str) -> float:
        self.trainer.config = dataclasses.replace(self.trainer.config, precision=precision)
        return self.trainer._step(batch, 0)["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--protocol", default="demo-1", help="Its seen sources are the classes, 10 in the paper.")
    parser.add_argument("--batch-size", type=int, default=32, help="32 needs 20 GB of memory.")
    parser.add_argument("--rounds", type=int, default=2, help="Processes of each way, in turns.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way:
        measure(options)
        return
    text = [
        "# Training step, and what the modules cost",
        "",
        "Command: `python benchmarks/train.py`, see its first lines. " + describe("torch", "numpy", "scikit-image"),
        f"{options.threads} threads, batch {options.batch_size}, preset paper, semantics strict; each way in {options.rounds} "
        f"processes in turns, of {WARM_UP} steps that are not counted and {STEPS} that are.",
        "",
        *costs(),
        "",
    ]
    print("\n".join(text), flush=True)
    times: dict[str, list[Time]] = {}
    for _ in range(options.rounds):
        for way in WAYS:
            for name, found in child(way, options).items():
                times.setdefault(name, []).extend(found)
    table = report(times)
    print("\n".join(table))
    if options.out:
        options.out.write_text("\n".join([*text, *table]) + "\n")


@dataclasses.dataclass(frozen=True)
class Time:
    wall: float
    cpu: float  # of all threads, the kernel's part included: what another process takes away does not count


def child(way: str, options: argparse.Namespace) -> dict[str, list[Time]]:
    """A process of its own: ours keeps freed memory as `bmrl-train` does, the reference has the allocator's defaults."""
    given = ("shards", "protocol", "batch_size", "threads")
    arguments = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in given]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, __file__, f"--way={way}", *arguments],
        env=environment, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: [Time(*one) for one in times] for name, times in found.items()}


def measure(options: argparse.Namespace) -> None:
    """Print the times of one way, by what was timed."""
    shards = ShardSet.open(options.shards).select(protocol=load_protocol(options.protocol), part="seen", split="train")
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, call: Callable[[], Any], count: bool) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        found = (time.perf_counter() - wall, time.process_time() - cpu)
        if count:
            times.setdefault(name, []).append(found)
        print(f"{name}: {found[0]:.2f} s, {found[1]:.2f} s of CPU", file=sys.stderr, flush=True)
        return result

    if options.way != "reference":
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(shards, Path(folder), options.batch_size) if options.way != "reference" else None
        reference = make_reference(shards) if ours is None else None
        loader = (
            ours.loader if ours else shards.loader(views=("image", "parsing", "text"), batch_size=options.batch_size)
        )
        batches = iter(loader)
        for number in range(WARM_UP + STEPS):
            count = number >= WARM_UP
            batch = timed(f"loader, {options.way}", partial(next, batches), count)
            if ours:
                timed(options.way, partial(ours, batch, options.way), count)
            elif reference:
                views = timed("preprocess", partial(preprocess, batch["image"]), count)
                timed("reference", partial(reference, {**batch, **views}), count)
    print(json.dumps(times))


def make_reference(shards: ShardSet) -> ReferenceStep:
    torch.manual_seed(0)
    alignment.ENCODERS["every prompt"] = encode_every_prompt
    model: Any = build("bmrl", shards.classes, preset="paper", semantics="strict")
    object.__setattr__(model.config.model, "text_readout", "every prompt")
    return ReferenceStep(model.train())


def report(times: dict[str, list[Time]]) -> list[str]:
    """Medians, ratios of medians, and every point."""
    wall = {name: statistics.median(t.wall for t in found) for name, found in times.items()}
    cpu = {name: statistics.median(t.cpu for t in found) for name, found in times.items()}
    head = ["", "compute, s of CPU", "ratio", "compute, s", "ratio", "whole step, s", "ratio", "points (CPU)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    before = {way: "preprocess" if way == "reference" else f"loader, {way}" for way in WAYS}
    whole = {name: wall[name] + wall[before[name]] for name in before}
    for name in before:
        cells = [name if name == "reference" else f"ours, {name}"]
        for seconds in (cpu, wall, whole):
            cells += [f"{seconds[name]:.2f}", f"{seconds['reference'] / seconds[name]:.2f}"]
        lines.append("| " + " | ".join([*cells, ", ".join(f"{t.cpu:.2f}" for t in times[name])]) + " |")
    share = 100 * wall["loader, bfloat16"] / whole["bfloat16"]
    return [
        *lines,
        "",
        f"The reference's preprocessing takes {wall['preprocess']:.2f} s of its step; waiting for our loader takes "
        f"{1000 * wall['loader, bfloat16']:.2f} ms, {share:.3f} % of the faster step. No GPU was at hand: "
        "images/s, MFU, bandwidth and the 20x of the whole step are not measured.",
    ]


if __name__ == "__main__":
    main()
