"""Protocols as data: which sources are classes (seen), which are unseen, and which stand beside the table as controls.

A protocol names sources of the taxonomy, never paths, so it selects from any shard set. Its task is attribution (every
seen source is a class) or detection (the classes are real and fake).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import manifests
from .store.yaml_file import read_yaml
from .taxonomy import Taxonomy

_FIELDS = {"name", "about", "task", "simulated", "published", "seen", "unseen", "controls"}
_OWN = {"about", "published", "seen", "unseen", "controls"}  # what a variant may say for itself
TASKS = ("attribution", "detection")
DETECTION_CLASSES = ("real", "fake")
WITHOUT = ":without="  # behind a protocol's name and before one of its seen sources, which is unseen then
DETECTION = ":detection"  # behind a protocol's name: real or fake over its sources
ALL = "all"  # as `seen`: every source of the shard set


@dataclass(frozen=True, kw_only=True)
class Protocol:
    name: str
    seen: tuple[str, ...]  # class order
    unseen: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    relations: dict[str, str] = field(default_factory=dict)  # unseen source -> relation to the seen ones
    simulated: bool = False
    task: str = "attribution"
    takes_all: bool = False  # `seen: all`, to be resolved by `over`
    about: str = ""
    published: dict[str, Any] = field(default_factory=dict)  # sizes as published; "unknown" where nobody says

    @property
    def classes(self) -> tuple[str, ...]:
        """label -> class: the seen sources in file order, or real and fake."""
        return DETECTION_CLASSES if self.task == "detection" else self.seen

    @property
    def sources(self) -> tuple[str, ...]:
        return (*self.seen, *self.unseen, *self.controls)

    def label_of(self, source: str, kind: str) -> int:
        """The index of a source's class, -1 outside them. In detection an unseen source has one too, by its kind."""
        if self.task == "attribution":
            return self.seen.index(source) if source in self.seen else -1
        return -1 if kind == "unknown" or source not in self.sources else int(kind != "real")

    def over(self, present: Collection[str], trained: Collection[str] | None = None) -> Protocol:
        """With `seen: all`, the sources present in a shard set; those that a run was not trained on are unseen."""
        if not self.takes_all:
            return self
        seen = tuple(sorted(set(present) if trained is None else trained))
        return dataclasses.replace(self, seen=seen, unseen=tuple(sorted(set(present) - set(seen))), takes_all=False)


def protocol_names() -> list[str]:
    """Every shipped protocol; the variants of one file by names of their own."""
    found: list[str] = []
    for name in manifests.names("protocols"):
        variants = manifests.load(f"protocols/{name}.yaml").get("variants")
        found += [f"{name}-{variant}" for variant in variants] if variants else [name]
    return found


def load_protocol(name: str) -> Protocol:
    """A shipped protocol by name, or a user's file by a path that ends in .yaml; NAME:detection asks for real or fake,
    NAME:without=SOURCE leaves a seen source out of the training and counts it as unseen.

    Raises ValueError in one sentence.
    """
    if name.endswith(DETECTION):
        return _as_detection(load_protocol(name.removesuffix(DETECTION)))
    if WITHOUT in name:
        whole, _, source = name.rpartition(WITHOUT)
        return _leave_out(load_protocol(whole), source)
    if name.endswith((".yaml", ".yml")):
        document = read_yaml(Path(name))
        if isinstance(document, dict) and {"variants", "default"} & set(document):
            raise ValueError(f"protocol {name}: variants are for the shipped files; write one file a protocol")
        return _parse(document, name)
    for file in manifests.names("protocols"):
        if name != file and not name.startswith(f"{file}-"):
            continue
        document = manifests.load(f"protocols/{file}.yaml")
        variants = document.get("variants", {})
        if name == file and not variants:
            return _parse(document, name)
        if name == file and "default" in document:
            return load_protocol(f"{file}-{document['default']}")
        if name == file:
            raise ValueError(
                f"protocol {name} has variants; choose one of {', '.join(f'{file}-{one}' for one in variants)}"
            )
        for variant, own in variants.items():
            if name == f"{file}-{variant}":
                return _parse(_merge(document, own, name), name)
    raise ValueError(f"unknown protocol {name!r}; known are {', '.join(protocol_names())}, or the path of a .yaml file")


def describe_protocols(present: Collection[str] | None = None) -> str:
    """Every shipped protocol, a few lines each; with the sources of a shard set, what each of them lacks there."""
    lines = []
    for name in protocol_names():
        protocol = load_protocol(name)
        seen = "every source present" if protocol.takes_all else ", ".join(protocol.seen)
        lines += [name, f"  {protocol.about}", f"  {protocol.task}; seen: {seen}"]
        if protocol.unseen:
            lines.append(f"  unseen: {', '.join(protocol.unseen)}")
        if protocol.controls:
            lines.append(f"  controls: {', '.join(protocol.controls)}")
        if protocol.published:
            lines.append("  published: " + ", ".join(f"{what} {size}" for what, size in protocol.published.items()))
        if present is not None:
            missing = [source for source in protocol.sources if source not in present]
            lines.append(f"  missing: {', '.join(missing) or 'none'}")
    return "\n".join(
        [
            *lines,
            f"NAME{DETECTION} asks for real or fake over the sources of any of them; NAME{WITHOUT}SOURCE leaves one "
            "of its seen sources out.",
        ]
    )


def _merge(document: dict[str, Any], own: dict[str, Any], name: str) -> dict[str, Any]:
    if unknown := set(own) - _OWN:
        raise ValueError(f"protocol {name}: a variant has no field {sorted(unknown)[0]!r}")
    shared = {key: value for key, value in document.items() if key not in ("variants", "default")}
    published = {**(shared.get("published") or {}), **(own.get("published") or {})}
    return {**shared, **own, "published": published, "name": name}


def _leave_out(protocol: Protocol, source: str) -> Protocol:
    if source not in protocol.seen:
        raise ValueError(f"protocol {protocol.name} has no seen source {source!r} to leave out")
    return dataclasses.replace(
        protocol,
        name=f"{protocol.name}{WITHOUT}{source}",
        seen=tuple(one for one in protocol.seen if one != source),
        unseen=(*protocol.unseen, source),
        relations={**protocol.relations, source: "LEFT-OUT"},
    )


def _as_detection(protocol: Protocol) -> Protocol:
    """Real or fake over a protocol's sources. One without a real class takes `real` in, and out of its controls."""
    taxonomy = Taxonomy.load()
    kinds = {source: found.kind for source in protocol.seen if (found := taxonomy.find(source))}
    has_real = protocol.takes_all or "real" in kinds.values()
    return dataclasses.replace(
        protocol,
        name=protocol.name if protocol.task == "detection" else f"{protocol.name}{DETECTION}",
        task="detection",
        seen=protocol.seen if has_real else (*protocol.seen, "real"),
        controls=tuple(source for source in protocol.controls if source != "real"),
    )


def _parse(document: Any, origin: str) -> Protocol:
    if not isinstance(document, dict) or not document.get("seen"):
        raise ValueError(f"protocol {origin}: expected a mapping with at least a list `seen`")
    if unknown := set(document) - _FIELDS:
        raise ValueError(
            f"protocol {origin}: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(_FIELDS))}"
        )
    task = document.get("task", "attribution")
    if task not in TASKS:
        raise ValueError(f"protocol {origin}: task {task!r} is none of {', '.join(TASKS)}")
    takes_all = document["seen"] == ALL
    if takes_all and task != "detection":
        raise ValueError(
            f"protocol {origin}: `seen: all` needs `task: detection`; without a protocol every source is a class"
        )
    for part in ("seen", "unseen", "controls"):
        if not isinstance(document.get(part) or [], list | dict) and not (part == "seen" and takes_all):
            raise ValueError(f"protocol {origin}: `{part}` must be a list of sources")
    unseen = document.get("unseen") or {}
    relations = {str(k): str(v) for k, v in unseen.items() if v} if isinstance(unseen, dict) else {}
    parts = {
        "seen": () if takes_all else tuple(str(source) for source in document["seen"]),
        "unseen": tuple(str(source) for source in unseen),
        "controls": tuple(str(source) for source in document.get("controls") or ()),
    }
    _check_once(parts, origin)
    published = document.get("published") or {}
    if not isinstance(published, dict) or not all(_is_plain(size) for size in published.values()):
        raise ValueError(f"protocol {origin}: `published` must map names to numbers or words")
    return Protocol(
        name=str(document.get("name", Path(origin).stem)),
        **parts,
        relations=relations,
        simulated=bool(document.get("simulated", False)),
        task=task,
        takes_all=takes_all,
        about=" ".join(str(document.get("about", "")).split()),
        published={str(what): size for what, size in published.items()},
    )


def _is_plain(size: Any) -> bool:
    """What JSON holds, too: no date, list or NaN."""
    return isinstance(size, int | str) or (isinstance(size, float) and math.isfinite(size))


def _check_once(parts: dict[str, tuple[str, ...]], origin: str) -> None:
    """Raises ValueError where a source stands twice."""
    where: dict[str, str] = {}
    for part, sources in parts.items():
        for source in sources:
            before = where.setdefault(source, part)
            if before != part:
                raise ValueError(f"protocol {origin}: {source} is both {before} and {part}")
        if len(set(sources)) != len(sources):
            twice = next(source for source in sources if sources.count(source) > 1)
            raise ValueError(f"protocol {origin}: {twice} stands twice in {part}")
