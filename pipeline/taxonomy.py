"""Which sources exist: canonical names, aliases, kind and family, from manifests/generators.yaml and the user's own."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import manifests
from .store.yaml_file import read_yaml

KINDS = ("real", "EFS", "AM", "FS", "FR", "unknown")
FAMILIES = ("real", "GAN", "diffusion", "autoregressive", "graphics", "other", "unknown")
_FIELDS = {"kind", "family", "aliases", "reference"}


@dataclass(frozen=True, kw_only=True)
class Generator:
    """One source of face images; `real` is one too."""

    name: str
    kind: str
    family: str
    aliases: tuple[str, ...] = ()
    reference: str = ""


class Taxonomy:
    """Finds a generator by its name or any alias, whatever the case and punctuation."""

    def __init__(self, generators: list[Generator]) -> None:
        self.generators = {generator.name: generator for generator in generators}
        self._by_alias: dict[str, Generator] = {}
        for generator in generators:
            for alias in (generator.name, *generator.aliases):
                other = self._by_alias.setdefault(_fold(alias), generator)
                if other.name != generator.name:
                    raise ValueError(f"the name {alias!r} stands for both {other.name} and {generator.name}")

    @classmethod
    def load(cls, extra: Path | None = None) -> Taxonomy:
        """The shipped taxonomy, with a user's YAML file of the same form over it. Raises ValueError naming the entry."""
        entries: dict[str, Any] = dict(manifests.load("generators.yaml"))
        if extra is not None:
            document = read_yaml(extra)
            if not isinstance(document, dict):
                raise ValueError(f"{extra}: expected a mapping from generator names to {{kind, family, ...}}")
            own = {_fold(str(name)) for name in document}  # spelt otherwise, a shipped name is still the user's
            entries = {name: entry for name, entry in entries.items() if _fold(name) not in own} | document
        return cls([_parse(name, entry) for name, entry in entries.items()])

    def find(self, name: str) -> Generator | None:
        return self._by_alias.get(_fold(name))

    def find_or_unknown(self, name: str) -> Generator:
        """As `find`; a name that is not listed becomes a generator of kind and family `unknown`."""
        return self.find(name) or Generator(name=name, kind="unknown", family="unknown")


def _parse(name: str, entry: Any) -> Generator:
    if not isinstance(entry, Mapping) or not {"kind", "family"} <= set(entry):
        raise ValueError(f"generator {name}: expected at least kind and family")
    if unknown := set(entry) - _FIELDS:
        raise ValueError(
            f"generator {name}: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(_FIELDS))}"
        )
    for field, allowed in (("kind", KINDS), ("family", FAMILIES)):
        if entry[field] not in allowed:
            raise ValueError(f"generator {name}: {field} {entry[field]!r} is none of {', '.join(allowed)}")
    aliases = entry.get("aliases") or []
    if not isinstance(aliases, list):
        raise ValueError(f"generator {name}: aliases must be a list, such as [{aliases}]")
    return Generator(
        name=str(name),
        kind=entry["kind"],
        family=entry["family"],
        aliases=tuple(str(alias) for alias in aliases),
        reference=str(entry.get("reference", "")),
    )


def _fold(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).lower())  # letters of any alphabet
