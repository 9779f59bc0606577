"""Hostile documents, file names and interrupts through every command: nothing hangs, nothing lies, nothing is forged.

    python benchmarks/hostile.py --work DIR --out benchmarks/results/hostile.md

Parts: `documents` (each in a forked child of this process, through the functions of every command that reads it), `commands`
(some of them as a user starts them), `names` and `interrupts`. Document N is a function of N: `--only N` runs it again and
says what each command answered. Whatever the log in DIR holds is not run again, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a child that forks from threads would wait for them

import hostile_commands as commands
from hostile_documents import Box, kind_of, make
from hostile_sets import Sets, make_sets
from machine import commit, describe
from tqdm import tqdm

PARTS = ("documents", "commands", "names", "interrupts")
EVERY = 40  # of the documents, one goes through the real commands: 500 of 20,000


class Log:
    """One line a verdict, appended; what is there is not run again."""

    def __init__(self, path: Path) -> None:
        self.path, self.verdicts = path, []
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                path.write_bytes(whole)  # a line that a kill tore
            self.verdicts = [json.loads(line) for line in whole.splitlines()]
        self.done = {one["number"] for one in self.verdicts}
        self._file, self._commit = path.open("a"), commit()

    def write(self, verdict: dict[str, Any]) -> None:
        verdict = {**verdict, "commit": self._commit}
        self.verdicts.append(verdict)
        self.done.add(verdict["number"])
        self._file.write(json.dumps(verdict) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def preload(sets: Sets, jail: Path) -> None:
    """Import what the commands import, and fill their caches, with one document of each kind that is run here."""
    import cv2
    import pyarrow
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    from hostile_sets import link_tree

    folder = jail / "boxes/preload"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kinds = ("dataset.json", "config.json", "protocol", "manifest.csv")
    for kind in kinds:
        box = Box(0, kind, jail, folder / "root", folder / "run", folder / "stopped", folder / kind, "raw")
        for name, source in (("root", sets.shards("raw")), ("run", sets.run), ("stopped", sets.stopped)):
            shutil.rmtree(folder / name, ignore_errors=True)
            link_tree(source, folder / name)
        if kind == "manifest.csv":
            (folder / kind).write_text("path,generator\na.png,real\n")
        elif kind == "protocol":
            shutil.copy(sets.protocol, folder / kind)
        for command in commands.commands_for(box, sets):
            outcome = commands.call(command)
            is_fine = outcome.code == 0 or kind in ("protocol", "manifest.csv")
            if outcome.error or not is_fine:
                raise SystemExit(
                    f"undamaged, {outcome.command} ends with {outcome.code}: {outcome.error}{outcome.stderr}"
                )
        shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.rmtree(folder)
    gc.collect()
    gc.freeze()  # a child's collector leaves these pages shared
    for number in (signal.SIGINT, signal.SIGTERM):  # the commands took them over
        signal.signal(number, signal.default_int_handler)


class Children:
    """Documents in children of this process, a few at a time, each with its time."""

    def __init__(self, sets: Sets, jail: Path, run: commands.Run, seconds: float) -> None:
        self.sets, self.jail, self.run, self.seconds = sets, jail, run, seconds
        self.running: dict[int, tuple[int, float]] = {}  # pid -> document, end
        self.slow: set[int] = set()  # had no end in their time; the machine may be busy, and the second try has more

    def start(self, number: int) -> None:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._child(number)
        factor = commands.PATIENCE if number in self.slow else 1
        self.running[pid] = (number, time.monotonic() + factor * self.seconds)

    def _child(self, number: int) -> None:
        """Never returns."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1):
                os.dup2(null, descriptor)
            os.dup2(os.open(self.jail / f"{number}.stderr", os.O_CREAT | os.O_WRONLY), 2)
            box = make(number, self.sets, self.jail)
            os.chdir(box.folder)
            (self.jail / f"{number}.json").write_text("")  # opened before the watch begins
            with (self.jail / f"{number}.json").open("w") as file:
                file.write(commands.as_line(self.run(box, self.sets)))
        except BaseException as error:  # of the benchmark itself
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(77)
        os._exit(0)

    def wait(self) -> tuple[list[dict[str, Any]], list[int]]:
        """The verdicts of children that have ended since, and the documents that are to be tried again."""
        found, again = [], []
        for pid, (number, end) in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                if time.monotonic() < end:
                    continue
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            del self.running[pid]
            verdict = self._verdict(number, status if ended else None)
            if ended or number in self.slow:
                found.append(verdict)
            else:
                self.slow.add(number)
                again.append(number)
        return found, again

    def _verdict(self, number: int, status: int | None) -> dict[str, Any]:
        file, box = self.jail / f"{number}.json", self.jail / "boxes" / str(number)
        stderr = self.jail / f"{number}.stderr"
        text = file.read_text() if file.exists() else ""
        verdict = (
            json.loads(text) if text else {"number": number, "kind": kind_of(number), "outcomes": {}, "findings": []}
        )
        if status is None:
            verdict["findings"].append(f"hang: more than {self.seconds * commands.PATIENCE:.0f} s")
        elif os.WIFSIGNALED(status):
            verdict["findings"].append(f"killed by signal {os.WTERMSIG(status)}: {stderr.read_text()[-300:]}")
        elif status:
            raise SystemExit(f"document {number} could not be made: {stderr.read_text()}")
        known = {"boxes", "outside"}
        strange = [path.name for path in self.jail.iterdir() if path.name not in known and not _is_ours(path.name)]
        strange += [path.name for path in (self.jail / "boxes").iterdir() if not path.name.isdigit()]
        if strange:
            verdict["findings"].append(f"files outside: {', '.join(strange)}")
            for name in strange:
                (self.jail / name).unlink(missing_ok=True)
        shutil.rmtree(box, ignore_errors=True)
        file.unlink(missing_ok=True)
        stderr.unlink(missing_ok=True)
        return verdict


def _is_ours(name: str) -> bool:
    stem, _, suffix = name.partition(".")
    return stem.isdigit() and suffix in ("json", "stderr")


def run_documents(numbers: list[int], log: Log, children: Children, *, processes: int) -> None:
    waiting = [number for number in numbers if number not in log.done][::-1]
    with tqdm(total=len(numbers), initial=len(numbers) - len(waiting), mininterval=10, smoothing=0.01) as bar:
        try:
            while waiting or children.running:
                while waiting and len(children.running) < processes:
                    children.start(waiting.pop())
                ended, again = children.wait()
                waiting += again
                for verdict in ended:
                    log.write(verdict)
                    bar.update()
                if not ended:
                    time.sleep(0.01)
        except KeyboardInterrupt:
            for pid in children.running:
                os.kill(pid, signal.SIGKILL)
            raise SystemExit(f"interrupted: {log.path} holds what was run, the same command goes on") from None


def table_of(verdicts: list[dict[str, Any]]) -> str:
    """One row a kind of document."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for one in verdicts:
        row, codes = rows[one["kind"]], one["outcomes"]
        row["documents"] += 1
        row["calls"] += len(codes)
        row["refused"] += any(code for code in codes.values())
        row["findings"] += bool(one["findings"])
        row["slowest"] = max(row["slowest"], int(1000 * one.get("seconds", 0)))
        row["peak"] = max(row["peak"], one.get("peak_mb", 0))
    total: Counter[str] = Counter()
    lines = [
        "| document | run | calls of commands | refused by one of them | slowest, s | peak, MB | with a finding |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, row in sorted(rows.items()):
        total.update({name: row[name] for name in ("documents", "calls", "refused", "findings")})
        total["slowest"], total["peak"] = max(total["slowest"], row["slowest"]), max(total["peak"], row["peak"])
        lines.append(_row(kind, row))
    return "\n".join([*lines, _row("all", total)])


def _row(kind: str, row: Counter[str]) -> str:
    cells = [f"{row[name]:,}" for name in ("documents", "calls", "refused")]
    return (
        f"| {kind} | {' | '.join(cells)} | {row['slowest'] / 1000:.1f} | {row['peak'] or '-'} | {row['findings']:,} |"
    )


def spans_of(verdicts: list[dict[str, Any]]) -> str:
    """Which documents were run at which commit."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for one in verdicts:
        numbers[one["commit"]].append(one["number"])
    return "\n".join(
        f"* {len(found):,} of the documents {min(found):,} to {max(found):,} at commit {name}"
        for name, found in numbers.items()
    )


def findings_of(verdicts: list[dict[str, Any]]) -> str:
    found = [(one["number"], one["kind"], finding) for one in verdicts for finding in one["findings"]]
    if not found:
        return "No finding."
    groups: dict[str, list[int]] = defaultdict(list)
    for number, kind, finding in found:
        groups[f"{kind}: {finding[:160]}"].append(number)
    return "\n".join(
        f"* {len(numbers)} times, such as {numbers[0]}: {what}" for what, numbers in sorted(groups.items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--work", type=Path, required=True, help="folder for sets, logs and boxes")
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first document")
    parser.add_argument("--kind", action="append", help="only documents of this kind")
    parser.add_argument("--only", type=int, help="one document: print what each command answers, and keep its folder")
    parser.add_argument("--names", type=int, default=1000)
    parser.add_argument("--interrupts", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="Markdown result file")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sets = make_sets(work / "sets")
    if options.only is not None:
        show(options.only, sets, work / "shown/a/b")
        return
    parts = options.part or list(PARTS)
    sections = []
    numbers = [
        n
        for n in range(options.first, options.first + options.documents)
        if not options.kind or kind_of(n) in options.kind
    ]
    for name, run, chosen in (
        ("documents", commands.run_functions, numbers),
        ("commands", commands.run_commands, numbers[::EVERY]),
    ):
        log, jail = Log(work / f"{name}.jsonl"), work / f"jail-{name}/a/b"
        if name in parts:
            shutil.rmtree(jail, ignore_errors=True)
            jail.mkdir(parents=True)
            if name == "documents":
                preload(sets, jail)
            seconds = commands.TIMEOUT_S * (1 if name == "documents" else 20)
            run_documents(chosen, log, Children(sets, jail, run, seconds), processes=options.processes)
        verdicts = [one for one in log.verdicts if one["number"] in set(chosen)]
        sections += [f"## {name}", spans_of(verdicts), table_of(verdicts), findings_of(verdicts)]
    if "names" in parts:
        import hostile_names

        sections += ["## names", hostile_names.run(sets, work / "names", options.names)]
    if "interrupts" in parts:
        import hostile_interrupts

        sections += ["## interrupts", hostile_interrupts.run(sets, work, options.interrupts)]
    machine = describe("torch", "pyarrow", "msgspec", "safetensors")
    text = "\n\n".join(["# Hostile input", machine, *sections]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def show(number: int, sets: Sets, jail: Path) -> None:
    """One document, by the functions of this process."""
    shutil.rmtree(jail, ignore_errors=True)
    jail.mkdir(parents=True)
    box = make(number, sets, jail)
    os.chdir(box.folder)
    print(f"document {number}: {box.kind}, {box.file}")
    pairs = commands.call_all(box, sets, commands.call)
    for _, one in pairs:
        print(f"\n$ {one.command}: exit code {one.code} {one.error}\n{one.stderr[-1000:]}{one.stdout[-300:]}")
    verdict = commands.Verdict(number, box.kind, "functions")
    commands.judge(verdict, pairs, box)
    print("\n".join(["", "findings:", *verdict.findings]))


if __name__ == "__main__":
    main()
