"""Attributors: what a batch of views becomes, how they are trained, evaluated and asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attributor import Attributor

__all__ = ["build"]


def build(
    attributor: str, classes: Sequence[str] | int, preset: str = "paper", semantics: str = "sound", **overrides: Any
) -> Attributor:
    """A freshly initialised attributor for these classes (or this many).

    overrides: settings such as epochs=3; a dotted one through a mapping, build(..., **{"losses.dfacc": 0}). Raises
    ValueError naming the setting or name that is unknown.
    """
    from .resolve import from_config, resolve_config

    return from_config(resolve_config(attributor, preset, semantics, overrides), classes)
