"""`bmrl-prep verify`: is a shard set what it says?"""

from __future__ import annotations

from pathlib import Path

import click

from ...pipeline.store.printing import printable
from ..exits import FAILED, sentences, stop, tell
from ..options import PATH


@click.command()
@click.argument("root", type=PATH)
@click.option("--deep", is_flag=True, help="Re-hash everything and re-derive a random sample of the views.")
@click.option("--root", "source_root", type=PATH, help="The sources, to re-derive image and parsing too.")
def verify(root: Path, deep: bool, source_root: Path | None) -> None:
    """Check sidecars, sizes and the exact set of files; exit 1 on any damage, each file named."""
    from ...pipeline.parsers.errors import ParserError
    from ...pipeline.shards.verify import verify as run_verify
    from ...pipeline.shardset import ShardSetError

    with sentences(failed=(ShardSetError, ParserError, OSError)):
        if not root.is_dir():
            raise ShardSetError(f"{root} does not exist or is no folder")
        if source_root is not None and not source_root.is_dir():
            raise ShardSetError(
                f"--root {source_root} does not exist or is no folder; give the one that the sources' paths start from"
            )
        damages = run_verify(root, deep=deep, source_root=source_root)
    for damage in damages:
        tell(printable(f"{damage.path}: {damage.problem}"))
    if damages:
        stop(
            f"{root}: {len(damages)} damaged, missing or extra files; take them away (but for plan.*) and run the same build "
            "again",
            FAILED,
        )
    checked = "sizes, file set and the hashes of the small files" + ("; --root needs --deep" if source_root else "")
    if deep:
        checked = "every hash, and a random sample of edge, noise and text computed again" + (
            ", image and a network's parsing from their sources too"
            if source_root
            else "; image and parsing need --root"
        )
    tell(f"{root}: complete and undamaged ({checked})")
