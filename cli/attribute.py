"""`bmrl-attribute`: images in, the most likely sources out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from ..pipeline.store.printing import printable
from .exits import FAILED, WRONG_USE, Command, say, sentences, stop, tell, terminal_width
from .options import PATH, Share
from .process import share_cores

CAVEAT = "probabilities under the run's closed list of sources; no evidence by themselves"


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bmrl")
@click.argument("run", type=PATH)
@click.argument("images", type=PATH, nargs=-1, required=True)
@click.option(
    "--threshold",
    type=Share(),
    help="Below this max softmax the source is called unknown (default: the run's own, which 95 % of its seen validation "
    "images pass).",
)
@click.option("--heatmap", type=PATH, metavar="DIR", hidden=True)  # not in this version
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--device", help="cuda or cpu (default: cuda where there is one).")
def main(
    run: Path,
    images: tuple[Path, ...],
    threshold: float | None,
    heatmap: Path | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Attribute face images to the sources a run was trained on. Every answer says what the run is worth; one that is not
    better than guessing cannot tell, unless --threshold is given."""
    if heatmap is not None:
        stop("error: --heatmap is not in this version", WRONG_USE)
    share_cores()
    from ..model.errors import RunError, WrongUseError
    from ..model.report.worth import introduce
    from ..model.runs import attribute

    # On a terminal the answers themselves show how far it is.
    is_seen = not as_json and terminal_width() is not None
    shown = tqdm(images, desc="attributing", unit="images", delay=2, disable=is_seen)
    found = attribute(run, shown, threshold=threshold, device=device, on_message=say)
    answers: list[dict[str, Any]] = []
    while True:  # the printing stays outside: a pipe that closes is no error of the run's
        with sentences(failed=(RunError, OSError), wrong_use=(WrongUseError,)):
            answer = next(found, None)
        if answer is None:
            break
        if not (answers or as_json):
            say(f"run {run}: {introduce(answer['run'])}")
        answers.append(answer)
        if not as_json:
            tell(_line(answer))
    if as_json:
        tell(json.dumps({"note": CAVEAT, "images": answers}, indent=2))
    else:
        say(f"note: {CAVEAT}")
    if unread := sum("error" in answer for answer in answers):
        stop(f"error: {unread} of {len(answers)} images cannot be read", FAILED)


def _line(answer: dict[str, Any]) -> str:
    from ..model.report.worth import tag

    image = printable(answer["image"])  # a name may hold bytes that are no text, or a line of its own
    if "error" in answer:
        return f"{image}: {printable(answer['error'])}"
    top = ", ".join(f"{name} {p:.3f}" for name, p in list(answer["probabilities"].items())[:3])
    return f"{image}: {printable(answer['attributed_to'])}  ({printable(top)})  [{tag(answer['run'])}]"
