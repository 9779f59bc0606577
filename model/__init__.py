"""Attributors: what a batch of views becomes. `build` is the one place where a name chooses one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attributor import Attributor

PLANNED = ("mfclip", "sjedd", "clip", "cvit", "cael", "dna-det", "cpl", "carzero", "de-fake", "resnet50", "knn")
ATTRIBUTORS = ("bmrl",)

__all__ = ["ATTRIBUTORS", "PLANNED", "build", "check_attributor"]


def check_attributor(name: str) -> None:
    """Raises ValueError where `name` is no attributor of this version."""
    if name in PLANNED:
        raise ValueError(f"attributor {name!r} is planned and not in this version; it has {', '.join(ATTRIBUTORS)}")
    if name not in ATTRIBUTORS:
        raise ValueError(f"unknown attributor {name!r}; known are {', '.join(ATTRIBUTORS)}")


def build(
    attributor: str, classes: Sequence[str] | int, preset: str = "paper", semantics: str = "sound", **overrides: Any
) -> Attributor:
    """A freshly initialised attributor for these classes (or this many).

    overrides: settings such as epochs=3; a dotted one through a mapping, build(..., **{"losses.dfacc": 0}). Raises
    ValueError naming the setting or name that is unknown.
    """
    from .config import resolve_config

    check_attributor(attributor)
    return from_config(resolve_config(attributor, preset, semantics, overrides), classes)


def from_config(config: Any, classes: Sequence[str] | int) -> Attributor:
    """The attributor of a RunConfig."""
    from .bmrl import Bmrl

    num_classes = classes if isinstance(classes, int) else len(classes)
    if num_classes < 2:
        raise ValueError(f"an attributor needs at least two classes, got {num_classes}")
    return {"bmrl": Bmrl}[config.attributor](config, num_classes)
