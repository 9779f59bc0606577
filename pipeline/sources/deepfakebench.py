"""`--dataset deepfakebench`: the JSON files of DeepfakeBench and DF40, DATASET/LABEL/SPLIT/[COMPRESSION/]VIDEO -> frames."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ..store.reading import JSON_BYTES, read_file
from ..taxonomy import Generator, Taxonomy
from .layout import IdRule, identities
from .rows import (
    SPLIT_ALIASES,
    SPLITS,
    SourceError,
    SourceRow,
    Walk,
    check_root,
    count_shared,
    finish_walk,
)

FOLDER = "dataset_json"  # where DeepfakeBench keeps them
LICENCE = "the listed datasets'"
# FF++ and DF40, Celeb-DF, DeepFakeDetection, DeeperForensics-1.0
IDS: tuple[IdRule, ...] = (
    (re.compile(r"(?P<target>\d{3})_(?P<source>\d{3}|[MW]\d+)"), "{target}+{source}"),
    (re.compile(r"(?P<target>id\d+)_(?P<source>id\d+)_\d{4}"), "{target}+{source}"),
    (re.compile(r"(?P<one>id\d+)_\d{4}"), "{one}"),
    (re.compile(r"(?P<target>\d{2})_(?P<source>\d{2})__.+"), "actor{target}+actor{source}"),
    (re.compile(r"(?P<actor>\d{2})__.+"), "actor{actor}"),
)
_SUFFIX = re.compile(r"(?:[_-](?:ff|cdf))?[_-](?P<word>real|fake)[AB]?$|[_-](?:ff|cdf)$", re.IGNORECASE)


def walk_deepfakebench(root: Path | None, taxonomy: Taxonomy) -> Walk:
    """Rows of the frames that the JSON files list. Raises SourceError.

    `root` is a JSON file, or a folder with JSON files in it or in its dataset_json/; frames lie below the folder, under the
    listed path or the end of it (the published files start with paths of other machines).
    """
    root = check_root(root, "deepfakebench")
    files, folder = _find_files(root)
    walk = Walk(root=folder, rows=[])
    finder = _Finder(folder, walk)
    rows: dict[str, SourceRow] = {}
    absent: list[str] = []
    moved: set[str] = set()
    for file in files:
        for keys, video in _videos(_read(file), ()):
            split, name = _place(keys, video, file)
            generator = _generator(str(video.get("label", keys[1])), taxonomy, walk)
            for listed in video["frames"]:
                path = finder.find(str(listed))
                if path is None:
                    absent.append(str(listed))
                    continue
                row = _row(path, generator, split, identities(name, IDS))
                other = rows.setdefault(path, row)
                if other.generator != row.generator:
                    raise SourceError(f"{file.name}: {path} is {row.generator} here and {other.generator} elsewhere")
                if other.split != row.split:
                    moved.add(path)
                    rows[path] = max(other, row, key=lambda one: SPLITS.index(one.split))
    walk.rows = list(rows.values())
    if absent:
        walk.unused["listed, but not on disk"] = len(absent)
        walk.warnings.append(f"{len(absent)} listed frames are not below {folder}, the first is {absent[0]}")
    if not walk.rows and absent:
        raise SourceError(f"none of the {len(absent)} listed frames is below {folder}, the first is {absent[0]}")
    if moved:
        walk.warnings.append(
            f"{len(moved)} frames are listed in several splits (DeepfakeBench repeats test as val, and lists some sets in all "
            "three); each counts in the last of train, val, test only"
        )
    if shared := count_shared(walk.rows):
        walk.warnings.append(f"the listed splits share {shared} identities or videos")
    return finish_walk(walk, "deepfakebench")


def _find_files(root: Path) -> tuple[list[Path], Path]:
    """The JSON files, and the folder that holds the frames."""
    if root.is_file():
        return [root], root.parent.parent if root.parent.name == FOLDER else root.parent
    files = sorted(root.glob("*.json")) or sorted((root / FOLDER).glob("*.json"))
    if not files:
        raise SourceError(f"no JSON file in {root} or {root / FOLDER}; `bmrl-prep datasets` shows the layout")
    return files, root


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_file(file, limit=JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{file.name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise SourceError(f"{file.name}: expected DATASET/LABEL/SPLIT/VIDEO, found a {type(document).__name__}")
    return document


def _videos(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if not isinstance(node, dict):
        return
    if isinstance(node.get("frames"), list):
        yield keys, node
    else:
        for key, below in node.items():
            yield from _videos(below, (*keys, key))


def _place(keys: tuple[str, ...], video: dict[str, Any], file: Path) -> tuple[str, str]:
    """Split and name of a video."""
    if len(keys) < 3 or keys[2].lower() not in SPLIT_ALIASES:
        raise SourceError(f"{file.name}: expected DATASET/LABEL/train|val|test/VIDEO, found {'/'.join(keys)}")
    if len(keys) == 3:  # DFDC's `val` is written as one video without a name
        name = PurePosixPath(str(video["frames"][0]).replace("\\", "/")).parent.name if video["frames"] else ""
    else:
        name = keys[-1]
    return SPLIT_ALIASES[keys[2].lower()], name


def _generator(label: str, taxonomy: Taxonomy, walk: Walk) -> Generator:
    """FF-DF, CelebDFv2_real, simswap_Fake, simswap_ff_Real, ..."""
    found, name = taxonomy.find(label), label
    suffix = _SUFFIX.search(label)
    if found is None and suffix is not None:
        name = label[: suffix.start()]
        found = taxonomy.find(name)
        if (suffix["word"] or "").lower() == "real" and (found is None or found.kind != "real"):
            found = taxonomy.find("real")
    if found is None:
        warning = f"label {label!r} is not in the taxonomy: accepted as generator {name!r} of kind and family unknown"
        if warning not in walk.warnings:
            walk.warnings.append(warning)
    return found or taxonomy.find_or_unknown(name)


class _Finder:
    """A listed path -> the path below the folder: its longest end that is there."""

    def __init__(self, folder: Path, walk: Walk) -> None:
        self._folder, self._walk, self._dropped = folder, walk, 0

    def find(self, listed: str) -> str | None:
        parts = [part for part in listed.replace("\\", "/").split("/") if part not in ("", ".")]
        for dropped in (self._dropped, *range(len(parts))):  # mostly as many leading parts as of the last frame
            end = parts[dropped:]
            if end and ".." not in end and os.path.exists(path := "/".join((str(self._folder), *end))):  # noqa: PTH110
                self._dropped = dropped
                if os.path.islink(path) and not self._walk.takes(Path(path), "/".join(end)):  # noqa: PTH114
                    return None
                return "/".join(end)
        return None


def _row(path: str, generator: Generator, split: str, group: str) -> SourceRow:
    return SourceRow(
        path=path,
        generator=generator.name,
        kind=generator.kind,
        family=generator.family,
        split=split,
        group=group,
        synthetic=generator.name.startswith(("sim-", "control-")),
        licence=LICENCE,
    )
