"""Types of options that several commands take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1, 2**40)  # of samples and the like; a plan holds no larger one
WORKERS = click.IntRange(0, 4096)
SEED = click.IntRange(-(2**62), 2**62)


class Share(click.FloatRange):
    """A number from 0 to 1; click's own range lets NaN through, which no comparison rejects."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value!r} is no number from 0 to 1", param, ctx)
        return found + 0.0  # -0 is 0


def names(text: str | None) -> tuple[str, ...] | None:
    """What is written as a,b,c; None where nothing was given."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text is not None else None
