"""How an interrupted command ends, as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bmrl.cli.exits import sentences

SECOND_SIGNAL_WHILE_PYTHON_ENDS = """
import os, signal
import click
from bmrl.cli.exits import Command

signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells ignore it

class Late:  # deleted when Python has taken its handlers back
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, signal.SIGINT)
        kill(pid, signal.SIGTERM)

late = Late()

@click.command(cls=Command)
def main():
    os.kill(os.getpid(), signal.SIGINT)

main()
"""


def test_a_second_signal_changes_nothing() -> None:
    """Ctrl-C under torchrun: the terminal sends SIGINT, and torchrun SIGTERM to whoever still tears down."""
    command = [sys.executable, "-c", SECOND_SIGNAL_WHILE_PYTHON_ENDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted: what is committed stays, the same command goes on\n"


SIGNAL_WHILE_A_LIBRARY_IS_IMPORTED = """
import os, signal, sys, time
import click
from bmrl.cli.exits import Command

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv.pop())

@click.command(cls=Command)
def main():
    import library
    print("imported", library.whole, flush=True)
    time.sleep(60)
    print("not interrupted")

main()
"""

LIBRARY = """
import atexit, os, signal, sys
atexit.register(lambda: sys.modules["library"].whole)  # as Ray's shutdown
os.kill(os.getpid(), signal.{name})
whole = True
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_library_is_imported_to_its_end(name: str, tmp_path: Path) -> None:
    (tmp_path / "library.py").write_text(LIBRARY.format(name=name))
    command = [sys.executable, "-c", SIGNAL_WHILE_A_LIBRARY_IS_IMPORTED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert done.stdout == "imported True\n"
    assert done.stderr == "interrupted: what is committed stays, the same command goes on\n"


SIGNAL_AT_A_FORK = """
import os, signal, sys, time
import click
from bmrl.cli.exits import Command

signal.signal(signal.SIGINT, signal.default_int_handler)
parent = os.getpid()

def strike(frame, event, _):
    if event == "call" and frame.f_code.co_name == "_releaseLock" and os.getpid() == parent:
        sys.setprofile(None)
        os.kill(parent, signal.SIGINT)

@click.command(cls=Command)
def main():
    sys.setprofile(strike)
    if os.fork() == 0:
        os._exit(0)
    time.sleep(60)
    print("not interrupted")

main()
"""


def test_a_signal_at_a_fork_is_not_lost() -> None:
    """logging's hook after a fork is where an exception can only be printed."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_A_FORK], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert done.stderr == "interrupted: what is committed stays, the same command goes on\n"


def test_an_error_of_the_system_is_told_without_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), sentences(failed=(OSError,)):
        Path("/nowhere/at/all").read_bytes()
    assert capsys.readouterr().err == "error: /nowhere/at/all: No such file or directory\n"


ABORT_IN_A_LIBRARYS_EXIT_HOOK = """
import atexit, ctypes, os, signal
import click
from bmrl.cli.exits import Command

signal.signal(signal.SIGINT, signal.default_int_handler)
libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.abort, None, None)  # as a half made thread of C++ does
atexit.register(print, "hooks of Python run")

@click.command(cls=Command)
def main():
    print("a result")
    os.kill(os.getpid(), signal.SIGINT)

main()
"""


def test_a_library_that_aborts_at_the_end_changes_nothing() -> None:
    command = [sys.executable, "-c", ABORT_IN_A_LIBRARYS_EXIT_HOOK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert done.stdout == "a result\nhooks of Python run\n"
    assert done.stderr == "interrupted: what is committed stays, the same command goes on\n"
