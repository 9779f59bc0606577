"""The trainer: batches in, a run directory out. It knows attributors by their interface alone, and is the same for all.

Everything that follows a step is a function of (weights, optimizer, step, loader state), so a resumed run goes on bit
for bit on a CPU: flips, dropout and crops are drawn from (seed, step), learning rates computed from the step.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, get_total_norm

from ..attributor import Attributor
from ..config import TrainConfig
from ..errors import RunError, TrainingError
from ..inputs import Batch, flip, to_device
from .checkpoint import Checkpoints, save_weights
from .distributed import World, any_of, average, average_gradients, same_everywhere
from .metrics import MetricsLog, open_metrics
from .optimizer import learning_rate, make_optimizer


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
    """Trains one attributor into one run directory; with others where the world has several processes.

    A batch of the settings is one optimizer step: `train.accumulate` splits it into parts and the world into shares.
    Contrastive terms, DFACC's pairs and batch norm see one part of one share.
    """

    def __init__(
        self,
        model: Attributor,
        *,
        train: BatchLoader,
        validation: Callable[[], Iterable[Batch]],
        run: Path,
        device: torch.device,
        world: World = World(),  # noqa: B008  # frozen
        other: BatchLoader | None = None,
        meaning: str | None = None,
    ) -> None:
        """other: a second order of the same rows, for an attributor that tunes itself before each step. meaning: what its
        weights are, saved with them."""
        self.model, self.run, self.device, self.world = model, run, device, world
        self.config: TrainConfig = model.config.train
        self.weights = model.loss_weights()
        self._train, self._validation = train, validation
        self._other = other if model.tunes else None
        self._steps_per_epoch = len(train)
        if self._steps_per_epoch == 0:
            raise TrainingError(
                f"the training split has fewer samples than one batch of {self.config.batch_size}; use a smaller --batch-size"
            )
        self._names, self.optimizer = make_optimizer(model, self.config)
        self._checkpoints = Checkpoints(run, meaning=meaning)
        self._saved_step: int | None = None
        self._best = math.inf  # of the figure that the attributor picks by
        self._best_epoch = 0
        self._asked_to_stop = False  # by a signal, which may come at any moment to any of the processes
        self._stop = False  # as they agreed between two steps

    def fit(self, *, resume: bool, on_step: Callable[[Step], None], on_epoch: Callable[[dict[str, Any]], None]) -> bool:
        """Train to the last epoch; False where a signal ended it early (the state is saved). Raises TrainingError."""
        step = self._restore() if resume else 0
        if not same_everywhere((step, self._steps_per_epoch, self._train.state_dict(), self.config), self.world):
            raise TrainingError(
                f"the processes do not start alike (this one after step {step}): they need the same options, and --out and "
                "--shards on a file system that all of them see"
            )
        if self._ended():
            return True
        if not self.model.steps:
            return self._fit_once(on_epoch)
        total = self.config.epochs * self._steps_per_epoch
        previous = {
            name: signal.signal(name, self._request_stop)
            for name in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(name) is not signal.SIG_IGN  # a background shell asks to leave Ctrl-C alone
        }
        try:
            with ExitStack() as stack:
                metrics: MetricsLog | None = None
                if self.world.writes:
                    self._checkpoints.sweep()
                    with self._writing():
                        metrics = stack.enter_context(open_metrics(self.run, step, self._train.epoch))
                with self._in_memory("while batches are read"):
                    while not (self._stop or self._all_ended()):
                        step = self._epoch(step, total, metrics, on_step, on_epoch)
        finally:
            for name, handler in previous.items():
                signal.signal(name, handler)
        return not (self._stop or self._asked_to_stop)  # the one may come after the last agreement

    def _ended(self) -> bool:
        """Whether the last epoch is over, or none was better for as long as the settings have patience."""
        epoch, patience = self._train.epoch, self.config.patience
        if not self.model.steps:
            return epoch >= 1
        return epoch >= self.config.epochs or (0 < patience < epoch - self._best_epoch)

    def _all_ended(self) -> bool:
        """As they agree: the process that validates alone knows which epoch was the best."""
        ended = self._ended()
        return any_of(ended, self.world, self.device) if self.config.patience else ended

    def _epoch(
        self,
        step: int,
        total: int,
        metrics: MetricsLog | None,
        on_step: Callable[[Step], None],
        on_epoch: Callable[[dict[str, Any]], None],
    ) -> int:
        epoch = self._train.epoch
        self.model.train()
        ended = time.perf_counter()
        others = iter(self._other) if self._other is not None else None
        for batch in self._train:
            received = time.perf_counter()
            if others is not None:
                self._tune(batch, next(others), step)
            record = self._step(batch, step)
            step += 1
            now = time.perf_counter()
            samples = len(batch["key"]) * self.world.size
            clocks = {"samples_per_s": samples / (now - ended), "loader_wait_s": received - ended}
            record = {"step": step, "epoch": epoch, **record, **clocks}
            if metrics is not None:
                with self._writing():
                    metrics.write(record)
                on_step(Step(step, total, epoch, record["loss"], record.get("accuracy", math.nan), samples))
            self._stop = any_of(self._asked_to_stop, self.world, self.device)
            last = step % self._steps_per_epoch == 0
            if self._stop or (step % self.config.checkpoint_every == 0 and not last):
                self._check_weights(step)
                self._save(step)
            if self._stop:
                return step
            ended = time.perf_counter()
        for _ in others or ():  # as long as this one: nothing is left, and its epoch ends too
            pass
        self.model.end_epoch()
        self._check_weights(step)
        if metrics is not None:
            summary = self._validated(epoch, step, metrics)
        self._save(step)
        if metrics is not None:
            on_epoch(summary)
        # The others wait here for the one that validates.
        self._stop = any_of(self._asked_to_stop, self.world, self.device)
        return step

    def _fit_once(self, on_epoch: Callable[[dict[str, Any]], None]) -> bool:
        """One pass over the rows for an attributor without steps, its validation, and a checkpoint of the finished run."""
        if self.world.size > 1:
            raise TrainingError("this attributor is fitted by one process; start it without torchrun")
        self._checkpoints.sweep()
        self.model.eval()
        with ExitStack() as stack:
            with self._writing():
                metrics = stack.enter_context(open_metrics(self.run, 0, 0))
            with self._in_memory("while batches are read"):
                self.model.fit(to_device(batch, self.device) for batch in self._train)
            self._check_weights(0)
            summary = self._validated(0, 0, metrics)
        self._save(0)
        on_epoch(summary)
        return True

    def _validated(self, epoch: int, step: int, metrics: MetricsLog) -> dict[str, Any]:
        """The validation's figures, written; the weights are the best ones where its NLL is the lowest so far."""
        with self._in_memory(f"in the validation after step {step}"):
            summary = {"epoch": epoch, **self.evaluate()}
        if not math.isfinite(summary["val_nll"]):  # never the best: the run would end without best.safetensors
            raise TrainingError(f"the validation NLL is {summary['val_nll']} after step {step}; {self._next_step()}")
        with self._writing():
            metrics.write(summary)
            # Without validation rows: the last epoch.
            figure = summary[f"val_{self.model.picks_by}"]
            if figure < self._best or not summary["val_n"]:
                self._best, self._best_epoch = figure, epoch
                save_weights(self.model, self.run / "best.safetensors", meaning=self._checkpoints.meaning)
        return summary

    def _tune(self, batch: Batch, other: Batch, step: int) -> None:
        rate = learning_rate(self.config, step, self._steps_per_epoch)
        with self._in_memory(f"at step {step + 1}"):
            self.model.tune(to_device(batch, self.device), to_device(other, self.device), rate)

    def _step(self, batch: Batch, step: int) -> dict[str, float]:
        rate = learning_rate(self.config, step, self._steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._in_memory(f"at step {step + 1}"):
            batch = self._flipped(to_device(batch, self.device), step)
            self.optimizer.zero_grad(set_to_none=True)
            # What is random in a step (dropout, crops) is a function of the seed, the step and the process.
            torch.manual_seed((self.config.seed * 1_000_003 + step) * self.world.size + self.world.rank)
            figures = self._backward(batch)
            average_gradients(self.model.parameters(), self.world)
            figures["grad_norm"] = self._gradient_norm()
            record = self._read(figures)
            self._check_figures(record, step)
            self.optimizer.step()
            average([buffer for buffer in self.model.buffers() if buffer.is_floating_point()], self.world)
        return {**record, "lr": rate}

    @contextmanager
    def _in_memory(self, when: str) -> Iterator[None]:
        """Out of memory in one sentence."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if isinstance(error, TrainingError) or not _is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory on {self.device.type} {when} with batches of {self.config.batch_size}; train into "
                f"another --out with --set accumulate={2 * self.config.accumulate}, a smaller --batch-size or a smaller --preset"
            ) from None

    def _flipped(self, batch: Batch, step: int) -> Batch:
        """Drawn for the whole batch from (seed, step); each process takes its share."""
        if not self.config.flip:
            return batch
        share = len(batch["key"])
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        chosen = torch.rand(share * self.world.size, generator=generator) < 0.5
        return flip(batch, chosen[self.world.rank * share :][:share].to(self.device))

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        """Gradients of the batch, part by part; the means of the parts' figures."""
        parts = split(batch, self.config.accumulate)
        sums: dict[str, Tensor] = {}
        for part in parts:
            with self._autocast():
                terms = self.model.losses(part)
            loss = self._total(terms)
            (loss / len(parts)).backward()
            named = {f"loss_{name}": term for name, term in terms.items()}
            for name, figure in {"loss": loss, **named, **self.model.record}.items():
                sums[name] = sums.get(name, 0.0) + figure.detach().float()
        return {name: figure / len(parts) for name, figure in sums.items()}

    def _gradient_norm(self) -> Tensor:
        """The norm before clipping, float32 scalar."""
        if self.config.clip_norm:
            return clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        return get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def _read(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """One transfer from the device for all figures; their means over the processes."""
        stacked = torch.stack([figure.float().reshape(()) for figure in figures.values()])
        average([stacked], self.world)
        return dict(zip(figures, stacked.tolist(), strict=True))

    def _check_figures(self, record: dict[str, float], step: int) -> None:
        """Before the optimizer's step, so that the weights are still those of the last step."""
        what = None
        if not math.isfinite(record["loss"]):
            terms = ", ".join(
                f"{name.removeprefix('loss_')} {v:.3g}" for name, v in record.items() if name[:5] == "loss_"
            )
            what = f"the loss is {record['loss']} at step {step + 1} ({terms})"
        elif not math.isfinite(record["grad_norm"]):
            what = f"the gradient exploded: its norm is {record['grad_norm']} at step {step + 1} (loss {record['loss']:.3g})"
        if what:
            raise TrainingError(f"{what}; {self._next_step()}")

    def _check_weights(self, step: int) -> None:
        """A checkpoint never holds what cannot be trained on."""
        tensors = {name: t for name, t in self.model.state_dict().items() if t.is_floating_point()}
        finite = torch.stack([t.isfinite().all() for t in tensors.values()]).tolist()  # one transfer from the device
        bad = [name for name, fine in zip(tensors, finite, strict=True) if not fine]
        if bad:
            raise TrainingError(
                f"{len(bad)} of {len(finite)} weight tensors are not finite after step {step}, such as {bad[0]}; "
                + self._next_step()
            )

    def _kept(self) -> str:
        return (
            f"the checkpoint of step {self._saved_step} is whole" if self._saved_step else "there is no checkpoint yet"
        )

    def _next_step(self) -> str:
        return f"{self._kept()}; train into another --out with a smaller --set lr=... or with --set clip_norm=1"

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracy and NLL on the validation rows, {} keys val_accuracy, val_nll, val_n; zeros without rows."""
        self.model.eval()
        logits, labels = [], []
        losses, by_loss = 0.0, self.model.picks_by == "loss"  # times rows
        for stored in self._validation():
            batch = to_device(stored, self.device)
            with self._autocast():
                logits.append(self.model.logits(batch).float().cpu())
                if by_loss:
                    losses += len(batch["label"]) * float(self._total(self.model.losses(batch)))
            labels.append(stored["label"])
        self.model.train()
        if not labels:
            return {"val_accuracy": 0.0, "val_nll": 0.0, "val_n": 0} | ({"val_loss": 0.0} if by_loss else {})
        scores, truth = torch.cat(logits), torch.cat(labels)
        return {
            "val_accuracy": float((scores.argmax(dim=1) == truth).double().mean()),
            "val_nll": float(cross_entropy(scores.double(), truth)),
            "val_n": len(truth),
        } | ({"val_loss": losses / len(truth)} if by_loss else {})

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _save(self, step: int) -> None:
        """Of weights that were checked."""
        if self.world.writes:
            state = {
                "step": step,
                "loader": self._train.state_dict(),
                "best_val_nll": _json_number(self._best),
                "best_epoch": self._best_epoch,
            }
            # Within `for batch in loader` the last batch of an epoch is consumed, the loader's epoch not yet advanced.
            with self._writing():
                self._checkpoints.save(self.model, self.optimizer, self._names, state)
        self._saved_step = step

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.run, f"{self._kept()}; ")

    def _restore(self) -> int:
        state = self._checkpoints.load(self.model, self.optimizer, self._names)
        if state is None:
            return 0
        if self.world.writes:
            with self._writing():
                self._checkpoints.relink(state)
        try:
            self._train.load_state_dict(state["loader"])
        except ValueError as error:
            raise RunError(f"{self.run} was trained otherwise: {error}; train into another --out") from error
        if self._other is not None:  # it stands where the first one does, in its own order
            self._other.load_state_dict({**state["loader"], "seed": self._other.state_dict()["seed"]})
        self._best = math.inf if state["best_val_nll"] is None else state["best_val_nll"]
        self._best_epoch = state.get("best_epoch", max(0, self._train.epoch - 1))
        self._saved_step = int(state["step"])
        return self._saved_step

    def _request_stop(self, *_: object) -> None:
        self._asked_to_stop = True


@contextmanager
def writing(folder: Path, kept: str = "") -> Iterator[None]:
    """A full disk, or a folder that may not be written or is gone, in one sentence. Raises TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{error.filename or folder} cannot be written: {error.strerror}; {kept}make room, then go on with --resume"
        ) from error


def split(batch: Batch, parts: int) -> list[Batch]:
    """Equal consecutive parts of a batch. Raises ValueError where they would not be equal."""
    count = len(batch["key"])
    if count % parts:
        raise ValueError(
            f"{count} samples cannot be split into {parts} equal parts; change train.accumulate or the batch size"
        )
    size = count // parts
    return [{k: v[i * size : (i + 1) * size] for k, v in batch.items()} for i in range(parts)]


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """The CPU allocator raises a plain RuntimeError, and so do the CUDA driver and cuBLAS."""
    words = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(part in str(error) for part in words)


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


__all__ = ["Step", "Trainer", "TrainingError", "learning_rate", "make_optimizer", "writing"]
