"""The embedded data sets are drawn before they are built; what is there is reused."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ..demo.draw import DemoSettings, draw_demo
from .report import BuildError


def draw_source(
    dataset: str, out: Path, root: Path | None, *, workers: int | None, progress: Callable[[int, int], None]
) -> Path:
    """Draw an embedded data set into `root` (None: ROOT's name and `-source`, beside ROOT), and return that folder.

    workers: processes; None: every core, 0: this one. progress(done, total) counts images. Raises BuildError.
    """
    if root is None:
        named = out if out.name not in ("", "..") else out.resolve()  # --out .
        root = named.with_name(named.name + "-source")
    try:
        draw_demo(
            root,
            num_workers=(os.cpu_count() or 1) if workers is None else workers,
            progress=progress,
            settings=DemoSettings.of(dataset),
        )
    except OSError as error:
        raise BuildError(f"cannot draw into {root}: {error.strerror or error}") from error
    except BrokenProcessPool as error:
        raise BuildError(
            "a process that draws died (out of memory, or killed); what is drawn stays, the same command goes on"
        ) from error
    return root
