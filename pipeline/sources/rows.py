"""What every source adapter yields: one row a sample, and the rules all rows obey (paths, splits, groups)."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
TWO_SPLITS = "its identities fall into different splits"
LINKED_FOLDER = "a link to a folder"
NOT_UTF8 = "its path is not UTF-8"
BAD_LINK = "a link that leads nowhere or out of the root"
MAX_NAMED = 20  # of what is wrong, in one sentence
IMAGE_EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"}
SHARES = {"train": 0.75, "val": 0.125, "test": 0.125}  # exact in floating point


class SourceError(ValueError):
    """The dataset on disk cannot be used as it is; the text says what, where and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRow:
    """One sample before any pixel is read."""

    path: str  # relative to the root, posix
    generator: str  # canonical name
    kind: str
    family: str
    split: str  # train, val or test
    group: str  # identity or video ids joined by '+': two ids for a swap
    synthetic: bool
    licence: str


@dataclass(kw_only=True)
class Walk:
    """The rows an adapter found under `root`, sorted by path, with what it left out and why."""

    root: Path
    rows: list[SourceRow]
    unused: Counter[str] = field(default_factory=Counter)  # reason -> number of files
    warnings: list[str] = field(default_factory=list)
    bad_links: list[str] = field(
        default_factory=list
    )  # left out, counted in `unused` too; a build refuses them all at once

    def takes(self, path: Path, name: str) -> bool:
        """False where `path` is reached through a link that leads nowhere or out of the root."""
        try:
            check_inside(path, self.root, name)
        except SourceError as error:
            self.bad_links.append(str(error))
            self.unused[BAD_LINK] += 1
            return False
        return True

    def check_links(self) -> None:
        """Raises SourceError with every bad link."""
        if self.bad_links:
            more = f" and {len(self.bad_links) - MAX_NAMED} more" if len(self.bad_links) > MAX_NAMED else ""
            raise SourceError(
                f"{len(self.bad_links)} links lead nowhere or out of the root ({'; '.join(self.bad_links[:MAX_NAMED])}{more}); "
                "take them away, or leave them out with --skip-links"
            )


def hash_split(identity: str, among: tuple[str, ...] = SPLITS) -> str:
    """The split of one identity or video: a stable hash decides, 75 / 12.5 / 12.5 %, or in proportion between two of them."""
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    share *= sum(SHARES[split] for split in among)
    for split in among[:-1]:
        share -= SHARES[split]
        if share < 0:
            return split
    return among[-1]


def group_split(group: str, among: tuple[str, ...] = SPLITS) -> str | None:
    """The split that all identities of a group share, or None where they fall into different ones."""
    splits = {hash_split(identity, among) for identity in group.split("+")}
    return splits.pop() if len(splits) == 1 else None


def check_root(root: Path | None, dataset: str) -> Path:
    """An existing folder, resolved. Raises SourceError."""
    if root is None:
        raise SourceError(f"--dataset {dataset} needs --root DIR, the folder that holds it")
    if not root.exists():
        raise SourceError(f"--root {root} does not exist")
    return root.resolve()


def check_relative(path: str, where: str) -> str:
    """A manifest's path in posix form; it must be relative and stay below the root. Links are `Walk.takes`'s."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if not path or pure.is_absolute() or (len(path) > 1 and path[1] == ":"):
        raise SourceError(f"{where}: path {path!r} must be relative to the manifest's folder")
    if ".." in pure.parts:
        raise SourceError(f"{where}: path {path!r} leaves the root through '..'")
    return pure.as_posix()


def check_inside(path: Path, root: Path, where: str) -> None:
    """Raises SourceError where `path` is reached through a link that leads out of `root` (an absolute, resolved path)."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a zero byte
        raise SourceError(f"{where}: {path.name!r} leads nowhere: {error}") from None
    if not target.is_relative_to(root):
        raise SourceError(f"{where}: {path.name} is a link that leads out of the root")


def is_utf8(path: str) -> bool:
    """Whether it can be written down: other bytes in a file's name become lone surrogates in Python."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def unreadable(error: OSError) -> SourceError:
    """A folder that cannot be listed is no empty folder: its images would be missing without a word."""
    return SourceError(f"{error.filename} cannot be read: {error.strerror}")


def finish_walk(walk: Walk, dataset: str) -> Walk:
    """Sort, and refuse an empty dataset or one path twice."""
    if not walk.rows:
        walk.check_links()
        left_out = ", ".join(f"{count} x {reason}" for reason, count in sorted(walk.unused.items()) if count)
        raise SourceError(
            f"no images found under {walk.root} for --dataset {dataset}{f' (left out: {left_out})' if left_out else ''}; "
            "`bmrl-prep datasets` shows the layout it expects"
        )
    for name in {row.generator for row in walk.rows}:
        if name.splitlines() != [name]:
            raise SourceError(
                f"generator {name!r}: a name is one line, and a line of the text view holds it; rename it"
            )
    walk.rows.sort(key=lambda row: row.path)
    for previous, row in zip(walk.rows, walk.rows[1:], strict=False):
        if previous.path == row.path:
            raise SourceError(f"{row.path} is listed twice")
    return walk


def count_shared(rows: list[SourceRow]) -> int:
    """Identities and videos that stand in more than one split."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        for identity in row.group.split("+"):
            splits.setdefault(identity, set()).add(row.split)
    return sum(len(found) > 1 for found in splits.values())
