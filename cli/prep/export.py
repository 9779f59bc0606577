"""`bmrl-prep export`: columns joined, or written for another program."""

from __future__ import annotations

from pathlib import Path

import click

from ..exits import sentences, tell
from ..options import PATH, names


@click.command()
@click.argument("root", type=PATH)
@click.option("--views", help="Comma-separated columns to join into single tars.")
@click.option(
    "--for", "reader", type=click.Choice(["deepfakebench", "open_clip"]), help="Write what this program reads instead."
)
@click.option("--out", required=True, type=PATH, help="Folder of the exported tars, or of what --for writes.")
def export(root: Path, views: str | None, reader: str | None, out: Path) -> None:
    """Join chosen columns into single tars (OUT/<shard>.tar) that any WebDataset reader opens, or write for a program."""
    from ...pipeline.export.deepfakebench import export_deepfakebench
    from ...pipeline.export.open_clip import export_open_clip
    from ...pipeline.export.tars import ExportError, export_tars
    from ...pipeline.shards.tars import DamagedShardError
    from ...pipeline.shardset import ShardSet, ShardSetError

    with sentences(failed=(ShardSetError, DamagedShardError, OSError), wrong_use=(ExportError,)):
        if (views is None) == (reader is None):
            raise ExportError("give either --views or --for")
        if reader is not None:
            writers = {"deepfakebench": export_deepfakebench, "open_clip": export_open_clip}
            tell(f"{out}: {writers[reader](ShardSet.open(root), out)} samples")
            return
        count = export_tars(ShardSet.open(root), names(views) or (), out)
    tell(f"{out}: {count} shards")
