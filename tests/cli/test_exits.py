"""How an interrupted command ends, as a process."""

from __future__ import annotations

import os
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
import atexit, ctypes, os, signal, sys, threading, time
import click
from bmrl.cli.exits import Command, stop, tell

signal.signal(signal.SIGINT, signal.default_int_handler)
libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.abort, None, None)  # as a thread of C++ does that is half made, or still runs
atexit.register(print, "hooks of Python run")
way = sys.argv.pop()

def work():
    time.sleep(0.2)
    print("a thread is waited for", flush=True)

@click.command(cls=Command)
@click.option("--count", type=int)
def main(count):
    tell("a result")
    if way == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=work).start()
    if way == "stop":
        stop("error: a sentence", 1)
    if way == "drop":
        stop("dropped: a sentence", 3)

if way == "help":
    sys.argv.append("--help")
if way == "usage":
    sys.argv += ["--count", "many"]
main()
"""


@pytest.mark.parametrize(
    ("way", "code", "said", "shown"),
    [
        ("interrupt", 130, "interrupted: what is committed stays, the same command goes on", "a result"),
        ("return", 0, "", "a thread is waited for"),
        ("stop", 1, "error: a sentence", "a thread is waited for"),
        ("drop", 3, "dropped: a sentence", "a thread is waited for"),
        ("usage", 2, "Error: Invalid value for '--count': 'many' is not a valid integer.", ""),
        ("help", 0, "", "--help"),
    ],
)
def test_a_library_that_aborts_at_the_end_changes_nothing(way: str, code: int, said: str, shown: str) -> None:
    command = [sys.executable, "-c", ABORT_IN_A_LIBRARYS_EXIT_HOOK, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("hooks of Python run\n")
    assert shown in done.stdout
    assert done.stderr.rstrip().endswith(said)
    assert ("Usage" in done.stderr) == (way == "usage")


def test_a_signal_after_the_work_leaves_the_commands_own_code() -> None:
    """A hook of a library's is where Python can only print what a handler raises."""
    code = "libc.abort, None, None)"
    script = ABORT_IN_A_LIBRARYS_EXIT_HOOK + "\n"
    script = script.replace(code, code + "\natexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))")
    done = subprocess.run(
        [sys.executable, "-c", script, "return"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a result\na thread is waited for\n")


FULL = Path("/dev/full")
NO_SPACE = "No space left on device\n"


def onto_a_full_disk(script: str, *words: str, unbuffered: str = "") -> tuple[int, str]:
    """Exit code and standard error; unbuffered: as in a container, where nothing is left to be flushed again."""
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            timeout=60, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["datasets"], f"error: standard output: {NO_SPACE}"),
        (["--help"], f"error: {NO_SPACE}"),
        (["datasets", "--help"], f"error: {NO_SPACE}"),
        (["--version"], f"error: {NO_SPACE}"),
    ],
)
def test_a_full_disk_under_the_answer_is_a_sentence(words: list[str], sentence: str, unbuffered: str) -> None:
    script = "from bmrl.cli.prep import main; main()"
    assert onto_a_full_disk(script, *words, unbuffered=unbuffered) == (1, sentence)


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_what_a_library_printed_onto_a_full_disk_is_a_sentence() -> None:
    script = SAID_IN_PASSING.replace("WAY", "print('not flushed')")
    assert onto_a_full_disk(script) == (1, f"error: standard output: {NO_SPACE}")
    assert onto_a_full_disk(script, unbuffered="1") == (1, f"error: {NO_SPACE}")


SAID_IN_PASSING = """
import click
from bmrl.cli.exits import Command, sentences, stop, tell, terminal_width

@click.command(cls=Command)
def main():
    WAY

main()
"""


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_a_full_disk_under_the_sentence_leaves_the_code() -> None:
    script = SAID_IN_PASSING.replace("WAY", "stop('error: nobody reads it', 2)")
    with FULL.open("w") as full:
        done = subprocess.run([sys.executable, "-c", script], stderr=full, check=False, timeout=60)
    assert done.returncode == 2


def test_a_pipe_whose_reader_is_gone_ends_the_command_quietly() -> None:
    """Also where an error of the system is a sentence."""
    script = SAID_IN_PASSING.replace("WAY", "with sentences(failed=(OSError,)): tell('a result')")
    shell = f'{{ sleep 0.5; "{sys.executable}" -c "{script}"; echo "ended with $?" >&2; }} | true'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == "ended with 1\n"


def test_a_standard_output_that_is_closed_is_no_traceback() -> None:
    script = SAID_IN_PASSING.replace("WAY", "tell(str(terminal_width()))")
    shell = f'"{sys.executable}" -c "{script}" >&-'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
