"""Ctrl-C at random moments over build, synth, train, eval and attribute: a sentence, exit code 130, and nothing lost by it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hostile_sets import Sets, allow_interrupts, command_line
from tqdm import tqdm

COMMANDS = ("build", "build on Ray", "synth", "train", "eval", "attribute")
CLOCKS = ("samples_per_s", "loader_wait_s")  # of metrics.jsonl; everything else is the same in each run


@dataclass
class Trial:
    command: str
    number: int
    struck_s: float = 0.0
    exit_code: int = 0
    ended: bool = False  # before the moment came
    problems: list[str] = field(default_factory=list)


def run(sets: Sets, work: Path, count: int) -> str:
    log = work / "interrupts.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(one["command"], one["number"]) for one in done}
    place = work / "interrupts"
    references: dict[str, tuple[float, dict[str, str], str]] = {}
    for number in tqdm(range(count), desc="interrupts"):
        command = COMMANDS[number % len(COMMANDS)]
        if (command, number) in known:
            continue
        if command not in references:
            references[command] = _reference(command, sets, place)
        trial = _strike(command, number, sets, place, references[command])
        done.append(asdict(trial))
        with log.open("a") as file:
            file.write(json.dumps(asdict(trial)) + "\n")
    return _table(done)


def _table(done: list[dict[str, object]]) -> str:
    counts: Counter[tuple[str, str]] = Counter()
    for one in done:
        for name, is_so in (("trials", True), ("ended", one["ended"]), ("problems", one["problems"])):
            counts[str(one["command"]), name] += bool(is_so)
    head = "| command | interrupts | of them after its end | with a problem |\n|---|---|---|---|\n"
    rows = "\n".join(
        f"| {name} | {counts[name, 'trials']} | {counts[name, 'ended']} | {counts[name, 'problems']} |"
        for name in COMMANDS
    )
    problems = "\n".join(
        f"* {one['command']}, {one['number']}, at {one['struck_s']} s: {p}" for one in done for p in one["problems"]
    )
    return f"{head}{rows}\n\n{problems or 'No problem.'}"


def _words(command: str, sets: Sets, out: Path, *, again: bool) -> list[str]:
    """The command line; `again`: after an interrupt."""
    if command.startswith("build"):
        options = sets.build_options(out / "root", "raw")
        options[options.index("--workers") + 1] = "0" if command == "build" else "2"
        return command_line("prep", *options)
    if command == "synth":
        return command_line(
            "prep", "synth", "--real-dir", sets.source / "test", "--out", out / "fakes", "--parser", "bisenet-lite"
        )
    if command == "train":
        options = sets.train_options(sets.shards("raw"), out / "run")
        options[options.index("--epochs") + 1] = "8"
        return command_line("train", *options, *(["--resume"] if again else []))
    if command == "eval":
        return command_line("eval", sets.run, "--shards", sets.shards("raw"), "--out", out / "eval")
    images = sorted((sets.source).rglob("*.png")) * 8
    return command_line("attribute", sets.run, *images, "--device", "cpu")


def _content(out: Path) -> dict[str, str]:
    """Relative path -> hash, clocks and versions left out."""
    found = {}
    for path in sorted(out.rglob("*")):
        relative = path.relative_to(out)
        if path.is_dir() or ".log" in relative.parts or "tensorboard" in relative.parts:
            continue
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            records = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{k: v for k, v in one.items() if k not in CLOCKS} for one in records]).encode()
        if path.name == "config.json":
            data = json.dumps({name: one for name, one in json.loads(data).items() if name != "versions"}).encode()
        found[relative.as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def _plain(said: str, out: Path) -> str:
    """Standard output without the folder's name and clocks."""
    return re.sub(r" in [\d.]+ s\b", "", said.replace(str(out), "OUT"))


def _start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=allow_interrupts,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _reference(command: str, sets: Sets, place: Path) -> tuple[float, dict[str, str], str]:
    """(seconds, content, standard output) of the command that nothing disturbs."""
    out = place / "reference"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    began = time.perf_counter()
    process = _start(_words(command, sets, out, again=False))
    said, errors = process.communicate(timeout=300)
    if process.returncode:
        raise SystemExit(f"{command}, undisturbed, ends with {process.returncode}: {errors[-500:]}")
    return time.perf_counter() - began, _content(out), _plain(said, out)


def _strike(command: str, number: int, sets: Sets, place: Path, reference: tuple[float, dict[str, str], str]) -> Trial:
    seconds, content, said = reference
    trial = Trial(command, number)
    out = place / f"trial-{number}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    process = _start(_words(command, sets, out, again=False))
    delay = random.Random(f"moment {number}").uniform(0.3, seconds)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    trial.struck_s = round(delay, 2)
    first, errors = process.communicate(timeout=120)
    said_all = bool(said) and _plain(first, out) == said
    # Python that has done all and is on its way out dies of the signal, as any program does.
    trial.exit_code = process.returncode
    trial.ended = process.returncode == 0 or (said_all and process.returncode == -signal.SIGINT)
    if "Traceback" in errors:
        trial.problems.append(f"a traceback: {errors[-400:]}")
    sentences = [line for line in errors.splitlines() if line.startswith(("interrupted: ", "stopped: "))]
    if not trial.ended and (process.returncode != 130 or len(sentences) != 1):
        # Before the command's own handler stands, Python itself answers.
        early = process.returncode == -signal.SIGINT or "KeyboardInterrupt" in errors
        trial.problems.append(
            f"exit code {process.returncode}, {len(sentences)} sentences{', early' if early else ''}: {errors[-200:]}"
        )
    if not trial.ended and command == "attribute" and not said.startswith(_plain(first, out)):
        trial.problems.append("what it had printed is not how the whole answer begins")
    again = _start(_words(command, sets, out, again=True))
    second, errors = again.communicate(timeout=300)
    if again.returncode:
        trial.problems.append(f"the second run: exit code {again.returncode}: {errors[-300:]}")
    else:
        left = _content(out)
        differing = sorted(name for name in {*left, *content} if left.get(name) != content.get(name))
        if differing:
            trial.problems.append(f"other than undisturbed: {', '.join(differing[:5])}")
        if command == "attribute" and _plain(second, out) != said:
            trial.problems.append("the second run answers otherwise")
    if not trial.problems:
        shutil.rmtree(out)
    return trial
