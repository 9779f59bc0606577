"""An output folder belongs to one plan: what is there of another one is never mixed with new files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..store.documents import DocumentError, parse_json
from ..store.local import TEMPORARY_PREFIX, write_json
from ..store.reading import read_file

NAME = "synth.json"


class ClaimedError(ValueError):
    """--out holds something else (exit code 2)."""


def claim(out: Path, plan: dict[str, Any]) -> None:
    """Write OUT/synth.json before any other file. Raises ClaimedError where OUT holds another plan's files, or nobody's."""
    if out.exists() and not out.is_dir():
        raise ClaimedError(f"--out {out} is a file; give a folder")
    held = [path.name for path in out.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)] if out.exists() else []
    if held and (before := _read(out / NAME)) != plan:
        known = {"photographs": "photographs", "seed": "--seed", "sources": "--sources", "parser": "--parser"}
        other = [what for name, what in known.items() if isinstance(before, dict) and before.get(name) != plan[name]]
        of = f"the output of other {', '.join(other)}" if other else "files that are not of this synth"
        raise ClaimedError(f"--out {out} holds {of}; give another folder, or take it away first")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / NAME, plan)


def _read(file: Path) -> Any:
    """None where there is none, or it is no JSON."""
    try:
        return parse_json(read_file(file))
    except (OSError, DocumentError):
        return None
