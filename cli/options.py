"""Types of options that several commands take."""

from __future__ import annotations

import math
from typing import Any

import click


class Share(click.FloatRange):
    """A number from 0 to 1; click's own range lets NaN through, which no comparison rejects."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value!r} is no number from 0 to 1", param, ctx)
        return found + 0.0  # -0 is 0
