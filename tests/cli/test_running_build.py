"""A build that runs is named by the commands that look into its ROOT."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from bmrl.cli.prep import main
from bmrl.pipeline.store.lock import RootBusyError, lock_holder, lock_root

HOLD = "import sys; from pathlib import Path; from bmrl.pipeline.store.lock import lock_root\n" + (
    "with lock_root(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def test_info_says_that_a_build_is_running(invoke: Callable[..., Result], small_copy: Path) -> None:
    assert lock_holder(small_copy) is None
    assert "being built" not in invoke(main, "info", small_copy).stderr
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, small_copy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        done = invoke(main, "info", small_copy)
        name = f"pid {holder.pid} on "
        assert done.exit_code == 0
        assert f"note: {small_copy} is being built by {name}" in done.stderr
        (small_copy / "dataset.json").unlink()
        for command in ("info", "head"):
            done = invoke(main, command, small_copy)
            assert done.exit_code == 1
            assert f"has no dataset.json (it is being built by {name}" in done.stderr
            assert done.stderr.endswith("; wait for the build to end)\n")
        with pytest.raises(RootBusyError), lock_root(small_copy):
            pass
    finally:
        holder.communicate("", timeout=30)
    done = invoke(main, "info", small_copy)
    assert done.exit_code == 1 and "its build is not complete: run it again" in done.stderr


def test_a_look_does_not_keep_a_builder_out(tmp_path: Path) -> None:
    """A lock that is asked for in the very moment of another's look is taken after it."""
    with lock_root(tmp_path):
        assert lock_holder(tmp_path) == f"pid {os.getpid()} on {os.uname().nodename}"
    for _ in range(50):
        assert lock_holder(tmp_path) is None
        with lock_root(tmp_path) as held:
            assert held
