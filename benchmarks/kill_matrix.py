"""Kills builds at random moments and at every named step of a commit, and checks that nothing is lost by it.

    python benchmarks/kill_matrix.py --log kill_matrix.jsonl --out benchmarks/results/kill_matrix.md

A trial starts `bmrl-prep build` in an empty ROOT, strikes, and runs the same command again. Then every file outside .log/
must have the bytes of an uninterrupted build's, no other file may be there, a column that was committed when the fault
struck must be the same file (inode and mtime), and the second run must have written no more columns than were missing.
Faults: SIGKILL of the driver's process group, of one worker, of the Ray node (raylet), and SIGINT to the process group,
as Ctrl-C sends it. Trials that the log holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
from machine import describe
from PIL import Image

from bmrl.pipeline.build.tasks import missing_views
from bmrl.pipeline.shards.plan import read_plan
from bmrl.pipeline.store.local import PAUSE_S

_WORKER = re.compile(r"ray::(?!\w*Agent)")
VIEWS = ("image", "edge", "noise", "parsing", "text")
# Where a fault strikes: a checkpoint's name and a part of its path. The driver takes the first and last ones.
DRIVER_STEPS = (
    ("before-rename", "plan.parquet"),
    ("after-rename", "plan.parquet"),
    ("before-rename", "plan.json"),
    ("plan-written", "plan.json"),
    ("before-index", "index.parquet"),
    ("before-rename", "index.parquet"),
    ("before-rename", "failures.parquet"),
    ("after-index", "index.parquet"),
    ("before-rename", "SHA256SUMS"),
    ("after-sums", "SHA256SUMS"),
    ("before-rename", "dataset.json"),
    ("after-rename", "dataset.json"),
)
WORKER_STEPS = tuple(
    (name, f"{view}/000002.{suffix}")
    for view in ("image", "text", "parsing")
    for name, suffix in (
        ("temp-written", "tar"),
        ("fsynced", "tar"),
        ("before-rename", "tar"),
        ("after-rename", "tar"),
        ("before-rename", "json"),
        ("after-rename", "json"),
    )
)


@dataclass(frozen=True)
class Fault:
    """What is struck, and the exit codes that the struck run may have."""

    name: str
    strike: Callable[[subprocess.Popen[str], int | None], bool]  # (driver, pid at the step) -> whether it hit
    exit_codes: tuple[int, ...]
    ends_the_run: bool  # whatever the run is doing
    at: tuple[tuple[str, str], ...]


@dataclass
class Trial:
    fault: str
    moment: str  # "random 3" or "fsynced image/000002.tar"
    struck_s: float = 0.0  # after the start
    exit_code: int = 0  # of the struck run
    committed: int = 0  # columns of shards when it had ended
    written_again: int = 0  # columns that the second run wrote
    problems: list[str] = field(default_factory=list)


def kill_driver(driver: subprocess.Popen[str], _: int | None) -> bool:
    os.killpg(driver.pid, signal.SIGKILL)
    return True


def interrupt(driver: subprocess.Popen[str], _: int | None) -> bool:
    os.killpg(driver.pid, signal.SIGINT)
    return True


def kill_worker(driver: subprocess.Popen[str], pid: int | None) -> bool:
    """The one at the step, or any; Ray's agents are a part of the node."""
    return _kill(driver, lambda process: process.pid == pid if pid else _WORKER.match(_title(process)) is not None)


def kill_node(driver: subprocess.Popen[str], _: int | None) -> bool:
    return _kill(driver, lambda process: Path(_title(process).split(" ")[0]).name == "raylet")


def _kill(driver: subprocess.Popen[str], wanted: Callable[[psutil.Process], bool]) -> bool:
    """SIGKILL one of the driver's descendants; waits for one to exist while the driver lives."""
    while driver.poll() is None:
        try:
            found = [one for one in psutil.Process(driver.pid).children(recursive=True) if wanted(one)]
            if found:
                random.choice(found).kill()
                return True
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.02)
    return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


FAULTS = (
    Fault("SIGKILL of the driver's process group", kill_driver, (-signal.SIGKILL,), True, DRIVER_STEPS + WORKER_STEPS),
    Fault("SIGKILL of one worker", kill_worker, (0,), False, WORKER_STEPS),
    Fault("SIGKILL of the Ray node", kill_node, (1,), False, WORKER_STEPS),
    Fault("SIGINT (Ctrl-C)", interrupt, (130,), True, DRIVER_STEPS + WORKER_STEPS),
)


class Matrix:
    """One set of sources, its uninterrupted build, and trials against it."""

    def __init__(self, work: Path, *, samples: int, shard_size: int) -> None:
        self.work = work
        self.source = _draw_sources(work / "source", samples)
        self.command = [
            *(sys.executable, "-c", "from bmrl.cli.prep import main; main()", "build", "--dataset", "folder"),
            *("--root", str(self.source), "--shard-size", str(shard_size), "--workers", "2"),
            *("--max-failures", "0.5"),
            *("--parser", f"maps:bisenet:{self.source.with_name('maps')}", "--out"),
        ]
        self.reference = work / "reference"
        start = time.perf_counter()
        done = self._start(self.reference)
        _, errors = done.communicate()
        if done.returncode:
            raise SystemExit(f"the uninterrupted build failed: {errors}")
        self.seconds = time.perf_counter() - start
        self.content = _content(self.reference)
        self.num_columns = sum(name.endswith(".tar") for name in self.content)

    def run(self, fault: Fault, moment: str, delay: float | None, step: tuple[str, str] | None) -> Trial:
        """`delay` in seconds after the start, or `step`."""
        trial = Trial(fault=fault.name, moment=moment)
        out = Path(tempfile.mkdtemp(prefix="root-", dir=self.work))
        marker = out.with_suffix(".marker")
        start = time.perf_counter()
        driver = self._start(out, None if step is None else f"{step[0]}:{step[1]}:{marker}")
        hit = self._strike(driver, fault, delay, marker)
        was_complete = (out / "dataset.json").exists()
        trial.struck_s = round(time.perf_counter() - start, 2)
        before = _committed(out)
        _, errors = driver.communicate(timeout=300)
        trial.exit_code = driver.returncode
        expected = fault.exit_codes if hit else (0,)
        if driver.returncode not in expected:
            ended = driver.returncode == 0 or (was_complete and driver.returncode == -signal.SIGINT)  # on its way out
            if ended and step is None and (was_complete or not fault.ends_the_run):
                trial.moment += " (the build had ended)"
            else:
                trial.problems.append(f"exit code {driver.returncode}, expected {expected[0]}: {errors[-300:]}")
        if "Traceback" in errors:
            trial.problems.append(f"a traceback: {errors[-600:]}")
        if step is not None and not hit:
            trial.problems.append("the step was never reached")
        trial.committed = len(_committed(out))
        again = self._start(out)
        said, errors = again.communicate(timeout=300)
        self._check(trial, out, before, again.returncode, said, errors)
        if not trial.problems:
            shutil.rmtree(out)
        marker.unlink(missing_ok=True)
        return trial

    def _strike(self, driver: subprocess.Popen[str], fault: Fault, delay: float | None, marker: Path) -> bool:
        if delay is not None:
            try:
                driver.wait(timeout=delay)
                return False
            except subprocess.TimeoutExpired:
                return fault.strike(driver, None)
        while driver.poll() is None:
            if marker.exists() and (pid := marker.read_text()):
                return fault.strike(driver, int(pid))
            time.sleep(0.01)
        return False

    def _check(
        self, trial: Trial, out: Path, before: dict[str, tuple[int, int]], code: int, said: str, errors: str
    ) -> None:
        if code != 0 or "Traceback" in errors:
            trial.problems.append(f"the second run: exit code {code}: {errors[-300:]}")
            return
        content = _content(out)
        for name in sorted(set(content) | set(self.content)):
            if name not in content:
                trial.problems.append(f"{name} is lost")
            elif name not in self.content:
                trial.problems.append(f"{name} is left over")
            elif content[name] != self.content[name]:
                trial.problems.append(f"{name} differs from the uninterrupted build's")
        for name, stamp in before.items():
            if _stamp(out / name) != stamp:
                trial.problems.append(f"{name} was committed before the fault and was rewritten")
        found = re.search(r"(\d+) columns of shards written", said)
        trial.written_again = int(found[1]) if found else -1
        if not 0 <= trial.written_again <= self.num_columns - trial.committed:
            trial.problems.append(f"{trial.written_again} columns written again, {trial.committed} were committed")

    def _start(self, out: Path, pause: str | None = None) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"OMP_NUM_THREADS": "1"} | ({"BMRL_PAUSE_AT": pause} if pause else {})
        return subprocess.Popen(
            [*self.command, str(out)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background shells ignore it
        )


def _draw_sources(root: Path, samples: int) -> Path:
    rng = np.random.default_rng(0)
    for number in range(samples):
        name = f"{('train', 'val', 'test')[number % 3]}/{('real', 'StyleGAN2')[number % 2]}/{number:03d}.png"
        for folder, array in (
            (root, rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)),
            (root.with_name("maps"), rng.integers(0, 19, (128, 128), dtype=np.uint8)),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / name)
    (root / "train/real/broken.png").write_bytes(b"not an image")
    return root


def _content(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".log" not in path.relative_to(root).parts
    }


def _committed(out: Path) -> dict[str, tuple[int, int]]:
    """The tars of all committed columns with inode and mtime; none before there is a plan."""
    plan = read_plan(out) if (out / "plan.json").exists() else None
    if plan is None:
        return {}
    names = [
        f"{view}/{shard}.tar" for shard in plan.shards for view in set(VIEWS) - missing_views(out, shard, plan.views)
    ]
    return {name: _stamp(out / name) for name in names}


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def table(trials: list[Trial]) -> str:
    """One row a fault and kind of moment."""
    lines = ["| fault | moments | trials | after the build had ended | losses |", "|---|---|---|---|---|"]
    for fault in dict.fromkeys(trial.fault for trial in trials):
        for moments, is_random in (("random", True), ("named steps", False)):
            chosen = [t for t in trials if t.fault == fault and t.moment.startswith("random") == is_random]
            if chosen:
                late = sum("had ended" in trial.moment for trial in chosen)
                lost = sum(bool(trial.problems) for trial in chosen)
                lines.append(f"| {fault} | {moments} | {len(chosen)} | {late} | {lost} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=25, help="random moments per fault")
    parser.add_argument("--steps", type=int, default=99, help="named steps per fault")
    parser.add_argument("--fault", default="", help="only faults with this in their name")
    parser.add_argument("--at-most", type=int, default=10**6, help="trials in this run; the log holds the earlier ones")
    parser.add_argument("--samples", type=int, default=36)
    parser.add_argument("--shard-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True, help="one JSON line a trial; trials in it are not run again")
    parser.add_argument("--out", type=Path, help="Markdown result file")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="kill-matrix-"))
    matrix = Matrix(work, samples=options.samples, shard_size=options.shard_size)
    chooser = random.Random(options.seed)
    lines = options.log.read_text().splitlines() if options.log.exists() else []
    trials = [Trial(**json.loads(line)) for line in lines]
    known = Counter((trial.fault, trial.moment.split(" (")[0]) for trial in trials)
    for fault in FAULTS:
        delays = [chooser.uniform(0.6, matrix.seconds) for _ in range(options.random)]
        moments: list[tuple[str, float | None, tuple[str, str] | None]] = [
            (f"random {number}", delay, None) for number, delay in enumerate(delays)
        ]
        chosen = fault.at if options.steps >= len(fault.at) else chooser.sample(fault.at, options.steps)
        moments += [(" ".join(step), None, step) for step in chosen]
        for moment, delay, step in moments:
            if (
                options.fault not in fault.name
                or known[fault.name, moment]
                or len(trials) - len(lines) >= options.at_most
            ):
                continue
            trial = matrix.run(fault, moment, delay, step)
            trials.append(trial)
            with options.log.open("a") as log:
                log.write(json.dumps(asdict(trial)) + "\n")
            print(f"{len(trials):4d} {trial.fault}, {trial.moment}: {trial.problems or 'nothing lost'}", flush=True)
    losses = [f"* {t.fault}, {t.moment}: {problem}" for t in trials for problem in t.problems]
    in_flight = max((matrix.num_columns - t.committed - t.written_again for t in trials), default=0)
    text = f"""# Kill matrix

    python benchmarks/kill_matrix.py --random {options.random} --seed {options.seed}

{describe("ray", "webdataset", "pyarrow")}
The build: {options.samples} samples and one broken file, shards of {options.shard_size}, {matrix.num_columns} tars, 2 workers,
{matrix.seconds:.1f} s uninterrupted. A paused step waits {PAUSE_S:.0f} s for its fault at most. {in_flight} columns at most that
were missing when the struck run ended were committed by orphaned workers before the second run came to them.

{table(trials)}

{chr(10).join(losses) or f"No loss in {len(trials)} trials."}
"""
    print(text)
    if options.out:
        options.out.write_text(text)
    if not losses:
        shutil.rmtree(work)
    sys.exit(bool(losses))


if __name__ == "__main__":
    main()
