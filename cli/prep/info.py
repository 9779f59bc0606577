"""`bmrl-prep info`: what a shard set holds, and what may leak."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..exits import say, sentences, tell, terminal_width
from ..options import PATH


@click.command()
@click.argument("root", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--card", type=PATH, metavar="DIR", help="Write a dataset card there: README.md and grid.png.")
def info(root: Path, as_json: bool, card: Path | None) -> None:
    """Counts, bytes, digests, licences and the leak audit of a shard set."""
    from ...pipeline.describe.card import CardError, check_folder, write_card
    from ...pipeline.describe.info import describe, render
    from ...pipeline.shards.tars import DamagedShardError
    from ...pipeline.shardset import ShardSet, ShardSetError
    from ...pipeline.store.lock import lock_holder

    with sentences(failed=(ShardSetError, DamagedShardError, OSError), wrong_use=(CardError,)):
        shard_set = ShardSet.open(root)
        if holder := lock_holder(root):
            say(f"note: {root} is being built by {holder}; what follows is of before it changes anything")
        if card is not None:
            check_folder(card, root)
        document = describe(shard_set)
        if card is not None:
            say(f"dataset card: {write_card(shard_set, document, card)}")
    tell(json.dumps(document, indent=2) if as_json else render(document, terminal_width()))
