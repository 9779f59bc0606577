"""`bmrl-train`: a shard set in, a run directory out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from .exits import INTERRUPTED, Command, say, sentences, stop, tell
from .options import PATH
from .process import keep_freed_memory, share_cores


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bmrl")
@click.option("--shards", required=True, type=PATH, help="ROOT of a shard set.")
@click.option("--out", required=True, type=PATH, help="RUN, the folder of the run.")
@click.option("--attributor", default="bmrl", show_default=True)
@click.option("--protocol", help="Which sources are classes (default: every generator present).")
@click.option("--preset", default="small", show_default=True, help="Sizes and optimiser: paper, small or demo.")
@click.option("--semantics", default="sound", show_default=True, help="Equations: sound or strict.")
@click.option("--epochs", type=click.IntRange(min=1))
@click.option("--batch-size", type=click.IntRange(min=2))
@click.option("--device", help="cuda or cpu (default: cuda where there is one).")
@click.option("--seed", type=int, help="Of the weights, the order and the flips (default: 0).")
@click.option("--resume", is_flag=True, help="Go on from RUN's last checkpoint.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override one setting, such as losses.dfacc=0."
)
def main(
    shards: Path,
    out: Path,
    attributor: str,
    protocol: str | None,
    preset: str,
    semantics: str,
    device: str | None,
    resume: bool,
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Train an attributor on a shard set."""
    share_cores()
    keep_freed_memory()
    from ..model.errors import RunError, StoppedError, TrainingError, WorldError, WrongUseError
    from ..model.report.worth import conclude
    from ..model.runs import train
    from ..model.runs.folder import read_run, read_worth
    from ..pipeline.loading.reader import DamagedShardError
    from ..pipeline.shardset import ShardSetError
    from .progress import TrainingBar, tracked_after

    failed = (ShardSetError, DamagedShardError, TrainingError, RunError, WorldError, OSError)
    with sentences(failed=failed, wrong_use=(WrongUseError,)):
        try:
            overrides = dict(_split(item) for item in settings)
        except ValueError as error:
            raise WrongUseError(str(error)) from error
        try:
            with TrainingBar() as bar:
                train(
                    shards,
                    out,
                    attributor=attributor,
                    preset=preset,
                    semantics=semantics,
                    protocol=protocol,
                    settings=overrides | {name: value for name, value in given.items() if value is not None},
                    device=device,
                    resume=resume,
                    on_step=bar.step,
                    on_epoch=bar.epoch,
                    on_message=say,
                    on_start=bar.start,
                    track=tracked_after(bar),
                )
        except KeyboardInterrupt:  # outside the steps
            stop(f"interrupted: what {out} holds stays, the same command with --resume goes on", INTERRUPTED)
        except StoppedError as error:
            stop(str(error), INTERRUPTED)
        if bar.is_shown:  # one process says it
            for line in conclude(read_worth(out, len(read_run(out).classes))):
                say(line)
            say(f"the run is in {out}; next: {shlex.join(['bmrl-eval', str(out), '--shards', str(shards)])}")
            tell(str(out))


def _split(item: str) -> tuple[str, str]:
    key, separator, value = item.partition("=")
    if not separator:
        raise ValueError(f"--set {item}: expected KEY=VALUE")
    return key, value
