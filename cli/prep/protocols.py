"""`bmrl-prep protocols`: which sources are seen and unseen in each."""

from __future__ import annotations

from pathlib import Path

import click

from ..exits import sentences, tell
from ..options import PATH


@click.command()
@click.argument("root", type=PATH, required=False)
def protocols(root: Path | None) -> None:
    """List the protocols: task, classes, unseen sources, published sizes; with ROOT, which of their sources it lacks."""
    from ...pipeline.protocols import describe_protocols
    from ...pipeline.shardset import ShardSet, ShardSetError

    with sentences(failed=(ShardSetError,)):
        present = None if root is None else ShardSet.open(root).document["generators"]
    tell(describe_protocols(present))
