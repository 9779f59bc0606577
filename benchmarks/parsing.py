"""Face parsing: speed against the public script, agreement of engines, memory of an actor, scores of bisenet-lite.

    python benchmarks/parsing.py --photographs ../shared/data/celebamask-hq --out benchmarks/results/parsing.md

Without --weights the full-size BiSeNet has random weights: its speed and memory do not depend on them, its agreement
does. Speeds are of one image at a time on one thread, engines taking turns so that a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from machine import describe
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bmrl.pipeline.parsers.engines import CudaNetwork, OnnxNetwork, TorchNetwork, normalize
from bmrl.pipeline.parsers.lite.celebamask import Photograph, find_photographs, split_held_out
from bmrl.pipeline.parsers.lite.drawn import draw_held_out
from bmrl.pipeline.parsers.lite.scores import confusion, summarize
from bmrl.pipeline.parsers.orders import CLASSES, NUM_CLASSES, Labels
from bmrl.pipeline.parsers.specs import resolve
from bmrl.pipeline.parsers.weights import load_bisenet
from bmrl.pipeline.views.bisenet import BiSeNet
from bmrl.pipeline.views.image import RGB, resize
from bmrl.pipeline.views.parsing import MEAN, STD, Network, nearest_rows

VIEW = 224  # pixels a side of the `parsing` view


def public_script(net: BiSeNet, rgb: RGB, side: int) -> Labels:
    """As zllrunning's test.py runs: PIL resize, eager float32, all three heads upsampled, argmax in NumPy."""
    image = Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)  # HWC -> CHW
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        heads = net.forward_heads(x[None])
        outs = [F.interpolate(head, (side, side), mode="bilinear", align_corners=True) for head in heads]
    return outs[0].squeeze(0).cpu().numpy().argmax(0).astype(np.uint8)


def bfloat16_on_cpu(net: BiSeNet, batch: npt.NDArray[np.uint8], side: int) -> Labels:
    """The arithmetic of the CUDA engine on CPU: weights and activations bfloat16, upsampling and argmax float32."""
    x = normalize(torch.from_numpy(batch).permute(0, 3, 1, 2)).bfloat16()  # BHWC -> BCHW
    with torch.inference_mode():
        logits = F.interpolate(net.forward_coarse(x).float(), (side, side), mode="bilinear", align_corners=True)
    places = nearest_rows(side, VIEW)
    return np.asarray(logits.argmax(1)[0].numpy().astype(np.uint8)[places][:, places])


def take_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float, float]]:
    """name -> (median CPU ms, median wall ms, spread of CPU ms as half its interquartile range)."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            if i > 0:  # the first round warms up
                taken[name].append(((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3))
    rows = {}
    for name, values in taken.items():
        cpu_ms, wall_ms = np.array(values).T
        low, high = np.percentile(cpu_ms, [25, 75])
        rows[name] = (float(np.median(cpu_ms)), float(np.median(wall_ms)), float(high - low) / 2)
    return rows


def speed_table(name: str, net: BiSeNet, side: int, photographs: Sequence[RGB], rounds: int) -> list[str]:
    plain = BiSeNet(net.num_classes, backbone=net.backbone, width=net.width).eval()
    plain.load_state_dict(net.state_dict())
    networks: dict[str, Network] = {"torch": TorchNetwork(net, threads=1), "onnx": OnnxNetwork(net, threads=1)}
    turn = iter(range(10**9))

    def photograph() -> RGB:
        return photographs[next(turn) % len(photographs)]

    def engine(network: Network) -> Callable[[], object]:
        return lambda: network(resize(photograph(), side)[None], side, VIEW)

    calls: dict[str, Callable[[], object]] = {"public script": lambda: public_script(plain, photograph(), side)}
    calls |= {f"engine {key}": engine(network) for key, network in networks.items()}
    rows = take_turns(calls, rounds)
    base = rows["public script"]
    lines = [
        f"### {name}, input {side}, one image at a time, one thread",
        "",
        "| way | CPU ms an image | +- | wall ms | images/s | times the public script (CPU) | (wall) |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, (cpu, wall, spread) in rows.items():
        ratio = f"{base[0] / cpu:.2f} | {base[1] / wall:.2f}"
        lines.append(f"| {key} | {cpu:.1f} | {spread:.1f} | {wall:.1f} | {1e3 / cpu:.1f} | {ratio} |")
    return [*lines, ""]


def agreement_table(nets: dict[str, tuple[BiSeNet, int]], photographs: Sequence[RGB]) -> list[str]:
    lines = [
        f"### Label agreement with the float32 PyTorch engine at 224, mean over {len(photographs)} photographs",
        "",
        "| network | input | onnx | worst photograph | bfloat16 (CUDA engine's arithmetic, on CPU) | worst photograph |",
        "|---|---|---|---|---|---|",
    ]
    for name, (net, side) in nets.items():
        reference, onnx = TorchNetwork(net, threads=2), OnnxNetwork(net, threads=2)
        half = BiSeNet(net.num_classes, backbone=net.backbone, width=net.width).eval()
        half.load_state_dict(net.state_dict())
        half = half.bfloat16()
        scores = []
        for rgb in photographs:
            batch = resize(rgb, side)[None]
            truth = reference(batch, side, VIEW)[0]
            onnx_share = np.mean(onnx(batch, side, VIEW)[0] == truth)
            scores.append((onnx_share, np.mean(bfloat16_on_cpu(half, batch, side) == truth)))
        mean, worst = np.mean(scores, axis=0), np.min(scores, axis=0)
        lines.append(f"| {name} | {side} | {mean[0]:.4%} | {worst[0]:.4%} | {mean[1]:.3%} | {worst[1]:.3%} |")
    return [*lines, ""]


def memory_table(full: Path) -> list[str]:
    program = (
        "import re, sys, numpy as np\n"
        "from bmrl.pipeline.parsers.parser import Parser\n"
        "from bmrl.pipeline.parsers.specs import resolve\n"
        "parser = Parser.open(resolve(sys.argv[1]), engine=sys.argv[2])\n"
        "parser.parse([np.zeros((1024, 1024, 3), np.uint8)] * 4)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1))\n"
    )
    lines = [
        "### Peak resident memory of a process that opened a parser and parsed four 1024-pixel crops",
        "",
        "| network | engine | MiB |",
        "|---|---|---|",
    ]
    for name, parser in (("BiSeNet ResNet-18", str(full)), ("bisenet-lite", "bisenet-lite")):
        for engine in ("torch", "onnx"):
            command = [sys.executable, "-c", program, parser, engine]
            kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            lines.append(f"| {name} | {engine} | {kib / 1024:.0f} |")
    return [*lines, ""]


def score_table(net: BiSeNet, side: int, held_out: list[Photograph]) -> list[str]:
    """IoU of bisenet-lite at the label maps' 512 pixels."""
    network = OnnxNetwork(net, threads=2)
    photographs = [photo.read() for photo in held_out]
    sets: dict[str, list[tuple[RGB, Labels]]] = {
        f"{len(photographs)} held-out photographs": photographs,
        "the same at 224 pixels": [(resize(rgb, VIEW), truth) for rgb, truth in photographs],
        "100 drawn faces": draw_held_out(100),
    }
    columns = {}
    for name, pairs in sets.items():
        counts = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
        for rgb, truth in pairs:
            counts += confusion(truth, network(resize(rgb, side)[None], truth.shape[0], truth.shape[0])[0])
        columns[name] = summarize(counts)
    lines = ["### Scores of bisenet-lite, maps compared at 512 pixels", "", f"| | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for key in ("miou", "accuracy", *CLASSES):
        name = {"miou": "mean IoU (19)", "accuracy": "pixel accuracy"}.get(key, f"IoU {key}")
        lines.append(f"| {name} | " + " | ".join(f"{scores[key]:.3f}" for scores in columns.values()) + " |")
    return [*lines, ""]


def cuda_table(net: BiSeNet, side: int, peak_tflops: float) -> list[str]:
    """Images a second of the CUDA engine at batch 32, and its share of the given bf16 peak."""
    network, batch = CudaNetwork(net), np.zeros((32, side, side, 3), dtype=np.uint8)
    for _ in range(5):
        network(batch, side, VIEW)
    start = time.perf_counter()
    for _ in range(50):
        network(batch, side, VIEW)
    rate = 50 * 32 / (time.perf_counter() - start)
    counted = FlopCounterMode(display=False)
    with counted, torch.no_grad():
        net.float().cpu().forward_coarse(torch.zeros(1, 3, side, side))
    share = rate * counted.get_total_flops() / (peak_tflops * 1e12)
    lines = [
        f"### CUDA, batch 32, {torch.cuda.get_device_name()}",
        "",
        "| images/s | share of bf16 peak |",
        "|---|---|",
    ]
    return [*lines, f"| {rate:.0f} | {share:.1%} of {peak_tflops:.0f} TFLOP/s |", ""]


def random_bisenet() -> BiSeNet:
    """Full size, with statistics such as a trained net has, so that folding them in is not trivial."""
    torch.manual_seed(0)
    net = BiSeNet()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--photographs", type=Path, required=True, help="folder in CelebAMask-HQ's layout")
    arguments.add_argument("--weights", type=Path, help="79999_iter.pth, if it is at hand")
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument(
        "--peak-tflops", type=float, default=989.0, help="dense bf16 peak of the GPU, if there is one"
    )
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    started_on = describe("torch", "onnxruntime", "numpy")

    spec = resolve("bisenet-lite")
    lite = load_bisenet(spec.path)
    full = load_bisenet(options.weights) if options.weights else random_bisenet()
    weights = "published weights" if options.weights else "random weights"
    held_out = split_held_out(find_photographs(options.photographs))[1]
    photographs = [photo.read()[0] for photo in held_out[:50]]

    lines = [
        "# Face parsing",
        "",
        f"    python benchmarks/parsing.py --photographs ../shared/data/celebamask-hq --rounds {options.rounds}",
        "",
        f"{started_on} bisenet-lite sha256 {spec.sha256[:16]}.",
        "CPU time is the process's own, so that other work on the machine counts less; +- is half the interquartile range.",
        "",
    ]
    lines += speed_table(f"BiSeNet ResNet-18 ({weights})", full, 512, photographs, options.rounds)
    lines += speed_table("bisenet-lite", lite, spec.input_size, photographs, options.rounds * 2)
    nets = {f"BiSeNet ResNet-18 ({weights})": (full, 512), "bisenet-lite": (lite, spec.input_size)}
    lines += agreement_table(nets, photographs)
    path = Path(options.out or "parsing.md").with_suffix(".tmp.pth")
    torch.save(full.state_dict(), path)
    lines += memory_table(path)
    path.unlink()
    lines += score_table(lite, spec.input_size, held_out)
    if torch.cuda.is_available():
        lines += cuda_table(full, 512, options.peak_tflops)
    else:
        lines += ["No GPU was at hand: nothing is claimed for the CUDA engine.", ""]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
