"""`bmrl-eval`: a run and a shard set in, the table out."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .exits import Command, say, sentences, tell, terminal_width
from .options import PATH, Share
from .process import keep_freed_memory, share_cores


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bmrl")
@click.argument("run", type=PATH)
@click.option("--shards", required=True, type=PATH, help="ROOT of a shard set.")
@click.option("--protocol", help="Seen and unseen sources (default: the run's own).")
@click.option(
    "--threshold",
    "thresholds",
    type=Share(),
    multiple=True,
    help="Reject below this max softmax (default: 0.7 and 0.9).",
)
@click.option("--out", type=PATH, help="Folder for result.json and report.html (default: RUN/eval).")
@click.option("--json", "as_json", is_flag=True, help="Print the result document instead of the table.")
@click.option("--device", help="cuda or cpu (default: cuda where there is one).")
def main(
    run: Path,
    shards: Path,
    protocol: str | None,
    thresholds: tuple[float, ...],
    out: Path | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Evaluate a run on the test split: seen accuracy, rejection, AUROC, controls, confusion matrix and a report page."""
    share_cores()
    keep_freed_memory()
    from ..model.errors import RunError, WrongUseError
    from ..model.report.text import render_text
    from ..model.runs import evaluate
    from ..pipeline.loading.reader import DamagedShardError
    from ..pipeline.shardset import ShardSetError
    from .progress import tracked

    out = out or run / "eval"
    with sentences(failed=(RunError, ShardSetError, DamagedShardError, OSError), wrong_use=(WrongUseError,)):
        result = evaluate(
            run,
            shards,
            protocol=protocol,
            thresholds=thresholds or None,
            out=out,
            device=device,
            track=tracked,
            on_message=say,
        )
    if as_json:
        tell(json.dumps(result.document, indent=2))
    else:
        tell(render_text(result, terminal_width()))
        tell(f"\nreport: {out / 'report.html'}")
