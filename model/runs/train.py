"""Training: a shard set's rows and an attributor meet here, and a run directory comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...pipeline.loading.device_loader import DeviceLoader
from ...pipeline.protocols import Protocol, load_protocol
from ...pipeline.shardset import ShardSet
from ...pipeline.store.memory import TooLargeError
from ..attributor import LabelSpace
from ..config import RunConfig, full_key, replace_setting
from ..errors import RunError, StoppedError, TrainingError, WrongUseError
from ..evaluation.case import Track, untracked
from ..layers.blocks import compile_blocks, use_channels_last
from ..resolve import from_config, resolve_config
from ..training.distributed import World, any_of, join, leave
from ..training.trainer import BatchLoader, Step, Trainer, writing
from .calibrate import calibrate
from .claim import hold, prepare
from .device import choose_device, has_fast_bfloat16
from .folder import Run
from .halves import halves
from .memory import check_training
from .views import follow_views

VALIDATION_BATCH = 64
OnMessage = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What was asked for, resolved as far as it can be without the shards."""

    out: Path
    config: RunConfig
    asked: frozenset[str]  # keys of the settings that were given
    protocol: Protocol | None
    protocol_name: str | None
    resume: bool
    on_step: Callable[[Step], None]
    on_epoch: Callable[[dict[str, Any]], None]
    on_message: OnMessage
    on_start: Callable[[int | None], None]
    track: Track


def train(
    shards: ShardSet | str | Path,
    out: str | Path,
    *,
    attributor: str = "bmrl",
    preset: str = "small",
    semantics: str = "sound",
    protocol: str | None = None,
    settings: Mapping[str, Any] = {},  # read only
    device: str | None = None,
    resume: bool = False,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_message: OnMessage | None = None,
    on_start: Callable[[int | None], None] | None = None,
    track: Track | None = None,
) -> Path:
    """Train an attributor on a shard set into the folder `out`, to the end, and calibrate it. Returns the folder.

    settings: such as {"epochs": 3, "losses.dfacc": 0}. protocol: a name or file; None: every generator is a class.
    on_step gets a Step after each step, on_epoch the validation's figures, on_message warnings (they are logged by
    default), on_start the number of samples of all epochs before the first step (None in a process that does not write).
    track(steps, what) may show how far the judgement at the end is.
    SIGINT and SIGTERM end it between two steps with the state saved. Raises StoppedError then; WrongUseError, RunError,
    TrainingError, ShardSetError or DamagedShardError, each of one sentence.
    """
    try:
        config = resolve_config(attributor, preset, semantics, settings)
        chosen = load_protocol(protocol) if protocol else None
    except ValueError as error:
        raise WrongUseError(str(error)) from error
    request = _Request(
        out=Path(out),
        config=config,
        asked=frozenset(full_key(config, key) for key in settings),
        protocol=chosen,
        protocol_name=protocol,
        resume=resume,
        on_step=on_step or _ignore,
        on_epoch=on_epoch or _ignore,
        on_message=on_message or logging.getLogger(__name__).warning,
        on_start=on_start or _ignore,
        track=track or untracked,
    )
    shard_set = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
    where = choose_device(device)
    if where.index is not None:
        torch.cuda.set_device(where)
    with ExitStack() as stack:
        world = join(where)
        stack.callback(leave)
        if not _train(shard_set, request, where, world, stack):
            raise StoppedError(f"stopped: {request.out} holds the state, the same command with --resume goes on")
    return request.out


def _ignore(_: Any) -> None:
    return None


def _train(shard_set: ShardSet, request: _Request, device: torch.device, world: World, held: ExitStack) -> bool:
    selected = shard_set.select(protocol=request.protocol, part="seen" if request.protocol else None)
    if world.writes:
        _say_missing(selected, request.on_message)
    train_rows, val_rows = selected.select(split="train"), selected.select(split="val")
    if len(train_rows) == 0:
        raise TrainingError(f"{shard_set.root} has no training rows for these classes; build the train split")
    if world.writes:
        _say_untrained(train_rows, selected.missing_sources, request.on_message)
    if kindless := sorted(set(np.array(train_rows.index["generator"])[train_rows.labels < 0].tolist())):
        raise WrongUseError(
            f"protocol {selected.protocol.name if selected.protocol else ''}: {', '.join(kindless)} is of unknown kind, "
            "neither real nor fake"
        )
    config = follow_views(request.config, shard_set, asked=request.asked)
    if (
        config.train.precision == "bfloat16"
        and "train.precision" not in request.asked
        and not has_fast_bfloat16(device)
    ):
        config = replace_setting(config, "train.precision", "float32")
        if world.writes:
            request.on_message("this CPU has no bfloat16 of its own, so the training computes in float32")
    labels = LabelSpace.of(train_rows.classes, shard_set.document["generators"])
    run = Run(
        config=config,
        labels=labels,
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
    share = _share(settings.batch_size, settings.accumulate, world)
    try:
        check_training(config, labels, train_rows, samples=min(share, len(train_rows)), device=device)
        model = from_config(config, labels)
        if not (request.resume and (request.out / "state.json").exists()):
            model.begin()
    except TooLargeError as error:
        raise TrainingError(f"{error}; use a smaller --preset, --batch-size or --set, or --set accumulate") from error
    except ValueError as error:
        raise WrongUseError(str(error)) from error
    model.to(device)
    use_channels_last(model)
    if settings.compile:
        compile_blocks(model)
    on_cuda = device.type == "cuda"

    def training(seed: int) -> BatchLoader:
        loader = train_rows.loader(
            views=model.training_views,
            batch_size=share,
            seed=seed,
            rank=world.rank,
            world_size=world.size,
            shuffle=model.steps,  # a fit sees every row once, in the order of the shards
            pin_memory=on_cuda,
        )
        return DeviceLoader(loader, device) if on_cuda else loader

    try:
        loader = training(settings.seed)
        other = training(settings.seed + 1) if model.tunes else None
    except ValueError as error:
        raise TrainingError(str(error)) from error

    picking, calibrating = halves(val_rows)

    def validation() -> Iterable[dict[str, Any]]:
        if model.picks_by == "loss":  # SPA is made for batches of the training's size
            return picking.loader(views=model.training_views, batch_size=settings.batch_size, shuffle=False)
        return picking.loader(views=model.inference_views, batch_size=VALIDATION_BATCH, shuffle=False)

    trainer = Trainer(
        model,
        train=loader,
        validation=validation,
        run=request.out,
        device=device,
        world=world,
        other=other,
        meaning=run.meaning,
    )
    refusal: Exception | None = None  # RUN is touched last: what cannot be trained leaves none behind
    if world.writes:
        try:
            with writing(request.out):
                hold(request.out, held, say=request.on_message)
                prepare(request.out, run, views=model.training_views, resume=request.resume)
        except (WrongUseError, TrainingError, RunError) as error:
            refusal = error
    if any_of(refusal is not None, world, device):  # the others would wait for a process that is gone
        raise refusal or TrainingError("the first process cannot train; its own sentence says why")
    # From here on a signal is the trainer's.
    request.on_start(settings.epochs * len(loader) * settings.batch_size if world.writes else None)
    finished = trainer.fit(resume=request.resume, on_step=request.on_step, on_epoch=request.on_epoch)
    if finished and world.writes:
        calibrate(
            model,
            request.out,
            train=train_rows,
            validation=calibrating,
            device=device,
            run=run,
            task=request.protocol.task if request.protocol else "attribution",
            track=request.track,
        )
    return finished


def _share(batch_size: int, parts: int, world: World) -> int:
    """Of a batch, what one process gets."""
    if batch_size % (world.size * parts) or batch_size < 2 * world.size * parts:
        raise WrongUseError(
            f"a batch of {batch_size} cannot be shared by {world.size} processes in {parts} parts each, of 2 samples or more"
        )
    return batch_size // world.size


def _say_missing(selected: ShardSet, say: OnMessage) -> None:
    if selected.missing_sources:
        say(
            f"warning: the protocol names sources that the shard set lacks: {', '.join(selected.missing_sources)}",
        )


def _say_untrained(train_rows: ShardSet, missing: tuple[str, ...], say: OnMessage) -> None:
    trained = set(train_rows.labels.tolist())
    without = [name for label, name in enumerate(train_rows.classes) if label not in trained and name not in missing]
    if without:
        say(f"warning: classes without training rows, never attributed to: {', '.join(without)}")
