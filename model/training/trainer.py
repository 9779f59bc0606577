"""The trainer: batches in, a run directory out. It knows attributors by their interface alone, and is the same for all.

Everything that follows a step is a function of (weights, optimizer, step, loader state), so a resumed run goes on bit
for bit on a CPU: flips are drawn from (seed, step), learning rates computed from the step.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from ..attributor import Attributor
from ..config import LossConfig, TrainConfig
from ..inputs import Batch, flip, to_device
from .checkpoint import Checkpoints, save_weights


class TrainingError(RuntimeError):
    """Training cannot go on; the text says why and the next step."""


class BatchLoader(Protocol):
    """Iterates one epoch a time and can be resumed within it (pipeline.loader.Loader)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    @property
    def epoch(self) -> int: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Step:
    """What a progress bar shows after a step."""

    step: int
    total: int
    epoch: int
    loss: float
    accuracy: float
    samples: int


class Trainer:
    """Trains one attributor into one run directory."""

    def __init__(
        self,
        model: Attributor,
        *,
        train: BatchLoader,
        validation: Callable[[], Iterable[Batch]],
        run: Path,
        device: torch.device,
    ) -> None:
        self.model, self.run, self.device = model, run, device
        self.config: TrainConfig = model.config.train
        self.weights: LossConfig = model.config.losses
        self._train, self._validation = train, validation
        self._steps_per_epoch = len(train)
        if self._steps_per_epoch == 0:
            raise TrainingError(
                f"the training split has fewer samples than one batch of {self.config.batch_size}; use a smaller --batch-size"
            )
        self._names, self.optimizer = make_optimizer(model, self.config)
        self._checkpoints = Checkpoints(run)
        self._best_nll = math.inf
        self._stop = False

    def fit(self, *, resume: bool, on_step: Callable[[Step], None], on_epoch: Callable[[dict[str, Any]], None]) -> bool:
        """Train to the last epoch; False where a signal ended it early (the state is saved). Raises TrainingError."""
        step = self._restore() if resume else 0
        total = self.config.epochs * self._steps_per_epoch
        _cut_metrics(self.run / "metrics.jsonl", step, self._train.epoch)
        previous = {name: signal.signal(name, self._request_stop) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            with (self.run / "metrics.jsonl").open("a") as metrics:
                while self._train.epoch < self.config.epochs and not self._stop:
                    step = self._epoch(step, total, metrics, on_step, on_epoch)
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
        return not self._stop

    def _epoch(
        self,
        step: int,
        total: int,
        metrics: Any,
        on_step: Callable[[Step], None],
        on_epoch: Callable[[dict[str, Any]], None],
    ) -> int:
        epoch = self._train.epoch
        self.model.train()
        for batch in self._train:
            start = time.perf_counter()
            record = self._step(batch, step, epoch)
            step += 1
            samples = len(batch["key"])
            record |= {"step": step, "epoch": epoch, "samples_per_s": samples / (time.perf_counter() - start)}
            _write_line(metrics, record)
            on_step(Step(step, total, epoch, record["loss"], record.get("accuracy", math.nan), samples))
            last = step % self._steps_per_epoch == 0
            if self._stop or (step % self.config.checkpoint_every == 0 and not last):
                self._save(step)
            if self._stop:
                return step
        self.model.end_epoch()
        summary = {"epoch": epoch, **self.evaluate()}
        _write_line(metrics, summary)
        if summary["val_nll"] < self._best_nll or not summary["val_n"]:  # without validation rows: the last epoch
            self._best_nll = summary["val_nll"]
            save_weights(self.model, self.run / "best.safetensors")
        self._save(step)
        on_epoch(summary)
        return step

    def _step(self, batch: Batch, step: int, epoch: int) -> dict[str, Any]:
        batch = to_device(batch, self.device)
        if self.config.flip:
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
            batch = flip(batch, (torch.rand(len(batch["key"]), generator=generator) < 0.5).to(self.device))
        rate = learning_rate(self.config, step, self._steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            with self._autocast():
                terms = self.model.losses(batch)
            loss = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()]).sum()
            if not bool(torch.isfinite(loss)):
                raise TrainingError(
                    f"the loss is {float(loss.detach())} at step {step + 1} ("
                    + ", ".join(f"{name} {float(term.detach()):.3g}" for name, term in terms.items())
                    + "); go on from the last checkpoint with --resume and a smaller --set lr"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"out of GPU memory at batch size {self.config.batch_size}; use a smaller --batch-size or --preset small"
            ) from None
        norm = clip_grad_norm_(self.model.parameters(), self.config.clip_norm or math.inf)
        self.optimizer.step()
        return {
            "loss": float(loss.detach()),
            **{f"loss_{name}": float(term.detach()) for name, term in terms.items()},
            **self.model.record,
            "lr": rate,
            "grad_norm": float(norm),
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracy and NLL on the validation rows, {} keys val_accuracy, val_nll, val_n; zeros without rows."""
        self.model.eval()
        logits, labels = [], []
        for batch in self._validation():
            with self._autocast():
                logits.append(self.model.logits(to_device(batch, self.device)).float().cpu())
            labels.append(batch["label"])
        self.model.train()
        if not labels:
            return {"val_accuracy": 0.0, "val_nll": 0.0, "val_n": 0}
        scores, truth = torch.cat(logits), torch.cat(labels)
        return {
            "val_accuracy": float((scores.argmax(dim=1) == truth).double().mean()),
            "val_nll": float(cross_entropy(scores.double(), truth)),
            "val_n": len(truth),
        }

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _save(self, step: int) -> None:
        state = {"step": step, "loader": self._train.state_dict(), "best_val_nll": _json_number(self._best_nll)}
        # Within `for batch in loader` the last batch of an epoch is consumed, but the loader's epoch not yet advanced.
        self._checkpoints.save(self.model, self.optimizer, self._names, state)

    def _restore(self) -> int:
        state = self._checkpoints.load(self.model, self.optimizer, self._names)
        if state is None:
            return 0
        self._train.load_state_dict(state["loader"])
        self._best_nll = math.inf if state["best_val_nll"] is None else state["best_val_nll"]
        return int(state["step"])

    def _request_stop(self, *_: object) -> None:
        self._stop = True


def make_optimizer(model: Attributor, config: TrainConfig) -> tuple[list[str], torch.optim.Optimizer]:
    """Parameter names in the optimizer's order, and the optimizer; `undecayed` parameters get no weight decay."""
    spared = model.undecayed()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [(name, p) for name, p in named if name not in spared]
    free = [(name, p) for name, p in named if name in spared]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if config.optimizer not in kinds:
        raise TrainingError(f"unknown optimizer {config.optimizer!r}; known are {', '.join(kinds)}")
    groups = [
        {"params": [p for _, p in decayed], "weight_decay": config.weight_decay},
        {"params": [p for _, p in free], "weight_decay": 0.0},
    ]
    return [name for name, _ in (*decayed, *free)], kinds[config.optimizer](groups, lr=config.lr)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of step 0, 1, ...: step (the paper's StepLR), cosine with one epoch of warm-up, or constant."""
    epoch = step // steps_per_epoch
    if config.schedule == "step":
        return config.lr * 0.1 ** (epoch // config.step_epochs)
    if config.schedule == "cosine":
        warm = min(steps_per_epoch, config.epochs * steps_per_epoch // 10 + 1)
        if step < warm:
            return config.lr * (step + 1) / warm
        share = (step - warm) / max(1, config.epochs * steps_per_epoch - warm)
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * share))
    if config.schedule == "constant":
        return config.lr
    raise TrainingError(f"unknown schedule {config.schedule!r}; known are step, cosine, constant")


def _write_line(file: Any, record: dict[str, Any]) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()


def _cut_metrics(path: Path, step: int, epoch: int) -> None:
    """Drop the lines after the checkpoint: steps beyond it, and validations of epochs not finished by it."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a line torn by the crash
        if record["step"] <= step if "step" in record else record["epoch"] < epoch:
            kept.append(line + "\n")
    temporary = path.with_name(".tmp-metrics.jsonl")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


__all__ = ["Step", "Trainer", "TrainingError", "learning_rate", "make_optimizer"]
