"""A RUN folder before its training: held by one trainer, and new or of the same settings."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...pipeline.store.lock import NO_LOCKS, RootBusyError, lock_root
from ..config import config_to_json
from ..errors import TrainingError, WrongUseError
from .folder import Run, read_run, write_run


def hold(out: Path, held: ExitStack, *, say: Callable[[str], None]) -> None:
    """Keep a second trainer off RUN until `held` is closed. A folder that is no RUN is refused untouched."""
    if out.exists() and not out.is_dir():
        raise WrongUseError(f"--out {out} is a file")
    leftovers = (".log", ".tmp-")  # of a trainer that was killed before it had written config.json
    if (
        out.exists()
        and not (out / "config.json").exists()
        and not all(path.name.startswith(leftovers) for path in out.iterdir())
    ):
        raise WrongUseError(f"--out {out} is not empty and holds no run")
    try:
        if not held.enter_context(lock_root(out, doing="trained")):
            say(NO_LOCKS.format(folder=out))
    except RootBusyError as error:
        raise TrainingError(str(error)) from None


def prepare(out: Path, run: Run, *, views: tuple[str, ...], resume: bool) -> None:
    if (out / "config.json").exists():
        if not resume:
            raise WrongUseError(f"{out} holds a run already; go on with --resume, or give another --out")
        if not (out / "state.json").exists():  # no checkpoint yet: nothing is lost with other settings
            write_run(out, run, versions())
            return
        before = read_run(out)
        for what, old, new in (
            ("class list", before.classes, run.classes),
            ("settings", config_to_json(before.config), config_to_json(run.config)),
            ("training rows", before.data.get("selection"), run.data["selection"]),
        ):
            if old != new:
                raise WrongUseError(f"{out} was trained with another {what}{_difference(old, new)}; give another --out")
        replaced = [view for view in views if before.data["views"].get(view) != run.data["views"][view]]
        if replaced:
            raise WrongUseError(
                f"{out} was trained on other views than the shards hold now ({', '.join(replaced)}); give another --out"
            )
        return
    write_run(out, run, versions())


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, dict):
        for section in old:
            for key in old[section] if isinstance(old[section], dict) else ():
                if old[section][key] != new[section].get(key):
                    return f" ({section}.{key}: {old[section][key]!r}, asked for {new[section].get(key)!r})"
    return ""


def versions() -> dict[str, str]:
    """What the run was made with; no times, no paths."""
    found = {name: importlib.metadata.version(name) for name in ("bmrl", "torch", "numpy")}
    return {**found, "python": platform.python_version(), "commit": _commit()}


def _commit() -> str:
    """The commit of a source checkout that this package is imported from, else empty."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists() or shutil.which("git") is None:
        return ""
    done = subprocess.run(["git", "-C", str(top), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()
