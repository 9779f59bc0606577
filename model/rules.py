"""A run's settings held against the rules that stand on their fields, and those that join several."""

from __future__ import annotations

import math
from collections.abc import Callable

from .config import RunConfig, Setting, settings_of

MOST = 2**40  # of any count; what sizes add up to is held against the memory that is free (model/size.py)
MOST_VALUES = 64  # of a list


def check_config(config: RunConfig) -> None:
    """Raises ValueError with one sentence for the first rule that is broken."""
    for one in settings_of(config):
        _check_most(one)
    for check in (_check_choice, _check_at_least_zero, _check_positive):
        for one in settings_of(config):
            if one.rule:
                check(one)
    config.own.check(config.train)
    config.train.check()


def _check_most(one: Setting) -> None:
    """Counts, those without a rule too, before anything is reckoned with them: an integer may have a thousand digits."""
    most = one.rule.get("most") or MOST
    values = one.value if isinstance(one.value, tuple) else (one.value,)
    if len(values) > MOST_VALUES:
        raise ValueError(f"setting {one.key} has {len(values)} values, {MOST_VALUES} at most are taken")
    for value in values:
        if isinstance(value, int) and abs(value) > most:
            shown = value if abs(value) <= 2**64 else "its number"  # one of 5,000 digits cannot be printed
            raise ValueError(f"setting {one.key}: {shown} is more than {most}")


def _check_choice(one: Setting) -> None:
    if (known := one.rule["choices"]) and one.value not in known:
        raise ValueError(f"setting {one.key}: unknown {one.value!r}; known are {', '.join(known)}")


def _check_at_least_zero(one: Setting) -> None:
    if one.rule["at_least_zero"]:
        _check_number(one, lambda value: value >= 0, "0 or more")


def _check_positive(one: Setting) -> None:
    if one.rule["positive"]:
        _check_number(one, lambda value: value > 0, "more than 0")


def _check_number(one: Setting, holds: Callable[[float], bool], what: str) -> None:
    if not (holds(one.value) and (one.rule["may_be_infinite"] or math.isfinite(one.value))):
        raise ValueError(f"setting {one.key}: {one.value} is not a number of {what}")
