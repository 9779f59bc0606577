"""Who is on an image of a folder: what its file's stem says, or what a regular expression finds in its path."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .rows import group_split

SPLIT_BY = ("group", "stem")
JOIN, LITERAL = "+", "%2B"  # between two identities of a group; a plus that belongs to the name of one


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """pattern: searched in the path below the root; its groups, or the whole match where it has none, are the identities,
    several of them those of a swap. has_pairs: a stem `a+b` is a swap of a and b, as plans of version 0.1 have it."""

    pattern: re.Pattern[str] | None = None
    split_by: str = "group"
    has_pairs: bool = False

    @classmethod
    def of(cls, regex: str, split_by: str, *, has_pairs: bool = False) -> Grouping:
        """'' is what was not given. Raises ValueError with one sentence."""
        if split_by not in ("", *SPLIT_BY):
            raise ValueError(f"unknown --split-by {split_by!r}; known are {', '.join(SPLIT_BY)}")
        try:
            pattern = re.compile(regex) if regex else None
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"--group-regex {regex!r} is no regular expression: {error}") from None
        return cls(pattern=pattern, split_by=split_by or "group", has_pairs=has_pairs)

    def group_of(self, path: str, stem: str) -> str | None:
        """Identities joined by '+'; None where the pattern finds none. path: relative, posix."""
        if self.pattern is None:
            return stem if self.has_pairs else _literal(stem)
        found = self.pattern.search(path)
        if found is None:
            return None
        names = found.groups() if self.pattern.groups else (found.group(),)
        return JOIN.join(dict.fromkeys(_literal(name) for name in names if name)) or None

    def split_of(self, group: str, stem: str) -> str | None:
        """By the stable hash of the group, or of the stem; None where a group's identities fall into different splits."""
        return group_split(group if self.split_by == "group" else _literal(stem))


def _literal(name: str) -> str:
    return name.replace(JOIN, LITERAL)
