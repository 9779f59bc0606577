"""`bmrl-eval`: runs and a shard set in, or predictions of any model; the tables out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import WRONG_USE, Command, say, sentences, stop, tell, terminal_width
from .options import PATH, Share
from .process import keep_freed_memory, share_cores

if TYPE_CHECKING:
    from ..model.report.write import Report


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bmrl")
@click.argument("runs", type=PATH, nargs=-1, metavar="[RUN]...")
@click.option("--shards", type=PATH, help="ROOT of a shard set, for runs.")
@click.option(
    "--predictions", type=PATH, multiple=True, help="A predictions.parquet of any model (docs/evaluation.md)."
)
@click.option("--protocol", help="Seen and unseen sources (default: the run's own).")
@click.option(
    "--threshold",
    "thresholds",
    type=Share(),
    multiple=True,
    help="Reject below this max softmax (default: 0.7 and 0.9).",
)
@click.option(
    "--left-out",
    type=PATH,
    multiple=True,
    help="A run trained without one source (--protocol NAME:without=SOURCE), for likelihood ratios.",
)
@click.option(
    "--out", type=PATH, help="Folder for result.json, report.html and predictions.parquet (default: RUN/eval)."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result document instead of the tables.")
@click.option("--device", help="cuda or cpu (default: cuda where there is one).")
def main(
    runs: tuple[Path, ...],
    shards: Path | None,
    predictions: tuple[Path, ...],
    protocol: str | None,
    thresholds: tuple[float, ...],
    left_out: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Evaluate runs on the test split of a shard set, or predictions of any model: figures with intervals, controls and a page.
    Several are compared with each other, image by image; runs that differ by their seed alone are one method."""
    _check_use(runs, shards, predictions, protocol, left_out)
    if runs:
        share_cores()
    keep_freed_memory()
    from ..model.errors import RunError, WrongUseError
    from ..model.report.files import judge_file
    from ..model.report.write import prepare_out, write_comparison, write_report
    from ..pipeline.store.printing import printable
    from .progress import tracked

    failed: tuple[type[Exception], ...] = (RunError, OSError)
    judge_run: Callable[..., Report] | None = None
    if runs:
        from ..model.runs.evaluate import judge as judge_run
        from ..pipeline.loading.reader import DamagedShardError
        from ..pipeline.shardset import ShardSetError

        failed = (*failed, ShardSetError, DamagedShardError)
    found: dict[str, Report] = {}
    many = len(runs) + len(predictions) > 1
    with sentences(failed=failed, wrong_use=(WrongUseError,)):
        if out is not None and not runs:
            prepare_out(out)
        place: Path | None
        for number, path in enumerate((*runs, *predictions)):
            name = f"{number}-{printable(path.stem if number >= len(runs) else path.name)}"
            if number < len(runs):
                assert judge_run is not None
                place = _place(out, path / "eval", name, many)
                report = judge_run(
                    path,
                    shards,
                    protocol=protocol,
                    thresholds=thresholds or None,
                    left_out=left_out,
                    out=place,
                    device=device,
                    track=tracked,
                    on_message=say,
                )
            else:
                place = None if out is None else _place(out, out, name, many)
                if place is not None:
                    prepare_out(place)
                report = judge_file(path, thresholds=thresholds or None, track=tracked)
            if place is not None:
                write_report(place, report)
            found[str(path)] = report
        if many:
            result, document = write_comparison(found, out)
        else:
            result, document = report.result, report.result.document
    if as_json:
        tell(json.dumps(document, indent=2))
        return
    from ..model.report.text import render_text

    tell(render_text(result, terminal_width()))
    page = out if many else place
    if page is not None:
        tell(f"\nreport: {page / 'report.html'}")


def _check_use(
    runs: tuple[Path, ...],
    shards: Path | None,
    predictions: tuple[Path, ...],
    protocol: str | None,
    left_out: tuple[Path, ...],
) -> None:
    if not runs and not predictions:
        stop("error: give a RUN with --shards ROOT, or --predictions FILE", WRONG_USE)
    if runs and shards is None:
        stop("error: a RUN is evaluated on a shard set; give --shards ROOT", WRONG_USE)
    if not runs and shards is not None:
        stop("error: --shards is for runs; predictions are evaluated by themselves", WRONG_USE)
    if left_out and len(runs) != 1:
        stop("error: --left-out is for the evaluation of one RUN", WRONG_USE)
    if not runs and protocol is not None:
        stop("error: --protocol is for runs; predictions name their own", WRONG_USE)
    given = [path.resolve() for path in (*runs, *predictions)]
    if twice := next((path for path in given if given.count(path) > 1), None):
        stop(f"error: {twice} is given twice", WRONG_USE)


def _place(out: Path | None, own: Path, name: str, many: bool) -> Path:
    """Where the files of one of them go."""
    if out is None:
        return own
    return out / name if many else out
