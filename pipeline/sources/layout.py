"""How a named dataset lies on disk, as manifests/datasets/NAME.yaml says it (docs/datasets.md explains the fields)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..taxonomy import FAMILIES, KINDS
from .rows import SPLIT_ALIASES, SPLITS

IdRule = tuple[re.Pattern[str], str]  # of a whole name -> template of the identities, joined by '+'
UNITS = ("images", "videos")
FORMS = ("words", "lines", "csv", "pairs", "records")  # of tables; tables.py reads them
SPLIT_CHOICES = (*SPLITS, "train+val", "val+test")  # of a folder; of two splits the stable hash chooses one
_TOKEN = re.compile(r"\*\*/|[*\[\]]|\{(\w+)(?::((?:[^{}]|\{[\d,]+\})+))?\}")
_REGEX_OF = {"**/": r"(?:[^/]+/)*?", "*": r"[^/]*", "[": "(?:", "]": ")?"}
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Files of one kind: a path below --root without its extension, and what is constant about them."""

    regex: re.Pattern[str]
    generator: str = "{generator}"  # templates over the fields: named groups, then columns of the tables
    kind: str = ""  # '' leaves it to the taxonomy
    family: str = ""
    split: str = ""  # '', or one of SPLIT_CHOICES: what the folder itself says
    identity: str = ""  # what the id rules are applied to; '' is {video}, or the file's stem where there is none

    @property
    def is_video(self) -> bool:
        """The files of one folder are frames of one video."""
        return "frame" in self.regex.groupindex


@dataclass(frozen=True, kw_only=True)
class Table:
    """A list that the dataset ships: its columns become fields of the rows whose `by` is the record's key.

    `by: ids` looks every identity of a row up on its own; then only the column `split` counts.
    """

    file: re.Pattern[str]  # of the path below --root, extension included
    form: str  # one of FORMS
    by: str
    columns: tuple[str, ...] = ()
    key: re.Pattern[str] | None = None  # its group `key` is the part of the key column that counts
    fields: Mapping[str, str] = field(default_factory=dict)  # constants of every record
    values: Mapping[str, str] = field(default_factory=dict)  # the table's word for a split -> ours
    optional: bool = False  # no warning where it is not there


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One named dataset."""

    name: str
    layout: str
    licence: str
    obtain: str
    patterns: tuple[Pattern, ...]
    prune: frozenset[str] = frozenset()  # names of folders not entered, lower case
    folders: Mapping[str, str] = field(default_factory=dict)  # lower-case name -> generator; {generator} is one of them
    splits: Mapping[str, str] = field(default_factory=lambda: dict(SPLIT_ALIASES))  # lower-case word -> a SPLIT_CHOICE
    ids: tuple[IdRule, ...] = ()  # the first that matches counts
    tables: tuple[Table, ...] = ()
    frames_per_video: int = 0  # 0 takes all
    deduplicate: bool = False  # of byte-identical files of one source only the first is taken
    unit: str = "images"  # of `expected`
    expected: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)  # source -> split or `all`


def parse_layout(document: Any, origin: str) -> Layout:
    """Raises ValueError naming `origin` and the entry: an unknown key is an error."""
    _check_keys(document, _LAYOUT_KEYS, _LAYOUT_NEEDED, origin)
    folders = {str(name).lower(): str(generator) for name, generator in (document.get("folders") or {}).items()}
    expected = document.get("expected") or {}
    words = document.get("splits") or {}
    splits = {
        str(word).lower(): _one_of(str(split), SPLIT_CHOICES, f"{origin}, splits") for word, split in words.items()
    }
    return Layout(
        name=str(document["name"]),
        layout=" ".join(str(document["layout"]).split()),
        licence=" ".join(str(document["licence"]).split()),
        obtain=" ".join(str(document["obtain"]).split()),
        patterns=tuple(_pattern(entry, folders, f"{origin}, pattern") for entry in document["patterns"]),
        prune=frozenset(str(name).lower() for name in document.get("prune") or ()),
        folders=folders,
        splits={**SPLIT_ALIASES, **splits},
        ids=tuple(_id_rule(entry, f"{origin}, ids") for entry in document.get("ids") or ()),
        tables=tuple(_table(entry, f"{origin}, table") for entry in document.get("tables") or ()),
        frames_per_video=int(document.get("frames_per_video", 0)),
        deduplicate=bool(document.get("deduplicate", False)),
        unit=_one_of(str(document.get("unit", "images")), UNITS, f"{origin}, unit"),
        expected={str(source): _counts(counts, f"{origin}, expected {source}") for source, counts in expected.items()},
    )


def fill(template: str, fields: Mapping[str, str]) -> str | None:
    """The template with its {fields}, or None where one is not there."""
    names = _FIELD.findall(template)
    if any(name not in fields for name in names):
        return None
    return _FIELD.sub(lambda match: fields[match[1]], template)


def identities(name: str, rules: tuple[IdRule, ...]) -> str:
    """The group of a video or file: the identities that the first matching rule finds in its name, else the name."""
    for rule, template in rules:
        match = rule.fullmatch(name)
        if match is not None:
            return fill(template, match.groupdict()) or name
    return name


_LAYOUT_NEEDED = {"name", "layout", "licence", "obtain", "patterns"}
_LAYOUT_KEYS = _LAYOUT_NEEDED | {
    "prune", "folders", "splits", "ids", "tables", "frames_per_video", "deduplicate", "unit", "expected"
}  # fmt: skip
_PATTERN_KEYS = {"path", "generator", "kind", "family", "split", "identity"}
_TABLE_KEYS = {"file", "form", "by", "columns", "key", "fields", "values", "optional"}


def _pattern(entry: Any, folders: Mapping[str, str], origin: str) -> Pattern:
    _check_keys(entry, _PATTERN_KEYS, {"path"}, origin)
    where = f"{origin} {entry['path']}"
    for name, allowed in (("kind", KINDS), ("family", FAMILIES), ("split", SPLIT_CHOICES)):
        if name in entry:
            _one_of(str(entry[name]), allowed, f"{where}, {name}")
    return Pattern(
        regex=_compile(str(entry["path"]), folders, where),
        **{name: str(value) for name, value in entry.items() if name != "path"},
    )


def _id_rule(entry: Any, origin: str) -> IdRule:
    _check_keys(entry, {"match", "group"}, {"match", "group"}, origin)
    return _regex(str(entry["match"]), origin), str(entry["group"])


def _table(entry: Any, origin: str) -> Table:
    _check_keys(entry, _TABLE_KEYS, {"file", "form", "by"}, origin)
    where = f"{origin} {entry['file']}"
    return Table(
        file=_compile(str(entry["file"]), {}, where),
        form=_one_of(str(entry["form"]), FORMS, f"{where}, form"),
        by=str(entry["by"]),
        columns=tuple(str(column) for column in entry.get("columns") or ()),
        key=_regex(str(entry["key"]), where) if "key" in entry else None,
        fields={str(name): str(value) for name, value in (entry.get("fields") or {}).items()},
        values={str(word): _one_of(split, SPLITS, where) for word, split in (entry.get("values") or {}).items()},
        optional=bool(entry.get("optional", False)),
    )


def _counts(entry: Any, origin: str) -> dict[str, int | None]:
    """`{train: 720, all: 1000}`, with '?' for a number that nobody published."""
    _check_keys(entry, {*SPLITS, "all"}, set(), origin)
    return {name: None if count == "?" else int(count) for name, count in entry.items()}


def _compile(path: str, folders: Mapping[str, str], origin: str) -> re.Pattern[str]:
    """`**/` any folders, `*` a part of a name, `{field}` a whole part, `{field:regex}`, `[..]` may be absent; any case."""
    known = {
        "generator": "|".join(re.escape(name) for name in sorted(folders, key=len, reverse=True)) or "[^/]+",
        "split": "|".join(SPLIT_ALIASES),
    }
    regex, position = "", 0
    for token in _TOKEN.finditer(path):
        regex += re.escape(path[position : token.start()])
        position = token.end()
        name, inner = token[1], token[2]
        if name is None:
            regex += _REGEX_OF[token[0]]
        else:
            regex += f"(?P<{name}>{inner or known.get(name, '[^/]+')})"
    return _regex(regex + re.escape(path[position:]), origin)


def _regex(text: str, origin: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"{origin}: {text!r} is no regular expression: {error}") from error


def _one_of(value: str, allowed: tuple[str, ...], origin: str) -> str:
    if value not in allowed:
        raise ValueError(f"{origin}: {value!r} is none of {', '.join(allowed)}")
    return value


def _check_keys(entry: Any, allowed: set[str], needed: set[str], origin: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{origin}: expected a mapping with {', '.join(sorted(needed or allowed))}")
    if unknown := {str(key) for key in entry} - allowed:
        raise ValueError(f"{origin}: unknown key {sorted(unknown)[0]!r}; known are {', '.join(sorted(allowed))}")
    if missing := needed - set(entry):
        raise ValueError(f"{origin}: {sorted(missing)[0]!r} is missing")
