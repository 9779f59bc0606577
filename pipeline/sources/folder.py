"""`--dataset folder`: a tree DIR/[split/]generator/**.png|jpg|webp|bmp|tif."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..taxonomy import Generator, Taxonomy
from .rows import (
    IMAGE_EXTENSIONS,
    SPLIT_ALIASES,
    TWO_SPLITS,
    SourceError,
    SourceRow,
    Walk,
    check_inside,
    check_root,
    finish_walk,
    group_split,
)


def walk_folder(root: Path | None, taxonomy: Taxonomy) -> Walk:
    """Rows of a folder tree. The group is the file's stem, so equal names in two generator folders share a split."""
    root = check_root(root, "folder")
    if not root.is_dir():
        raise SourceError(f"--root {root} is a file; --dataset folder reads a folder tree")
    walk = Walk(root=root, rows=[])
    for folder, split in _generator_folders(root):
        generator = _find_generator(folder.name, taxonomy, walk)
        for path in _images(folder, walk):
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                check_inside(path, root, relative)
            chosen = split or group_split(path.stem)
            if chosen is None:  # a stem `a+b` names two identities
                walk.unused[TWO_SPLITS] += 1
                continue
            walk.rows.append(
                SourceRow(
                    path=relative,
                    generator=generator.name,
                    kind=generator.kind,
                    family=generator.family,
                    split=chosen,
                    group=path.stem,
                    synthetic=generator.name.startswith(("sim-", "control-")),
                    licence="unknown",
                )
            )
    if not walk.rows and any(path.suffix.lower() in IMAGE_EXTENSIONS for path in root.iterdir()):
        raise SourceError(f"images stand directly in {root}; expected one folder a generator: DIR/generator/*.png")
    return finish_walk(walk, "folder")


def _generator_folders(root: Path) -> Iterator[tuple[Path, str]]:
    """(folder of one generator, its split or '')."""
    for entry in _subfolders(root):
        split = SPLIT_ALIASES.get(entry.name.lower())
        if split is None:
            yield entry, ""
        else:
            for generator in _subfolders(entry):
                yield generator, split


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _find_generator(name: str, taxonomy: Taxonomy, walk: Walk) -> Generator:
    generator = taxonomy.find_or_unknown(name)
    if generator.kind == "unknown" and not any(row.generator == name for row in walk.rows[-1:]):
        walk.warnings.append(
            f"folder {name!r} is not in the taxonomy: accepted as a generator of kind and family unknown "
            "(name it with --generators FILE.yaml)"
        )
    return generator


def _images(folder: Path, walk: Walk) -> Iterator[Path]:
    for directory, subfolders, files in os.walk(folder):
        subfolders.sort()
        for name in files:
            if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS:  # noqa: PTH122 - 100,000 Path objects cost seconds
                yield Path(directory, name)
            else:
                walk.unused["not an image file name"] += 1
