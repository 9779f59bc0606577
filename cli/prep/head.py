"""`bmrl-prep head`: the first samples, as text or as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from ..exits import sentences, tell, terminal_width
from ..options import COUNT, PATH


@click.command()
@click.argument("root", type=PATH)
@click.option("-n", "count", type=COUNT, help="Samples to show (default: 5, and one of every source).")
@click.option("--grid", type=PATH, metavar="FILE", help="Write all views of the samples side by side: png, jpg, webp.")
def head(root: Path, count: int | None, grid: Path | None) -> None:
    """Show the first samples of a shard set and one of every other source; with --grid as a picture, one sample of every
    source first."""
    from ...pipeline.describe.preview import GridError, describe_rows, write_grid
    from ...pipeline.shards.tars import DamagedShardError
    from ...pipeline.shardset import ShardSet, ShardSetError

    with sentences(failed=(ShardSetError, DamagedShardError, OSError), wrong_use=(GridError,)):
        shard_set = ShardSet.open(root)
        if grid is None:
            tell(describe_rows(shard_set, count, terminal_width()))
        else:
            write_grid(shard_set, count, grid)
            tell(str(grid))
