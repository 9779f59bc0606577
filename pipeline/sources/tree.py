"""One walker for every named dataset: a tree on disk, read as its layout (manifests/datasets/NAME.yaml) says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..taxonomy import Generator, Taxonomy
from .duplicates import drop_copies
from .layout import Layout, Pattern, fill, identities
from .rows import (
    IMAGE_EXTENSIONS,
    LINKED_FOLDER,
    NOT_UTF8,
    SPLITS,
    TWO_SPLITS,
    SourceError,
    SourceRow,
    Walk,
    check_root,
    count_shared,
    finish_walk,
    group_split,
    hash_split,
    is_utf8,
    unreadable,
)
from .tables import Record, Tables, read_tables


@dataclass(kw_only=True)
class _Listing:
    """What lies below the root: images by folder, other files, folders without any file."""

    images: list[tuple[str, list[str]]] = field(default_factory=list)  # (folder below the root or '', names)
    others: list[str] = field(default_factory=list)
    empty_folders: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)  # images that fit no pattern


def walk_tree(layout: Layout, root: Path | None, taxonomy: Taxonomy) -> Walk:
    """Rows of a named dataset. Raises SourceError where nothing below the root fits the layout."""
    root = check_root(root, layout.name)
    if not root.is_dir():
        raise SourceError(f"--root {root} is a file; --dataset {layout.name} reads a folder tree")
    walk = Walk(root=root, rows=[])
    listing = _list(root, layout, walk)
    tables = read_tables(layout, root, listing.others)
    known = {table.file for table in layout.tables}
    walk.unused["not an image file name"] += sum(
        not any(file.fullmatch(path) for file in known) for path in listing.others
    )
    generators = _Generators(layout, taxonomy, walk)
    hashed: list[SourceRow] = []
    for folder, names in listing.images:
        for pattern, matches in _matches(folder, names, layout, listing.unmatched):
            for path, fields in _spaced(matches, layout.frames_per_video, walk) if pattern.is_video else matches:
                tables.join(fields)
                name = fill(pattern.generator, fields)
                group = _group(fields, pattern, layout)
                among = _among(fields, pattern, layout)
                split = _official_split(group, fields, among, tables)
                chosen = split or group_split(group, among)
                if name is None:
                    walk.unused["its video stands in no list of labels"] += 1
                elif chosen is None or split == TWO_SPLITS:
                    walk.unused[TWO_SPLITS] += 1
                else:
                    row = _row(path, generators.find(name), group, chosen, pattern, layout)
                    (walk.rows if split else hashed).append(row)
    walk.rows += _apart(hashed, walk)
    _warn(walk, listing, tables, layout)
    if listing.unmatched and not walk.rows:
        raise SourceError(
            f"none of the {len(listing.unmatched)} images under {root} lies where --dataset {layout.name} expects them, the "
            f"first is {min(listing.unmatched)}; `bmrl-prep datasets` shows the layout"
        )
    if layout.deduplicate:
        drop_copies(walk)
    walk.unused = +walk.unused  # without the reasons that nothing had
    return finish_walk(walk, layout.name)


def _list(root: Path, layout: Layout, walk: Walk) -> _Listing:
    listing = _Listing()

    def enter(folder: str) -> None:
        images, subfolders, others = [], [], 0
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name.startswith(".") or entry.name.lower() in layout.prune:
                        others += 1
                    else:
                        subfolders.append(entry.name)
                elif entry.is_symlink() and entry.is_dir():
                    walk.unused[LINKED_FOLDER] += 1
                elif not is_utf8(folder + entry.name):
                    others += 1
                    walk.unused[NOT_UTF8] += 1
                else:
                    others += 1
                    path = folder + entry.name
                    if entry.is_symlink() and not walk.takes(root / path, path):
                        continue
                    if os.path.splitext(entry.name)[1].lower() not in IMAGE_EXTENSIONS:  # noqa: PTH122 - 100,000 names
                        listing.others.append(path)
                    else:
                        images.append(entry.name)
        if images:
            listing.images.append((folder, images))
        elif not others and not subfolders:
            listing.empty_folders.append(folder)
        for name in sorted(subfolders):
            enter(f"{folder}{name}/")

    try:
        enter("")
    except OSError as error:
        raise unreadable(error) from error
    return listing


def _matches(
    folder: str, names: list[str], layout: Layout, unmatched: list[str]
) -> Iterator[tuple[Pattern, list[tuple[str, Record]]]]:
    """The files of one folder by the first pattern that fits each."""
    by_pattern: dict[int, list[tuple[str, Record]]] = {}
    for name in names:
        stem = os.path.splitext(folder + name)[0]  # noqa: PTH122
        for number, pattern in enumerate(layout.patterns):
            match = pattern.regex.fullmatch(stem)
            if match is not None:
                fields = {name: value for name, value in match.groupdict().items() if value is not None}
                fields["stem"] = stem.rsplit("/", 1)[-1]
                by_pattern.setdefault(number, []).append((folder + name, fields))
                break
        else:
            unmatched.append(folder + name)
    for number, matches in sorted(by_pattern.items()):
        yield layout.patterns[number], matches


def _spaced(frames: list[tuple[str, Record]], count: int, walk: Walk) -> list[tuple[str, Record]]:
    """`count` frames of a video, evenly spaced from its first to its last (DeepfakeBench takes the first ones)."""
    if not count or len(frames) <= count:
        return frames
    frames = sorted(frames, key=lambda frame: _natural(frame[1]["frame"]))
    walk.unused[f"beyond {count} evenly spaced frames of its video"] += len(frames) - count
    if count == 1:
        return [frames[len(frames) // 2]]
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


def _natural(name: str) -> list[tuple[int, str]]:
    """frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


class _Generators:
    """The generator of a folder's name, with one warning a name that the taxonomy does not have."""

    def __init__(self, layout: Layout, taxonomy: Taxonomy, walk: Walk) -> None:
        self._layout, self._taxonomy, self._walk = layout, taxonomy, walk
        self._found: dict[str, Generator] = {}

    def find(self, name: str) -> Generator:
        if name not in self._found:
            generator = self._taxonomy.find_or_unknown(self._layout.folders.get(name.lower(), name))
            if generator.kind == "unknown":
                self._walk.warnings.append(
                    f"{name!r} is not in the taxonomy: accepted as a generator of kind and family unknown "
                    "(name it with --generators FILE.yaml)"
                )
            self._found[name] = generator
        return self._found[name]


def _row(path: str, generator: Generator, group: str, split: str, pattern: Pattern, layout: Layout) -> SourceRow:
    return SourceRow(
        path=path,
        generator=generator.name,
        kind=pattern.kind or generator.kind,
        family=pattern.family or generator.family,
        split=split,
        group=group,
        synthetic=False,
        licence=layout.licence,
    )


def _group(fields: Record, pattern: Pattern, layout: Layout) -> str:
    name = (fill(pattern.identity, fields) if pattern.identity else None) or fields.get("video") or fields["stem"]
    return identities(name, layout.ids)


def _among(fields: Record, pattern: Pattern, layout: Layout) -> tuple[str, ...]:
    """The splits left to choose from, after a list of files, else the folder (tables are joined over the path's fields)."""
    split = layout.splits[fields["split"].lower()] if "split" in fields else pattern.split
    return tuple(split.split("+")) if split else SPLITS


def _official_split(group: str, fields: Record, among: tuple[str, ...], tables: Tables) -> str:
    """What a list or the folder says, TWO_SPLITS where a list parts the identities, '' where the hash has to decide."""
    if len(among) == 1:
        return among[0]
    ids = group.split("+")
    if not any(one in tables.by_identity for one in ids):
        return ""
    splits = {tables.by_identity.get(one) or hash_split(one, among) for one in ids}
    return splits.pop() if len(splits) == 1 else TWO_SPLITS


def _apart(hashed: list[SourceRow], walk: Walk) -> list[SourceRow]:
    """The hashed rows none of whose identities an official list has put into another split."""
    official: dict[str, set[str]] = {}
    for row in walk.rows:
        for identity in row.group.split("+"):
            official.setdefault(identity, set()).add(row.split)
    kept = [row for row in hashed if all(official.get(one, {row.split}) == {row.split} for one in row.group.split("+"))]
    walk.unused[TWO_SPLITS] += len(hashed) - len(kept)
    return kept


def _warn(walk: Walk, listing: _Listing, tables: Tables, layout: Layout) -> None:
    if listing.empty_folders:
        walk.warnings.append(f"{len(listing.empty_folders)} folders are empty, the first is {listing.empty_folders[0]}")
    if listing.unmatched:
        walk.unused["fits no path of the layout"] += len(listing.unmatched)
        walk.warnings.append(
            f"{len(listing.unmatched)} images fit no path of the layout, the first is {min(listing.unmatched)}; "
            f"`bmrl-prep datasets` shows what --dataset {layout.name} expects"
        )
    if tables.missing:
        walk.warnings.append(
            f"{len(tables.missing)} of the lists that this dataset ships are not below --root "
            "(see `bmrl-prep datasets`): a stable hash of the identity or video decides the split instead"
        )
    if shared := count_shared(walk.rows):
        walk.warnings.append(
            f"the official split lists of this dataset share {shared} identities or videos between splits"
        )
