"""What a build was asked for, and how it is to be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..shards.plan import PlanError
from ..sources import DATASETS
from ..sources.rows import SPLITS
from ..views import VIEWS
from ..views.image import RESIZE_KERNELS


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What `bmrl-prep build` was asked for; None: not given."""

    dataset: str
    out: Path
    source_root: Path | None = None
    views: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    limit: int | None = None
    shard_size: int | None = None
    seed: int | None = None
    group_regex: str | None = None
    split_by: str | None = None
    resize: str | None = None
    codec: str | None = None
    patch_size: int | None = None
    parser: str | None = None
    parser_engine: str | None = None
    generators: Path | None = None
    retry_failed: bool = False
    extend: bool = False
    replace: tuple[str, ...] = ()
    overwrite: bool = False
    accept_duplicates: Path | None = None
    skip_links: bool = False  # links that lead nowhere or out of the root are left out, not refused
    exclude: Path | None = None
    exclude_licences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How to run; nothing of it decides a byte."""

    workers: int | None = None  # None: every core of this machine, or of the cluster; 0: in this process, without Ray
    ray_address: str | None = None  # None: a local Ray of our own


def check_names(
    *,
    dataset: str,
    views: tuple[str, ...] | None,
    splits: tuple[str, ...] | None,
    resize: str | None,
    replace: tuple[str, ...],
) -> None:
    """Names that the command line passes on. Raises PlanError (exit 2) naming the known ones."""
    for name, value, known in (
        ("--dataset", (dataset,), tuple(DATASETS)),
        ("--views", views or (), tuple(VIEWS)),
        ("--splits", splits or (), SPLITS),
        ("--resize", (resize,) if resize is not None else (), tuple(RESIZE_KERNELS)),
        ("--replace", replace, tuple(VIEWS)),
    ):
        if not value and (name, value) in (("--views", views), ("--splits", splits)):
            raise PlanError(f"{name} names nothing; known are {', '.join(known)}")
        for one in value:
            if one not in known:
                raise PlanError(f"unknown {name} {one!r}; known are {', '.join(known)}")
