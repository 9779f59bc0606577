"""What a build may find in --out, and what --overwrite removes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..shards.names import DATASET_JSON, LOG, PLAN_JSON, PLAN_ROWS, is_column_file, is_ours
from ..shards.plan import PlanError
from ..store.local import TEMPORARY_PREFIX
from ..views import VIEWS


def check_empty(out: Path) -> None:
    """Raises PlanError where `out` holds anything that an interrupted first build does not leave."""
    found = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    # plan.parquet alone: killed between plan.parquet and plan.json
    if {name for name in found if not name.startswith(TEMPORARY_PREFIX)} - {LOG, PLAN_ROWS}:
        raise PlanError(f"--out {out} is not empty and holds no shard set; give another folder, or --overwrite")


def clear(out: Path) -> None:
    """`--overwrite`: remove what a build writes, and refuse to remove anything else."""
    if not out.exists():
        return
    entries = [entry for entry in out.iterdir() if not entry.name.startswith(TEMPORARY_PREFIX)]
    foreign = sorted(
        [entry.name for entry in entries if not is_ours(entry.name)]
        + [
            f"{folder.name}/{entry.name}"
            for folder in entries
            if folder.name in VIEWS and folder.is_dir() and not folder.is_symlink()
            for entry in folder.iterdir()
            if not entry.name.startswith(TEMPORARY_PREFIX) and not is_column_file(f"{folder.name}/{entry.name}")
        ]
    )
    if foreign:
        raise PlanError(f"--overwrite would delete {foreign[0]!r} in {out}, which no build wrote; remove it by hand")
    for name in (DATASET_JSON, PLAN_JSON):  # first what makes it a shard set
        (out / name).unlink(missing_ok=True)
    for entry in out.iterdir():
        if entry.name == LOG:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
