"""`--dataset folder`: a tree DIR/[split/]generator/**.png|jpg|webp|bmp|tif."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..taxonomy import Taxonomy
from .grouping import JOIN, Grouping
from .rows import (
    IMAGE_EXTENSIONS,
    LINKED_FOLDER,
    NOT_UTF8,
    SPLIT_ALIASES,
    TWO_SPLITS,
    SourceError,
    SourceRow,
    Walk,
    check_root,
    count_shared,
    finish_walk,
    is_utf8,
    unreadable,
)

PAIRS = r"/([^/+]+)\+?([^/+]*)\.[^/.]+$"  # stems `a` and `a+b`
HIDDEN_FOLDER = "a hidden folder"
MAPS = ("masks", "labels")  # beside the splits of what `bmrl-prep synth` and the embedded dataset write


def walk_folder(root: Path | None, taxonomy: Taxonomy, grouping: Grouping = Grouping()) -> Walk:  # noqa: B008 - frozen
    """Rows of a folder tree. The group is the file's stem, so equal names in two generator folders share a split, or what
    `grouping` finds in the path."""
    root = check_root(root, "folder")
    if not root.is_dir():
        raise SourceError(f"--root {root} is a file; --dataset folder reads a folder tree")
    walk = Walk(root=root, rows=[])
    unmatched: list[str] = []
    joined = 0
    for folder, split in _generator_folders(root, walk):
        generator = taxonomy.find_or_unknown(folder.name)
        before = len(walk.rows)
        for path in _images(folder, walk):
            relative = path.relative_to(root).as_posix()
            if not is_utf8(relative):
                walk.unused[NOT_UTF8] += 1
                continue
            if path.is_symlink() and not walk.takes(path, relative):
                continue
            group = grouping.group_of(relative, path.stem)
            if group is None:
                unmatched.append(relative)
                continue
            joined += grouping.pattern is None and not grouping.has_pairs and JOIN in path.stem
            chosen = split or grouping.split_of(group, path.stem)
            if chosen is None:  # two identities
                walk.unused[TWO_SPLITS] += 1
                continue
            walk.rows.append(
                SourceRow(
                    path=relative,
                    generator=generator.name,
                    kind=generator.kind,
                    family=generator.family,
                    split=chosen,
                    group=group,
                    synthetic=generator.name.startswith(("sim-", "control-")),
                    licence="unknown",
                )
            )
        if generator.kind == "unknown" and len(walk.rows) > before:
            _warn_of(folder.name, walk)
        splits = [] if split else [name for name in SPLIT_ALIASES if (folder / name).is_dir()]
        if splits and len(walk.rows) > before:  # sorted by generator first, or masks beside the images
            walk.warnings.append(
                f"folder {folder.name!r} is taken for a generator, and its folders {', '.join(splits)} for no splits; expected "
                f"is DIR/{splits[0]}/{folder.name}, else the hash decides"
            )
    if unmatched:
        raise SourceError(
            f"--group-regex finds no identity in {len(unmatched)} paths, such as {', '.join(sorted(unmatched)[:3])}; it must "
            "find one in every path below --root"
        )
    if joined:
        walk.warnings.append(
            f"{joined} file names hold a '+' and are taken for one identity each; where a+b is a swap of a and b, say so: "
            f"--group-regex '{PAIRS}'"
        )
    if grouping.pattern is not None and (shared := count_shared(walk.rows)):
        walk.warnings.append(f"{shared} identities that --group-regex finds stand in more than one split")
    walk.unused = +walk.unused  # without the reasons that nothing had
    if not walk.rows and any(path.suffix.lower() in IMAGE_EXTENSIONS for path in root.iterdir()):
        raise SourceError(f"images stand directly in {root}; expected one folder a generator: DIR/generator/*.png")
    return finish_walk(walk, "folder")


def _generator_folders(root: Path, walk: Walk) -> Iterator[tuple[Path, str]]:
    """(folder of one generator, its split or '')."""
    for entry in _subfolders(root, walk):
        split = SPLIT_ALIASES.get(entry.name.lower())
        if entry.name in MAPS and (root / "manifest.parquet").is_file():
            walk.unused["a folder of masks or label maps"] += 1
        elif split is None:
            yield entry, ""
        else:
            for generator in _subfolders(entry, walk):
                yield generator, split


def _subfolders(folder: Path, walk: Walk) -> list[Path]:
    """Folders in which generators, or one generator's files, lie; an image beside them belongs to nobody."""
    found = []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(error) from error
    for path in entries:
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.is_dir():
            walk.unused["stands in no generator's folder"] += 1
        elif path.is_symlink() and path.is_dir():
            walk.unused[LINKED_FOLDER] += 1
        elif path.is_dir() and path.name.startswith("."):
            walk.unused[HIDDEN_FOLDER] += 1
        elif path.is_dir():
            found.append(path)
    return found


def _warn_of(name: str, walk: Walk) -> None:
    warning = (
        f"folder {name!r} is not in the taxonomy: accepted as a generator of kind and family unknown "
        "(name it with --generators FILE.yaml)"
    )
    if warning not in walk.warnings:  # a folder of each split
        walk.warnings.append(warning)


def _images(folder: Path, walk: Walk) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise unreadable(error) from error

    for directory, subfolders, files in os.walk(folder, onerror=stop):
        hidden = [name for name in subfolders if name.startswith(".")]  # .thumbnails, .ipynb_checkpoints
        walk.unused[HIDDEN_FOLDER] += len(hidden)
        subfolders[:] = sorted(set(subfolders) - set(hidden))
        walk.unused[LINKED_FOLDER] += sum(os.path.islink(os.path.join(directory, name)) for name in subfolders)  # noqa: PTH114, PTH118
        for name in files:
            if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS:  # noqa: PTH122 - 100,000 Path objects cost seconds
                yield Path(directory, name)
            else:
                walk.unused["not an image file name"] += 1
