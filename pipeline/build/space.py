"""Before it starts, a build compares what it will write with the free space."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..shards.plan import Plan
from ..views import VIEWS
from ..views.column import ViewPlan, array_bytes
from .report import BuildError

MEMBER_OVERHEAD = 1024  # tar header and padding, roughly, for the estimate


def estimate_bytes(views: dict[str, ViewPlan]) -> dict[str, int]:
    """Bytes a sample of each column, as raw arrays (an upper bound for the png codec)."""
    return {
        name: array_bytes(plan.array) + VIEWS[name].extra_bytes(plan.params) + MEMBER_OVERHEAD
        for name, plan in views.items()
    }


def check_space(root: Path, plan: Plan, rows: dict[str, int], missing: dict[str, set[str]], *, freed: int = 0) -> None:
    """Compare the estimate with the free space, and with what will be `freed`. Raises BuildError."""
    per_sample = estimate_bytes(plan.views)
    needed = sum(rows[shard] * per_sample[view] for shard, views in missing.items() for view in views)
    free = free_bytes(root) + freed
    if needed > free:
        raise BuildError(
            f"the build needs about {needed / 1e9:.2f} GB and {root} has {free / 1e9:.2f} GB free; "
            "free some space, or use --limit, fewer --views or --codec png"
        )


def used_bytes(folder: Path) -> int:
    """That are free once a folder is deleted: of files that have no second name elsewhere."""
    found = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    return sum(file.st_size for file in found if file.st_nlink == 1)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
