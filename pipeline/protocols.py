"""Protocols as data: which sources are classes (seen), which are unseen, and which stand beside the table as controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import manifests

_FIELDS = {"name", "simulated", "seen", "unseen", "controls"}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    name: str
    seen: tuple[str, ...]  # class order
    unseen: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    relations: dict[str, str] = field(default_factory=dict)  # unseen source -> relation to the seen ones
    simulated: bool = False


def load_protocol(name: str) -> Protocol:
    """A shipped protocol by name, or a user's file by a path that ends in .yaml. Raises ValueError in one sentence."""
    if name.endswith((".yaml", ".yml")):
        return _parse(manifests.load_file(Path(name)), name)
    known = manifests.names("protocols")
    if name not in known:
        raise ValueError(f"unknown protocol {name!r}; known are {', '.join(known)}, or the path of a .yaml file")
    return _parse(manifests.load(f"protocols/{name}.yaml"), name)


def _parse(document: Any, origin: str) -> Protocol:
    if not isinstance(document, dict) or not document.get("seen"):
        raise ValueError(f"protocol {origin}: expected a mapping with at least a list `seen`")
    if unknown := set(document) - _FIELDS:
        raise ValueError(
            f"protocol {origin}: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(_FIELDS))}"
        )
    unseen = document.get("unseen") or {}
    relations = {str(k): str(v) for k, v in unseen.items() if v} if isinstance(unseen, dict) else {}
    seen = tuple(str(source) for source in document["seen"])
    overlap = set(seen) & {str(source) for source in unseen}
    if overlap:
        raise ValueError(f"protocol {origin}: {sorted(overlap)[0]} is both seen and unseen")
    return Protocol(
        name=str(document.get("name", Path(origin).stem)),
        seen=seen,
        unseen=tuple(str(source) for source in unseen),
        controls=tuple(str(source) for source in document.get("controls") or ()),
        relations=relations,
        simulated=bool(document.get("simulated", False)),
    )
