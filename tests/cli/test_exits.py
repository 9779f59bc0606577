"""How an interrupted command ends, as a process."""

from __future__ import annotations

import subprocess
import sys

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
