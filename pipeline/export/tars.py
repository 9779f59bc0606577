"""Joining columns into single tars for readers that expect all members of a sample in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import webdataset as wds

from ..shards.tars import DamagedShardError, Sidecar, read_members, read_sidecar
from ..shardset import ShardSet, is_within
from ..store.local import AtomicFile
from ..views.column import ordered


class ExportError(ValueError):
    """A view the shard set lacks, or a folder that is in use (exit code 2)."""


def check_out(shard_set: ShardSet, out: Path) -> None:
    """Raises ExportError where OUT is in use, or stands in ROOT, whose files are fixed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"--out {out} is not an empty folder")
    if is_within(out, shard_set.root):
        raise ExportError(f"--out {out} is inside the shard set, whose files are fixed; give another folder")


def read_sidecars(shard_set: ShardSet, views: Sequence[str], shard: str) -> list[Sidecar]:
    """The sidecars of one shard's columns, which hold the same samples. Raises DamagedShardError."""
    found = [read_sidecar(shard_set.root, view, shard) for view in views]
    sidecars = [sidecar for sidecar in found if sidecar is not None]
    if len(sidecars) < len(views) or any(sidecar["keys"] != sidecars[0]["keys"] for sidecar in sidecars):
        raise DamagedShardError(f"{shard_set.root}: shard {shard} is damaged; run `bmrl-prep verify`")
    return sidecars


def export_tars(shard_set: ShardSet, views: Sequence[str], out: Path) -> int:
    """Write OUT/<shard>.tar with the members of `views`, samples in shard order; returns the number of tars.

    Raises ExportError, and DamagedShardError for a tar that is not what its sidecar says.
    """
    for view in views:
        if view not in shard_set.views:
            known = ", ".join(sorted(shard_set.views))
            raise ExportError(f"{shard_set.root} has no view {view!r}; it has {known}")
    if not views:
        raise ExportError("--views names no view")
    check_out(shard_set, out)
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for shard in shard_set.shard_names:
        sidecars = read_sidecars(shard_set, ordered(views), shard)
        keys = sidecars[0]["keys"]
        if not keys:
            continue
        members = {
            suffix: read_members(shard_set.root, sidecar, suffix)
            for sidecar in sidecars
            for suffix in sidecar["members"]
        }
        with AtomicFile(out / f"{shard}.tar") as file:
            tar = wds.TarWriter(file, encoder=False, mtime=0, user="", group="")
            for number, key in enumerate(keys):
                tar.write({"__key__": key, **{suffix: data[number] for suffix, data in members.items()}})
            tar.close()
            file.commit()
        count += 1
    return count
