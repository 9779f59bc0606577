"""The commands that read a document, in a child of this process or as a user starts them, and what they did wrong."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hostile_documents import OF_A_SET, SECRET, Box
from hostile_sets import Sets, command_line

MEMORY_BYTES = 4 * 2**30  # of address space beyond what the preloaded process has mapped
TIMEOUT_S = 60.0
PATIENCE = 5  # times that for a second try, as the machine may be busy: what has no end then either is a hang
WORDS = re.compile(  # of Python, in a sentence for a user
    r"Traceback|NoneType|object at 0x|<class |\bKeyError|\bTypeError|\bValueError|\bAttributeError|\bIndexError|not subscriptable"
    r"|unhashable|has no attribute|'(int|str|float|list|dict|bool|tuple)' object|positional argument|keyword argument"
)
FORGED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Reached(BaseException):
    """The command has read all that it opens; its long work is not the question."""


@dataclass
class Command:
    """One call: the function's name under bmrl.cli, its arguments, the exit codes that it may have."""

    name: str
    arguments: list[str]
    codes: tuple[int, ...]
    is_short: bool = False  # ends where its long work would begin
    is_dear: bool = False  # a tenth of a second or more on a set that opens


@dataclass
class Outcome:
    command: str
    code: int = 0
    seconds: float = 0.0
    stdout: str = ""
    stderr: str = ""
    error: str = ""  # an exception that a user would see as a traceback


@dataclass
class Verdict:
    """Of one document."""

    number: int
    kind: str
    way: str  # functions or commands
    outcomes: dict[str, int] = field(default_factory=dict)  # command -> exit code
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_mb: int = 0


def commands_for(box: Box, sets: Sets) -> list[Command]:
    """Every command that reads the document."""
    out, root, image = box.folder / "out", str(box.root), str(sets.source / "test/real/test0.png")
    fresh = str(out / "run")
    build = ("build", "--workers", "0", "--parser", f"maps:bisenet:{sets.maps}", "--views", "image,text")
    if box.kind in OF_A_SET:
        return [
            Command("prep", ["verify", root], (0, 1)),
            Command("prep", ["verify", root, "--deep"], (0, 1)),
            Command("prep", ["info", root], (0, 1), is_dear=True),
            Command("prep", ["info", root, "--json", "--card", str(out / "card")], (0, 1), is_dear=True),
            Command("prep", ["head", root, "-n", "9"], (0, 1)),
            Command("prep", ["head", root, "--grid", str(box.folder / "grid.png")], (0, 1), is_dear=True),
            Command("prep", ["export", root, "--views", "image,edge,text", "--out", str(out / "tars")], (0, 1)),
            Command(
                "prep", ["export", root, "--for", "deepfakebench", "--out", str(out / "bench")], (0, 1), is_dear=True
            ),
            Command("prep", ["export", root, "--for", "open_clip", "--out", str(out / "clip")], (0, 1), is_dear=True),
            Command("prep", ["protocols", root], (0, 1), is_dear=True),
            Command("train", sets.train_options(box.root, Path(fresh)), (0, 1, 2), is_short=True),
            Command("eval", [str(sets.run), "--shards", root, "--out", str(out / "eval")], (0, 1, 2), is_short=True),
            Command("prep", sets.build_options(box.root, box.codec), (0, 1, 2, 3)),
        ]
    shards = str(sets.shards("raw"))
    if box.kind in ("protocol", "generators"):
        file = str(box.file)
        if box.kind == "generators":
            source = ("--dataset", "folder", "--root", str(sets.source), "--generators", file)
            return [
                Command("prep", [*build, *source, "--out", str(out / "dry"), "--dry-run"], (0, 1, 2)),
                Command("prep", [*build, *source, "--out", str(out / "root")], (0, 1, 2, 3)),
            ]
        return [
            Command(
                "train", [*sets.train_options(Path(shards), Path(fresh)), "--protocol", file], (0, 1, 2), is_short=True
            ),
            Command(
                "eval", [str(sets.run), "--shards", shards, "--protocol", file, "--out", str(out / "eval")], (0, 1, 2)
            ),
        ]
    if box.kind.startswith("manifest"):
        source = ("--dataset", "manifest", "--root", str(box.file))
        return [
            Command("prep", [*build, *source, "--out", str(out / "dry"), "--dry-run"], (0, 1, 2)),
            Command("prep", [*build, *source, "--out", str(out / "root")], (0, 1, 2, 3)),
            Command("prep", ["verify", str(out / "root"), "--deep"], (0, 1)),
        ]
    resume = [*sets.train_options(Path(shards), box.stopped), "--resume"]
    return [
        Command("attribute", [str(box.run), image, "--device", "cpu"], (0, 1, 2)),
        Command("attribute", [str(box.run), image, "--device", "cpu", "--json", "--threshold", "0.1"], (0, 1, 2)),
        Command(
            "eval",
            [str(box.run), "--shards", shards, "--out", str(out / "eval")],
            (0, 1, 2),
            is_short=box.number % 8 != 0,
        ),
        Command("train", resume, (0, 1, 2), is_short=True),
    ]


def call_all(box: Box, sets: Sets, run: Callable[[Command], Outcome]) -> list[tuple[Command, Outcome]]:
    """The commands with what they answered; a build, which may mend, comes last. Of a set that opens (`head` says it) one of the
    dear commands runs, and of those two that read every column one: they take turns by the document's number."""
    every = commands_for(box, sets)
    if box.kind.startswith("plan."):  # which the other commands do not read
        every = [command for command in every if command.arguments[0] in ("verify", "head", "build")]
    dear = [command for command in every if command.is_dear]
    builds = [command for command in every if command.arguments[0] == "build"]
    first = [command for command in every if command not in dear and command not in builds]
    if box.kind == "sidecar":
        first = [command for command in first if command.name != ("eval", "train")[box.number % 2]]
        builds = builds[: box.number % 3 == 0]
    found = [(command, run(command)) for command in first]
    if dear and any(command.arguments[0] == "head" and outcome.code == 0 for command, outcome in found):
        dear = [dear[box.number // 6 % len(dear)]]
    return found + [(command, run(command)) for command in (*dear, *builds)]


def judge(verdict: Verdict, outcomes: list[tuple[Command, Outcome]], box: Box) -> None:
    """Adds what is wrong to the verdict."""
    clean: set[str] = set()  # the ways of `verify` that called the set undamaged
    refused: dict[str, str] = {}
    for command, outcome in outcomes:
        verdict.outcomes[outcome.command] = outcome.code
        said = f"{outcome.command}: "
        if outcome.error:
            verdict.findings.append(f"{said}traceback {outcome.error}")
            continue
        if outcome.code not in command.codes:
            verdict.findings.append(f"{said}exit code {outcome.code}: {outcome.stderr[-300:]}")
        lines = [
            line for line in outcome.stderr.splitlines() if line.startswith("error: ") or line.startswith("Error: ")
        ]
        is_verify = command.arguments[0] == "verify"
        if (
            outcome.code in (1, 2)
            and len(lines) != 1
            and not (is_verify and "damaged, missing or extra" in outcome.stderr)
        ):
            verdict.findings.append(
                f"{said}{len(lines)} sentences with exit code {outcome.code}: {outcome.stderr[-300:]}"
            )
        if outcome.code == 0 and lines:
            verdict.findings.append(f"{said}exit code 0 after {lines[0][:200]}")
        if found := WORDS.search(outcome.stderr + outcome.stdout):
            place = (outcome.stderr + outcome.stdout)[max(0, found.start() - 120) : found.end() + 80]
            verdict.findings.append(f"{said}Python's words in {place!r}")
        for stream in (outcome.stdout, _without_bars(outcome.stderr)):
            if found := FORGED.search(stream):
                place = stream[max(0, found.start() - 80) : found.end() + 40]
                verdict.findings.append(f"{said}unescaped {found[0]!r} in {place!r}")
        if SECRET.decode().strip() in outcome.stdout + outcome.stderr:
            verdict.findings.append(f"{said}printed what stands outside")
        if outcome.seconds > TIMEOUT_S:
            verdict.findings.append(f"{said}took {outcome.seconds:.0f} s")
        if is_verify and outcome.code == 0:
            clean.add("deep" if "--deep" in command.arguments else "plain")
        elif outcome.code != 0 and command.arguments[0] != "build":
            refused.setdefault(outcome.command, outcome.stderr.strip()[-400:])
    if box.kind in OF_A_SET:
        for way in sorted(clean):
            for name, sentence in refused.items():
                if not name.startswith("verify") and not (
                    way == "plain" and "xxh3" in sentence
                ):  # that needs every byte
                    verdict.findings.append(f"verify ({way}) says undamaged, {name} refuses: {sentence}")
        if clean == {"plain"}:
            return  # --deep sees more
        if clean == {"deep"}:
            verdict.findings.append("verify --deep says undamaged where verify does not")


def _without_bars(text: str) -> str:
    """Standard error without the lines that tqdm draws, which go up and down."""
    return "\n".join(line for line in text.split("\n") if "%|" not in line and "\x1b[A" not in line)


def title(command: Command) -> str:
    """A short name that the arguments' paths do not enter."""
    first = command.arguments[0]
    words = [command.name] if command.name != "prep" else [first]
    flags = [
        one
        for one in command.arguments
        if one in ("--deep", "--json", "--grid", "--for", "--dry-run", "--resume", "--views")
    ]
    readers = [one for one in command.arguments if one in ("deepfakebench", "open_clip")]
    return " ".join(
        [*words, *([] if first == "build" and "--views" in flags and "--dry-run" not in flags else flags), *readers]
    )


def call(command: Command) -> Outcome:
    """The command's own function in this process."""
    import click

    from bmrl.cli import attribute, prep, train
    from bmrl.cli import eval as evaluate

    main: Any = {"prep": prep.main, "train": train.main, "eval": evaluate.main, "attribute": attribute.main}[
        command.name
    ]
    outcome = Outcome(title(command))
    out, err = io.StringIO(), io.StringIO()
    began = time.perf_counter()
    with redirect_stdout(out), redirect_stderr(err), _shortened(command.is_short), warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            main.main(args=command.arguments, prog_name=f"bmrl-{command.name}", standalone_mode=True)
        except SystemExit as ended:
            outcome.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Reached:
            outcome.code = 0
        except click.exceptions.Exit as ended:
            outcome.code = ended.exit_code
        except BaseException as error:
            where = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)][
                -4:
            ]
            outcome.error = f"{type(error).__name__}: {str(error)[:200]!r} at {' > '.join(where)}"
            outcome.code = -1
    outcome.seconds = time.perf_counter() - began
    outcome.stdout, outcome.stderr = out.getvalue(), err.getvalue()
    return outcome


@contextmanager
def _shortened(is_short: bool) -> Iterator[None]:
    """Training ends before its first epoch, an evaluation before its figures; both have opened and read all by then."""
    if not is_short:
        yield
        return
    import bmrl.model.runs.evaluate  # noqa: F401
    from bmrl.model.training.trainer import Trainer

    module = sys.modules["bmrl.model.runs.evaluate"]

    def reach(*_: Any, **__: Any) -> Any:
        raise Reached

    def epoch(self: Any, *_: Any, **__: Any) -> Any:
        next(iter(self._train), None)
        raise Reached

    before = (Trainer._epoch, module.completed)  # type: ignore[attr-defined]
    Trainer._epoch, module.completed = epoch, reach  # type: ignore[method-assign, attr-defined]
    try:
        yield
    finally:
        Trainer._epoch, module.completed = before  # type: ignore[method-assign, attr-defined]


def run_functions(box: Box, sets: Sets) -> Verdict:
    """In this process, which is a child of its own for this document."""
    verdict = Verdict(box.number, box.kind, "functions")
    began = time.perf_counter()
    with Path("/proc/self/statm").open() as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, mapped + MEMORY_BYTES))
    opened: list[str] = []
    current: list[str] = []
    watch(box, current, opened)

    def run(command: Command) -> Outcome:
        current[:] = [title(command)]
        return call(command)

    outcomes = call_all(box, sets, run)
    verdict.findings += sorted(set(opened))
    judge(verdict, outcomes, box)
    verdict.seconds = round(time.perf_counter() - began, 3)
    verdict.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return verdict


def watch(box: Box, current: list[str], opened: list[str]) -> None:
    """Notes, under the name of the `current` command, what Python opens outside the box for writing, or at all in jail/outside.
    Libraries that open files in compiled code are not seen here; what they write, the listing after each document sees."""
    folder, outside = os.fspath(box.folder), os.fspath(box.jail / "outside")
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in (
            "open",
            "os.mkdir",
            "os.rename",
            "os.remove",
            "os.link",
            "os.symlink",
            "os.truncate",
            "os.rmdir",
        ):
            return
        named = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
        for one in named:
            if not isinstance(one, str | bytes | os.PathLike):
                continue
            path = os.path.realpath(os.fsdecode(one))
            if event != "open":  # of the name itself, be it a link
                name = Path(os.fsdecode(one))
                path = os.fspath(name.parent.resolve() / name.name)
            if path.startswith(outside):
                opened.append(f"{''.join(current)}: {event} outside through the link {box.file.name}")
            elif (event != "open" or arguments[2] & writing) and not path.startswith(
                (folder, "/dev/", "/proc/", "/tmp/torch")
            ):
                opened.append(f"{''.join(current)}: {event} of {path}, which is outside")

    sys.addaudithook(hook)


def run_commands(box: Box, sets: Sets) -> Verdict:
    """As a user starts them: of a shard set `verify` and one other command, of another document one, in turn by its number."""
    verdict = Verdict(box.number, box.kind, "commands")
    began = time.perf_counter()
    every = commands_for(box, sets)
    first = [command for command in every if command.arguments[0] == "verify"][:1] if box.kind in OF_A_SET else []
    others = [command for command in every if command not in first]
    chosen = [*first, others[box.number // 40 % len(others)]]
    judge(verdict, [(command, _start(command)) for command in chosen], box)
    verdict.seconds = round(time.perf_counter() - began, 3)
    return verdict


def _start(command: Command) -> Outcome:
    outcome = Outcome(title(command))
    for seconds in (TIMEOUT_S, PATIENCE * TIMEOUT_S):
        began = time.perf_counter()
        try:
            done = subprocess.run(
                command_line(command.name, *command.arguments), capture_output=True, check=False, timeout=seconds,
                env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=limit_memory,
            )  # fmt: skip
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        outcome.error = f"hang: more than {PATIENCE * TIMEOUT_S:.0f} s"
        return outcome
    outcome.code, outcome.seconds = done.returncode, time.perf_counter() - began
    outcome.stdout, outcome.stderr = (
        stream.decode("utf-8", "backslashreplace") for stream in (done.stdout, done.stderr)
    )
    if "Traceback" in outcome.stdout + outcome.stderr:
        outcome.error = outcome.stderr[-500:]
    elif done.returncode < 0:
        outcome.error = f"killed by signal {-done.returncode}"
    return outcome


def limit_memory() -> None:
    """4 GB of address space of which torch's libraries are a part."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES + LIBRARIES_BYTES, MEMORY_BYTES + LIBRARIES_BYTES))


LIBRARIES_BYTES = 2 * 2**30  # address space that torch, pyarrow and scikit-learn map before a file is read


def as_line(verdict: Verdict) -> str:
    return json.dumps(asdict(verdict)) + "\n"


__all__ = ["Command", "Verdict", "as_line", "commands_for", "run_commands", "run_functions"]
Run = Callable[[Box, Sets], Verdict]
