"""Byte-identical files: across splits they fail a build, within one source a dataset may drop them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from ..store.reading import read_text
from .rows import SourceError, Walk

TAIL_BYTES = 4096  # two images of one size differ there, so few files are read whole


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that a plan names, and what its copies must have in common with it."""

    path: str  # below the root
    part: str  # its split
    is_new: bool = True  # not yet in the plan of an earlier run


def check_copies(sources: Sequence[Source], root: Path, accepted: set[str]) -> int:
    """Raises SourceError naming two byte-identical files in different splits; returns how many pairs `accepted` lets pass.

    Pairs of files that were both planned before are not looked at again.
    """
    found = [pair for copies in find_copies(sources, root, across_parts=True) for pair in _across(copies)]
    pairs = [(first, copy) for first, copy in found if not {first.path, copy.path} & accepted]
    if pairs:
        first, copy = pairs[0]
        more = f", and so are {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
        raise SourceError(
            f"{first.path} ({first.part}) and {copy.path} ({copy.part}) are byte-identical{more}: a split would leak into "
            "another; remove one of them, or list its path in a file for --accept-duplicates"
        )
    return len(found)


def drop_copies(walk: Walk) -> None:
    """Of byte-identical files of one source only the first by path stays."""
    sources = [Source(path=row.path, part=row.generator) for row in sorted(walk.rows, key=lambda row: row.path)]
    copies = set()
    for same in find_copies(sources, walk.root):
        seen: set[str] = set()
        for source in same:
            if source.part in seen:
                copies.add(source.path)
            seen.add(source.part)
    walk.rows = [row for row in walk.rows if row.path not in copies]
    walk.unused["byte-identical to another file of its source"] += len(copies)


def find_copies(sources: Iterable[Source], root: Path, *, across_parts: bool = False) -> Iterator[list[Source]]:
    """Lists of byte-identical files, in the order given; empty and absent files have no copies (the build drops them).

    Sizes are compared first, then the hashes of the last 4 KiB of files of one size, then of whole files of one tail.
    """
    folder = os.fspath(root) + os.sep
    sizes: dict[object, list[Source]] = {}
    for source in sources:
        try:
            size = os.stat(folder + source.path).st_size  # noqa: PTH116 - 100,000 Path objects cost a second
        except OSError:
            continue
        if size:
            sizes.setdefault(size, []).append(source)
    for of_one_size in _candidates(sizes, across_parts):
        tails: dict[object, list[Source]] = {}
        for source in of_one_size:
            tails.setdefault(_hash(folder + source.path, TAIL_BYTES), []).append(source)
        for of_one_tail in _candidates(tails, across_parts):
            wholes: dict[object, list[Source]] = {}
            for source in of_one_tail:
                wholes.setdefault(_hash(folder + source.path), []).append(source)
            yield from _candidates(wholes, across_parts)


def _candidates(by_trait: dict[object, list[Source]], across_parts: bool) -> Iterator[list[Source]]:
    for trait, same in by_trait.items():
        if trait is None or len(same) < 2 or not any(source.is_new for source in same):
            continue
        if not across_parts or len({source.part for source in same}) > 1:
            yield same


def _across(copies: list[Source]) -> Iterator[tuple[Source, Source]]:
    """Each file with the first one of another split."""
    firsts: dict[tuple[str, bool], Source] = {}  # by split and newness: no other can be the first that counts
    for copy in copies:
        for first in firsts.values():
            if first.part != copy.part and (first.is_new or copy.is_new):
                yield first, copy
                break
        firsts.setdefault((copy.part, copy.is_new), copy)


def _hash(path: str, tail: int = 0) -> bytes | None:
    """xxh3 of the file or of its last `tail` bytes; None where it cannot be read, which the image view records."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            if tail:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - tail))
                return xxhash.xxh3_128_digest(file.read())
            digest = xxhash.xxh3_128()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.digest()
    except OSError:
        return None


def read_accepted(file: Path | None, paths: set[str]) -> set[str]:
    """The paths of --accept-duplicates, one a line; a line that names no source is an error, not a silent nothing."""
    if file is None:
        return set()
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--accept-duplicates {file} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line and line not in paths:
            raise SourceError(f"--accept-duplicates {file.name} line {number}: {line!r} is none of the sources")
    return {line for line in lines if line}
