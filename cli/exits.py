"""Exit codes, and the one place where an expected exception becomes a sentence on standard error."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from ..pipeline.store.printing import printable, printable_lines

FAILED, WRONG_USE, DROPPED, INTERRUPTED = 1, 2, 3, 130  # 0: complete

MIN_WIDTH = 60  # characters that a table needs


class Command(click.Command):
    """A command that Ctrl-C and SIGTERM end with a sentence and exit code 130 at any moment, while it imports too."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _printable_usage():
            return super().make_context(*arguments, **options)

    def main(self, *arguments: Any, **options: Any) -> Any:
        with _last_of_the_process(arguments, options):
            return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _interruptible():
            return super().invoke(ctx)


class LazyGroup(Command, click.Group):
    """As Command, for a group of them: the command NAME is the function NAME of the module NAME in `package`."""

    def __init__(self, *arguments: Any, package: str, names: tuple[str, ...], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._package, self._names = package, names

    def invoke(self, ctx: click.Context) -> Any:
        with _printable_usage():  # of its commands
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._names:
            return None
        command: click.Command = getattr(import_module(f".{cmd_name}", self._package), cmd_name)
        return command


@contextmanager
def sentences(*, failed: tuple[type[Exception], ...], wrong_use: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """`failed` errors end the command with their text and exit code 1, `wrong_use` ones with 2.

    Anything else is a bug of ours and keeps its traceback.
    """
    try:
        yield
    except wrong_use as error:
        stop(f"error: {_said(error)}", WRONG_USE)
    except failed as error:
        stop(f"error: {_said(error)}", FAILED)


def _said(error: Exception) -> str:
    """An error's text; of the system's own what and where, without the number that Python puts before them."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def stop(sentence: str, code: int) -> NoReturn:
    """Say it on standard error and exit; an interrupted command is not interrupted again on its way out."""
    if code == INTERRUPTED and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):  # torchrun sends one beside the terminal's Ctrl-C
            signal.signal(number, signal.SIG_IGN)  # a handler of ours would end before the process does
    with suppress(OSError):  # the code says it where standard error takes nothing
        click.echo(printable(sentence), err=True)
    sys.exit(code)


def say(text: str) -> None:
    """A line on standard error."""
    click.echo(printable(text), err=True)


def tell(text: str) -> None:
    """The result, on standard output; its own newlines stay. What came from outside is one line in it already. A disk that is
    full is a sentence; a pipe whose reader is gone ends the command quietly."""
    try:
        click.echo(printable_lines(text))
    except BrokenPipeError:
        sys.exit(FAILED)
    except OSError as error:
        stop(f"error: standard output: {_said(error)}", FAILED)


def terminal_width() -> int | None:
    """Of standard output; None in a file or a pipe, where a line stays a line."""
    is_seen = sys.stdout is not None and sys.stdout.isatty()
    return max(MIN_WIDTH, shutil.get_terminal_size().columns) if is_seen else None


@contextmanager
def _printable_usage() -> Iterator[None]:
    """click quotes what was given: a pattern of the shell may have found files with such names."""
    try:
        yield
    except click.UsageError as error:
        error.message = printable(error.message)  # type: ignore[misc]
        raise


@contextmanager
def _interruptible() -> Iterator[None]:
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a background shell asks to leave Ctrl-C alone
        signal.signal(signal.SIGINT, _interrupt)
    _interrupted.clear()
    try:
        yield
    except KeyboardInterrupt:
        stop("interrupted: what is committed stays, the same command goes on", INTERRUPTED)


@contextmanager
def _last_of_the_process(arguments: tuple[Any, ...], options: dict[str, Any]) -> Iterator[None]:
    """The process ends here, with its own code. A caller that gives the arguments itself (a test) is not ended."""
    try:
        yield
    except SystemExit as ended:
        if arguments or options or not isinstance(ended.code, int):
            raise
        _end(ended.code)
    except OSError as error:  # click prints help itself
        if arguments or options or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with suppress(OSError):
            say(f"error: {_said(error)}")
        _end(FAILED)


def _end(code: int) -> NoReturn:
    """End after Python's own exit hooks and before those of compiled libraries, which abort where a thread of theirs has only
    begun or still runs: 0, 1 and 130 became 134. A signal that comes now finds the work done, and ends it at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: _leave(code))
    if code != INTERRUPTED:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as Python does
    atexit._run_exitfuncs()
    _leave(code)


def _leave(code: int) -> NoReturn:
    lost = _lost()
    if lost and code in (0, DROPPED):  # the others have said why they end
        with suppress(OSError):
            say(f"error: standard output: {lost}")
        code = FAILED
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.flush()
    os._exit(code)


def _lost() -> str:
    """Why standard output does not take what was printed; empty when it does, or when nobody listens."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, ValueError):  # ValueError: it is closed
        return ""
    except OSError as error:
        return _said(error)
    return ""


def raise_if_interrupted() -> None:
    """KeyboardInterrupt again, where a library has swallowed the first (callbacks of compiled code do)."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


_interrupted = threading.Event()
# A library that is left half imported fails in its own exit hooks (Ray's shutdown does), and Python can only print what is
# raised in logging's hooks around a fork.
_UNTIMELY = {"<frozen importlib._bootstrap>", logging.__file__}


def _interrupt(number: int, frame: FrameType | None) -> None:
    """KeyboardInterrupt, put off while Python is at one of `_UNTIMELY`."""
    _interrupted.set()
    while frame is not None:
        if frame.f_code.co_filename in _UNTIMELY:
            main = threading.main_thread().ident
            assert main is not None
            again = threading.Timer(0.02, signal.pthread_kill, (main, number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt
