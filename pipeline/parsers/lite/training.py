"""Trains `bisenet-lite`: `python -m bmrl.pipeline.parsers.lite.training --celebamask-hq DIR --drawn-faces N --out FILE`.

The command of the shipped weights stands in docs/bisenet-lite.md. The learning rate is constant after a warm-up and
falls linearly over the last `decay_steps`, so a run may be stopped (the checkpoint goes on) and lengthened at will.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...demo.faces import IDENTITY_RANGES
from ...store.local import write_bytes
from ...views.bisenet import BiSeNet
from ..orders import NUM_CLASSES, Labels
from ..shipped import TrainingRecord, save_weights
from .augmentation import IGNORE, RGB, Augmentation
from .celebamask import Photograph, find_photographs, split_held_out
from .drawn import draw_for_training
from .pictures import Pictures
from .scores import confusion, summarize

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    width: int = 24
    stages: tuple[tuple[int, int], ...] = ((256, 4000), (384, 1500))  # (input pixels a side, steps) one after another
    decay_steps: int = 1500  # at the end, learning rate -> 0
    batch_size: int = 16
    drawn_fraction: float = 0.25  # of each batch, where there are drawn faces
    rare_fraction: float = 0.2  # of each batch: photographs chosen for a rare class (RARE)
    learning_rate: float = 2e-3  # AdamW
    warmup_steps: int = 200
    weight_decay: float = 0.03  # convolutions only
    ema_decay: float = 0.998
    dice_weight: float = 0.5  # besides cross-entropy; what the small classes gain from
    aux_weight: float = 0.4  # of each auxiliary head's cross-entropy
    class_power: float = 0.25  # class weight = (median frequency / frequency) ** class_power
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in self.stages)

    def size_at(self, step: int) -> int:
        """Input pixels a side of a step."""
        for size, steps in self.stages:
            if step < steps:
                return size
            step -= steps
        return self.stages[-1][0]

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup_steps)
        fall = min(1.0, (self.steps - step) / max(1, self.decay_steps))
        return self.learning_rate * rise * fall


def make_batch(pictures: Pictures, params: TrainingParams, *, step: int) -> tuple[Tensor, Tensor]:
    """The batch of a step, a pure function of (seed, step): uint8 (B, 3, S, S) and int64 labels (B, S/2, S/2)."""
    rng = np.random.default_rng((params.seed, step))
    size, augmentation = params.size_at(step), Augmentation()
    num_drawn = round(params.batch_size * params.drawn_fraction) if pictures.drawn else 0
    num_rare = round(params.batch_size * params.rare_fraction)
    num_photographs = params.batch_size - num_drawn - num_rare
    # Photographs run through shuffled epochs; drawn faces and rare classes are sampled.
    first, count = step * num_photographs, len(pictures.photographs)
    chosen = []
    for i in range(first, first + num_photographs):
        epoch, place = divmod(i, count)
        chosen.append(
            pictures.photograph(int(np.random.default_rng((params.seed, 1, epoch)).permutation(count)[place]))
        )
    holders = [holder for holder in pictures.rare if holder] or [list(range(count))]
    for i in rng.integers(0, len(holders), num_rare):
        chosen.append(pictures.photograph(int(rng.choice(holders[int(i)]))))
    chosen += [pictures.drawn[int(i)] for i in rng.integers(0, max(1, len(pictures.drawn)), num_drawn)]
    grid = np.round(np.linspace(0, size - 1, size // 2)).astype(
        np.int64
    )  # corners aligned, as the network's upsampling
    images, labels = [], []
    for rgb, truth in chosen:
        image, label = augmentation.apply(rgb, truth, size=size, rng=rng)
        images.append(image)
        labels.append(label[grid][:, grid])
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # BHWC -> BCHW, channels_last in memory
    return batch, torch.from_numpy(np.stack(labels).astype(np.int64))


def normalize(batch: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) RGB -> float32, ImageNet's mean and std."""
    return (batch.float() / 255 - IMAGENET_MEAN) / IMAGENET_STD


def parsing_loss(heads: tuple[Tensor, ...], labels: Tensor, class_weight: Tensor, params: TrainingParams) -> Tensor:
    """Main head: weighted cross-entropy and Dice at the labels' size; auxiliary heads: cross-entropy at half of it.

    heads: logits (B, N, h, w) each; labels int64 (B, H, W) with IGNORE; class_weight (N,).
    """
    main = _upsample(heads[0], labels.shape[1])
    loss = F.cross_entropy(main, labels, weight=class_weight, ignore_index=IGNORE)
    loss = loss + params.dice_weight * dice_loss(main, labels)
    half = labels[:, ::2, ::2]
    for head in heads[1:]:
        aux = F.cross_entropy(_upsample(head, half.shape[1]), half, weight=class_weight, ignore_index=IGNORE)
        loss = loss + params.aux_weight * aux
    return loss


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - mean Dice over the classes that occur in the batch; logits (B, N, H, W), labels (B, H, W) with IGNORE."""
    valid = (labels != IGNORE).unsqueeze(1)
    prob = logits.softmax(1) * valid  # (B, N, H, W)
    truth = F.one_hot(labels.masked_fill(labels == IGNORE, 0), NUM_CLASSES).permute(0, 3, 1, 2) * valid  # BHWN -> BNHW
    shared = (prob * truth).sum((0, 2, 3))
    size = prob.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    present = truth.sum((0, 2, 3)) > 0
    return 1 - (2 * shared[present] / size[present].clamp_min(1)).mean()


def count_classes(pictures: Pictures, *, sample: int = 100) -> Tensor:
    """(N,) float64: share of each class over the first photographs."""
    counts = np.zeros(NUM_CLASSES, dtype=np.int64)
    for i in range(min(sample, len(pictures.photographs))):
        counts += np.bincount(pictures.photograph(i)[1].ravel(), minlength=NUM_CLASSES)
    return torch.from_numpy(counts / counts.sum())


@torch.inference_mode()
def evaluate(net: BiSeNet, pairs: list[tuple[RGB, Labels]], *, input_size: int) -> dict[str, float]:
    """Scores at the label maps' own size (512): logits upsampled straight to it."""
    net.eval()
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    for rgb, truth in pairs:
        batch = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]  # HWC -> 1CHW
        if rgb.shape[0] != input_size:
            batch = F.interpolate(batch, size=(input_size, input_size), mode="bilinear", antialias=True)
        logits = net.forward_coarse(normalize(batch))
        counts += confusion(truth, _upsample(logits, truth.shape[0])[0].argmax(0).numpy().astype(np.uint8))
    return summarize(counts)


class Run:
    """Network, its running average, optimiser and step; saved and restored as one."""

    def __init__(self, params: TrainingParams) -> None:
        torch.manual_seed(params.seed)
        self.params, self.step = params, 0
        self.net = BiSeNet(NUM_CLASSES, width=params.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        convs = [value for value in self.net.parameters() if value.ndim > 1]
        rest = [value for value in self.net.parameters() if value.ndim <= 1]
        groups = [{"params": convs, "weight_decay": params.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=params.learning_rate, betas=(0.9, 0.98))

    def train_step(self, images: Tensor, labels: Tensor, class_weight: Tensor) -> float:
        """One optimiser step; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.params.rate_at(self.step)
        self.net.train()
        with torch.autocast("cpu", torch.bfloat16):
            heads = self.net.forward_heads(normalize(images))
        loss = parsing_loss(tuple(head.float() for head in heads), labels, class_weight, self.params)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimizer.step()
        self.step += 1
        keep = min(self.params.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.net.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - keep)
                else:
                    self.average[name].copy_(value)
        return float(loss.detach())

    def averaged(self) -> BiSeNet:
        """A network with the running average of the weights, in eval mode."""
        net = BiSeNet(NUM_CLASSES, width=self.params.width)
        net.load_state_dict(self.average)
        return net.eval()

    def save(self, path: Path) -> None:
        state = {"step": self.step, "net": self.net.state_dict(), "average": self.average}
        data = io.BytesIO()
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, data)
        write_bytes(path, data.getvalue())

    def restore(self, path: Path) -> None:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.step, self.average = state["step"], state["average"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


def train(run: Run, pictures: Pictures, held_out: list[Photograph], *, out: Path, checkpoint: Path) -> None:
    """Train to the last step; a checkpoint, weights and a line of scores every 250 steps."""
    params = run.params
    frequency = count_classes(pictures)
    class_weight = (frequency.median() / frequency.clamp_min(1e-5)).pow(params.class_power).clamp(0.4, 4.0).float()
    pairs = [photo.read() for photo in held_out]
    started, losses = time.monotonic(), []
    for images, labels in _batches(pictures, params, first=run.step):
        losses.append(run.train_step(images, labels, class_weight))
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"loss {losses[-1]} at step {run.step}; lower the learning rate")
        if run.step % 50 == 0:
            rate = (time.monotonic() - started) / len(losses[-50:])
            click.echo(f"step {run.step}/{params.steps} loss {np.mean(losses[-50:]):.4f} {rate:.2f} s/step", err=True)
            started = time.monotonic()
        if run.step % 250 == 0 or run.step == params.steps:
            run.save(checkpoint)
            last = run.step == params.steps
            scores = evaluate(run.averaged(), pairs if last else pairs[:30], input_size=params.size_at(run.step - 1))
            save_weights(run.averaged(), out, input_size=params.size_at(run.step - 1))
            click.echo(json.dumps({"step": run.step} | {name: round(value, 4) for name, value in scores.items()}))
            started = time.monotonic()


def _batches(pictures: Pictures, params: TrainingParams, *, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    with ThreadPoolExecutor(1) as pool:
        ahead = [
            pool.submit(make_batch, pictures, params, step=step) for step in range(first, min(first + 2, params.steps))
        ]
        for step in range(first, params.steps):
            if step + 2 < params.steps:
                ahead.append(pool.submit(make_batch, pictures, params, step=step + 2))
            yield ahead.pop(0).result()


def _upsample(logits: Tensor, size: int) -> Tensor:
    return F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=True)


@click.command()
@click.option("--celebamask-hq", "folder", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--drawn-faces", default=0, show_default=True, help="Number of drawn identities mixed in.")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="NAME.safetensors to write."
)
@click.option("--stages", default="256x4000,384x1500", show_default=True, help="Input size x steps, comma separated.")
@click.option("--decay-steps", default=1500, show_default=True)
@click.option("--width", default=24, show_default=True)
@click.option("--batch-size", default=16, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(folder: Path, drawn_faces: int, out: Path, stages: str, threads: int, **options: int) -> None:
    """Train the narrow BiSeNet; run again to go on from NAME.checkpoint."""
    torch.set_num_threads(threads)
    pairs = tuple((int(size), int(steps)) for size, steps in (part.split("x") for part in stages.split(",")))
    params = TrainingParams(stages=pairs, **options)
    training, held_out = split_held_out(find_photographs(folder))
    pictures = Pictures(training, draw_for_training(drawn_faces))
    identities = IDENTITY_RANGES["parser"][:drawn_faces]
    TrainingRecord(
        photographs=tuple(photo.stem for photo in training),
        held_out=tuple(photo.stem for photo in held_out),
        drawn_identities=(identities.start, identities.stop),
    ).write(out.with_suffix(".json"))
    run, checkpoint = Run(params), out.with_suffix(".checkpoint")
    if checkpoint.exists():
        run.restore(checkpoint)
    click.echo(json.dumps(asdict(params) | {"photographs": len(training), "drawn": drawn_faces, "step": run.step}))
    train(run, pictures, held_out, out=out, checkpoint=checkpoint)


if __name__ == "__main__":
    main()
