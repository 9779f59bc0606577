"""`bmrl-prep synth`: simulated generators on photographs."""

from __future__ import annotations

from pathlib import Path

import click

from ..exits import WRONG_USE, say, sentences, stop, tell
from ..options import PATH, SEED


@click.command()
@click.option("--real-dir", required=True, type=PATH, help="Folder of photographs of real faces.")
@click.option("--out", required=True, type=PATH, help="Folder to write; build it with `--dataset manifest --root OUT`.")
@click.option(
    "--parser", metavar="bisenet|bisenet-lite|FILE", default="bisenet", show_default=True, help="Finds the regions."
)
@click.option(
    "--sources", type=click.Choice(["seen", "all"]), default="all", show_default=True, help="Simulators to run."
)
@click.option("--seed", type=SEED, default=0, show_default=True)
def synth(real_dir: Path, out: Path, parser: str, sources: str, seed: int) -> None:
    """Run the simulated generators of the embedded dataset on photographs: an attribution benchmark of your own faces."""
    from ...pipeline.demo.claim import ClaimedError
    from ...pipeline.demo.photographs import synthesise
    from ...pipeline.parsers.errors import ParserError
    from ...pipeline.parsers.parser import Parser
    from ...pipeline.parsers.specs import resolve
    from ..progress import counting

    if parser.startswith("maps:"):
        stop("error: synth parses enlarged crops: --parser takes bisenet, bisenet-lite or a weight file", WRONG_USE)
    with sentences(failed=(ParserError, ValueError, OSError), wrong_use=(ClaimedError,)):
        network = Parser.open(resolve(parser))
        with counting("simulating") as update:
            result = synthesise(
                real_dir, out, parse=network.labels, sources=sources, seed=seed, parser=parser, progress=update
            )
    for reason, count in sorted(result.dropped.items()):
        say(f"left out: {count} ({reason})")
    tell(f"{out}: {result.num_images} images from {result.num_photographs} photographs; build {result.manifest.parent}")
