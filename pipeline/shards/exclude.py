"""What a new build leaves out on request: rows of a licence, and rows named in a file. Splits and plans know nothing of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..sources.rows import SourceError, SourceRow, Walk
from ..store.reading import read_text
from .plan import PlanError
from .planning import sample_key


def exclude_rows(walk: Walk, *, licences: Iterable[str], file: Path | None) -> None:
    """Take rows out of a walk, counted in `walk.unused`.

    Raises PlanError for a licence that no row has, or where nothing stays; SourceError for a line that names no row.
    """
    everything = walk.rows
    for licence in licences:
        kept = [row for row in walk.rows if row.licence != licence]
        if not any(row.licence == licence for row in everything):
            known = ", ".join(repr(one) for one in sorted({row.licence for row in everything}))
            raise PlanError(f"--exclude-licence {licence!r}: no source has it; found are {known}")
        walk.unused[f"--exclude-licence {licence}"] += len(walk.rows) - len(kept)
        walk.rows = kept
    if file is not None:
        excluded = _read_ids(file, everything)
        kept = [row for row in walk.rows if row.path not in excluded]
        walk.unused[f"--exclude {file.name}"] += len(walk.rows) - len(kept)
        walk.rows = kept
    if not walk.rows:
        raise PlanError("--exclude and --exclude-licence leave no source; nothing is built")


def _read_ids(file: Path, rows: list[SourceRow]) -> set[str]:
    """The source paths that a file names by path or by key, one a line."""
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--exclude {file} cannot be read: {error}") from error
    path_of = {row.path: row.path for row in rows} | {sample_key(row): row.path for row in rows}
    for number, line in enumerate(lines, start=1):
        if line and line not in path_of:
            raise SourceError(f"--exclude {file.name} line {number}: {line!r} is neither a source path nor a key")
    return {path_of[line] for line in lines if line}
