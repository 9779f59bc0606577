"""Wiring of `bmrl-train`: the shard set's loaders and the attributor's trainer meet here."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from ..model import from_config
from ..model.attributor import Attributor
from ..model.blocks import compile_blocks, use_channels_last
from ..model.config import RunConfig, config_to_json
from ..model.evaluation.evaluate import collect
from ..model.evaluation.scores import fit_temperature, threshold_for_acceptance
from ..model.rules import check_config
from ..model.training.checkpoint import RunError, load_weights, write_json
from ..model.training.distributed import World, any_of, join, leave
from ..model.training.run import Run, read_run, write_run
from ..model.training.trainer import Step, Trainer, TrainingError, writing
from ..pipeline.loading.device_loader import DeviceLoader
from ..pipeline.protocols import Protocol
from ..pipeline.shardset import ShardSet, ShardSetError
from ..pipeline.store.local import NO_LOCKS, RootBusyError, lock_root
from .exits import raise_if_interrupted

VALIDATION_BATCH = 64


class WrongUseError(ValueError):
    """Exit code 2."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    out: Path
    config: RunConfig
    protocol: Protocol | None
    protocol_name: str | None
    device: str | None
    resume: bool
    patch_size: int | None  # asked for with --set; None: as the shards have it


def choose_device(name: str | None) -> torch.device:
    """Raises WrongUseError for a device that is not here."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise WrongUseError(f"unknown --device {name!r}; known are cuda, cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise WrongUseError("--device cuda: no CUDA device is available here; use --device cpu")
    index = name.removeprefix("cuda:") if ":" in name else os.environ.get("LOCAL_RANK", "") if name == "cuda" else ""
    if index and not (index.isdecimal() and int(index) < torch.cuda.device_count()):
        raise WrongUseError(
            f"--device {name}: there is no CUDA device {index}, {torch.cuda.device_count()} in all; every process needs its own"
        )
    return torch.device("cuda", int(index)) if index else torch.device(name)


def train(shard_set: ShardSet, request: TrainRequest) -> bool:
    """Train to the end and calibrate; False where a signal stopped it."""
    device = choose_device(request.device)
    if device.index is not None:
        torch.cuda.set_device(device)
    with ExitStack() as stack:
        world = join(device)
        stack.callback(leave)
        return _train(shard_set, request, device, world, stack)


def _train(shard_set: ShardSet, request: TrainRequest, device: torch.device, world: World, held: ExitStack) -> bool:
    selected = shard_set.select(protocol=request.protocol, part="seen" if request.protocol else None)
    if world.writes:
        _say_missing(selected)
    train_rows, val_rows = selected.select(split="train"), selected.select(split="val")
    if len(train_rows) == 0:
        raise TrainingError(f"{shard_set.root} has no training rows for these classes; build the train split")
    if world.writes:
        _say_untrained(train_rows, selected.missing_sources)
    if kindless := sorted(set(np.array(train_rows.index["generator"])[train_rows.labels < 0].tolist())):
        raise WrongUseError(
            f"protocol {selected.protocol.name if selected.protocol else ''}: {', '.join(kindless)} is of unknown kind, "
            "neither real nor fake"
        )
    config = _with_patch_size(request, shard_set)
    run = Run(
        config=config,
        classes=train_rows.classes,
        protocol=request.protocol_name,
        data={
            "name": shard_set.document["name"],
            "root_digest": shard_set.root_digest,
            "selection": train_rows.digest,
            "views": {name: view["digest"] for name, view in shard_set.views.items()},
            "params": {name: view["params"] for name, view in shard_set.views.items()},
            "n_train": train_rows.counts,
            "missing_sources": list(selected.missing_sources),
        },
    )
    settings = config.train
    torch.manual_seed(settings.seed)
    try:
        model = from_config(config, train_rows.classes)
    except ValueError as error:
        raise WrongUseError(str(error)) from error
    share = _share(settings.batch_size, settings.accumulate, world)
    model.to(device)
    use_channels_last(model)  # type: ignore[arg-type]
    if settings.compile:
        compile_blocks(model)  # type: ignore[arg-type]
    try:
        on_cuda = device.type == "cuda"
        loader = train_rows.loader(
            views=model.training_views,
            batch_size=share,
            seed=settings.seed,
            rank=world.rank,
            world_size=world.size,
            pin_memory=on_cuda,
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error

    def validation() -> Iterable[dict[str, Any]]:
        return val_rows.loader(views=model.inference_views, batch_size=VALIDATION_BATCH, shuffle=False)

    train = DeviceLoader(loader, device) if on_cuda else loader
    trainer = Trainer(model, train=train, validation=validation, run=request.out, device=device, world=world)
    refusal: Exception | None = None  # RUN is touched last: what cannot be trained leaves none behind
    if world.writes:
        try:
            with writing(request.out):
                _hold(request.out, held)
                _prepare_folder(request.out, run, views=model.training_views, resume=request.resume)
        except (WrongUseError, TrainingError, RunError) as error:
            refusal = error
    if any_of(refusal is not None, world, device):  # the others would wait for a process that is gone
        raise refusal or TrainingError("the first process cannot train; its own sentence says why")
    raise_if_interrupted()  # from here on a signal is the trainer's
    with tqdm(desc="training", unit="samples", mininterval=0.5, smoothing=0.05, disable=not world.writes) as bar:
        bar.total = settings.epochs * len(loader) * settings.batch_size
        finished = trainer.fit(resume=request.resume, on_step=lambda step: _show(bar, step), on_epoch=_say_epoch)
    if finished and world.writes:
        _calibrate(model, request.out, validation(), device)
        click.echo(str(request.out))
    return finished


def check_views(model: Attributor, shard_set: ShardSet) -> None:
    """Raises ShardSetError where the shards lack a view that a trained attributor reads, WrongUseError where its noise
    patches are of another size than theirs."""
    for view in model.inference_views:
        if view not in shard_set.views:
            raise ShardSetError(
                f"{shard_set.root} has no view {view!r}, which the run reads; add it with `bmrl-prep build --views {view}`"
            )
    stored, trained = _stored_patch_size(shard_set), model.config.model.patch_size
    if "noise" in model.inference_views and stored not in (None, trained):
        raise WrongUseError(
            f"the run was trained on noise patches of {trained} pixels, {shard_set.root} holds patches of {stored}; "
            f"use a shard set built with --patch-size {trained}"
        )


def _stored_patch_size(shard_set: ShardSet) -> int | None:
    """Pixels a side of the noise column's patches; None where there is no such column."""
    return shard_set.views["noise"]["params"]["patch_size"] if "noise" in shard_set.views else None


def _with_patch_size(request: TrainRequest, shard_set: ShardSet) -> RunConfig:
    """The noise patch has the size that the shards have; raises WrongUseError where another one was asked for."""
    config, stored = request.config, _stored_patch_size(shard_set)
    if stored is None or "noise" not in config.model.views:
        return config
    if request.patch_size not in (None, stored):
        raise WrongUseError(
            f"model.patch_size {request.patch_size}: {shard_set.root} holds noise patches of {stored} pixels"
        )
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, patch_size=stored))
    try:
        check_config(changed)
    except ValueError as error:
        raise WrongUseError(f"{shard_set.root} holds noise patches of {stored} pixels: {error}") from error
    return changed


def _share(batch_size: int, parts: int, world: World) -> int:
    """Of a batch, what one process gets."""
    if batch_size % (world.size * parts) or batch_size < 2 * world.size * parts:
        raise WrongUseError(
            f"a batch of {batch_size} cannot be shared by {world.size} processes in {parts} parts each, of 2 samples or more"
        )
    return batch_size // world.size


def _hold(out: Path, held: ExitStack) -> None:
    """Keep a second trainer off RUN until `held` is closed. A folder that is no RUN is refused untouched."""
    if out.exists() and not out.is_dir():
        raise WrongUseError(f"--out {out} is a file")
    leftovers = (".log", ".tmp-")  # of a trainer that was killed before it had written config.json
    if (
        out.exists()
        and not (out / "config.json").exists()
        and not all(path.name.startswith(leftovers) for path in out.iterdir())
    ):
        raise WrongUseError(f"--out {out} is not empty and holds no run")
    try:
        if not held.enter_context(lock_root(out, doing="trained")):
            click.echo(NO_LOCKS.format(folder=out), err=True)
    except RootBusyError as error:
        raise TrainingError(str(error)) from None


def _prepare_folder(out: Path, run: Run, *, views: tuple[str, ...], resume: bool) -> None:
    if (out / "config.json").exists():
        if not resume:
            raise WrongUseError(f"{out} holds a run already; go on with --resume, or give another --out")
        if not (out / "state.json").exists():  # no checkpoint yet: nothing is lost with other settings
            write_run(out, run, versions())
            return
        before = read_run(out)
        for what, old, new in (
            ("class list", before.classes, run.classes),
            ("settings", config_to_json(before.config), config_to_json(run.config)),
            ("training rows", before.data["selection"], run.data["selection"]),
        ):
            if old != new:
                raise WrongUseError(f"{out} was trained with another {what}{_difference(old, new)}; give another --out")
        replaced = [view for view in views if before.data["views"].get(view) != run.data["views"][view]]
        if replaced:
            raise WrongUseError(
                f"{out} was trained on other views than the shards hold now ({', '.join(replaced)}); give another --out"
            )
        return
    write_run(out, run, versions())


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict):
        for section in old:
            for key in old[section] if isinstance(old[section], dict) else ():
                if old[section][key] != new[section].get(key):
                    return f" ({section}.{key}: {old[section][key]!r}, asked for {new[section].get(key)!r})"
    return ""


def versions() -> dict[str, str]:
    """What the run was made with; no times, no paths."""
    found = {name: importlib.metadata.version(name) for name in ("bmrl", "torch", "numpy")}
    return {**found, "python": platform.python_version(), "commit": _commit()}


def _commit() -> str:
    """The commit of a source checkout that this package is imported from, else empty."""
    top = Path(__file__).resolve().parents[1]
    if not (top / ".git").exists() or shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "-C", str(top), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _show(bar: tqdm[Any], step: Step) -> None:
    bar.set_postfix_str(f"epoch {step.epoch + 1}, loss {step.loss:.3f}, accuracy {step.accuracy:.2f}", refresh=False)
    target = step.step * step.samples
    if bar.n == 0 and target > step.samples:  # a resumed run: what was done before does not count as speed
        bar.initial = bar.n = target - step.samples
    bar.update(step.samples)


def _say_epoch(summary: dict[str, Any]) -> None:
    tqdm.write(
        f"epoch {summary['epoch'] + 1}: validation accuracy {summary['val_accuracy']:.3f}, NLL {summary['val_nll']:.3f} "
        f"on {summary['val_n']} samples",
        file=sys.stderr,
    )


def _say_missing(selected: ShardSet) -> None:
    if selected.missing_sources:
        click.echo(
            f"warning: the protocol names sources that the shard set lacks: {', '.join(selected.missing_sources)}",
            err=True,
        )


def _say_untrained(train_rows: ShardSet, missing: tuple[str, ...]) -> None:
    trained = set(train_rows.labels.tolist())
    without = [name for label, name in enumerate(train_rows.classes) if label not in trained and name not in missing]
    if without:
        click.echo(f"warning: classes without training rows, never attributed to: {', '.join(without)}", err=True)


def _calibrate(model: Attributor, out: Path, validation: Iterable[dict[str, Any]], device: torch.device) -> None:
    """calibration.json: the temperature and the 95 % acceptance threshold found on seen validation rows."""
    try:
        load_weights(model, out / "best.safetensors")
    except RunError:
        return
    found = collect(model, validation, device)
    if len(found.labels) == 0:
        return
    temperature = fit_temperature(found.logits, found.labels)
    document = {
        "temperature": temperature,
        "threshold_95": threshold_for_acceptance(found.logits),
        "threshold_95_calibrated": threshold_for_acceptance(found.logits / temperature),
        "n": len(found.labels),
    }
    with writing(out):
        write_json(out / "calibration.json", document)
