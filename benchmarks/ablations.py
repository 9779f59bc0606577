"""What the paper says its parts do, measured: rows x seeds under one budget, a log that goes on, a table from the log.

    bmrl-prep build --dataset demo --out ROOT
    python benchmarks/ablations.py run --shards ROOT --work WORK --groups a,b,c --epochs 3 --threads 1
    python benchmarks/ablations.py table --work WORK --out benchmarks/results/ablations-tables.md

WORK/log.jsonl gets a line a training and a line a test; what stands in it under the same settings is not run again, so
the command may be stopped and repeated, and logs of several machines may be put together with cat. Every row has the
same samples, epochs, batch and resolution; its learning rate is the one of three (--factors) with the best seen-validation
accuracy at the first seed; of a run the epoch with the lowest seen-validation NLL is tested.
Processes with one WORK share its rows: what another one is at is taken up when it is done. Machines share them with
--part 1/2 and --part 2/2.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import shutil
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from ablation_rows import GROUPS, INFERENCE, TRAIN, Bank, Change, Row
from machine import describe

from bmrl.cli.process import keep_freed_memory
from bmrl.model import runs
from bmrl.model.attributors.bmrl import PRESETS
from bmrl.model.config import RunConfig, config_to_json
from bmrl.model.errors import StoppedError
from bmrl.model.resolve import resolve_config
from bmrl.pipeline.protocols import load_protocol
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.store.lock import RootBusyError, lock_root

FACTORS = "1/3,1,3"  # learning rates: the preset's times these
WAIT_S = 5.0  # until the next look at a row that another process is at
FIGURES = {
    "seen accuracy": lambda r: r["seen"]["accuracy"],
    "unseen rejected @0.9": lambda r: r["thresholds"]["0.9"]["unseen_rejection"],
    "seen rejected @0.9": lambda r: r["thresholds"]["0.9"]["seen_rejection"],
    "AUROC max softmax": lambda r: (r["auroc"] or {}).get("max_softmax"),
    "AUROC class means": lambda r: (r["auroc"] or {}).get("nearest_class_mean"),
}


class Changed:
    """A loader whose batches are changed on the way."""

    def __init__(self, loader: Any, changes: Sequence[Change]) -> None:
        self._loader, self._changes = loader, changes

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._loader:
            for change in self._changes:
                batch = change(batch)
            yield batch

    @property
    def epoch(self) -> int:
        return int(self._loader.epoch)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._loader.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)


@dataclass(frozen=True, kw_only=True)
class ChangedSet(ShardSet):
    """A shard set whose loaders change their batches: all of them, and those of the training besides."""

    changes: tuple[Change, ...] = ()
    train_changes: tuple[Change, ...] = ()

    @classmethod
    def of(cls, whole: ShardSet, changes: Sequence[Change], train_changes: Sequence[Change] = ()) -> ChangedSet:
        own = {field.name: getattr(whole, field.name) for field in dataclasses.fields(ShardSet)}
        return cls(**own, changes=tuple(changes), train_changes=tuple(train_changes))

    def loader(self, **settings: Any) -> Any:
        in_training = settings.get("shuffle", True)  # validation and test rows come in order
        return Changed(super().loader(**settings), self.changes + (self.train_changes if in_training else ()))


class Study:
    """One shard set, one protocol, one budget."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work = options, options.work
        self.work.mkdir(parents=True, exist_ok=True)
        protocol = load_protocol(options.protocol) if options.protocol else None
        self.whole = ShardSet.open(options.shards)
        self.seen = self.whole.select(protocol=protocol, part="seen" if protocol else None)
        self.unseen = () if protocol is None else protocol.over(self.whole.document["generators"]).unseen
        self.train = self.seen.select(split="train")
        self.log = self.work / "log.jsonl"

    def identity(self, row: Row, seed: int, rate: float) -> dict[str, Any]:
        """What a line of the log stands for. `settings` is the hash of everything resolved, the data included."""
        document = {
            "config": config_to_json(self._config(row, seed, rate)),
            "changes": [row.train, row.inference],
            "data": [self.whole.root_digest, self.train.digest, self.options.protocol],
        }
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
        return {"row": row.name, "seed": seed, "lr": rate, "settings": digest}

    def run_all(self, rows: Iterable[Row], seeds: int) -> None:
        """Every row, those last that other processes are at."""
        waiting = deque(rows)
        while waiting:
            row = waiting.popleft()
            try:
                with lock_root(self.work / "rows" / self.identity(row, 0, self._base_rate)["settings"]):
                    self.run(row, seeds)
            except RootBusyError:
                waiting.append(row)
                time.sleep(WAIT_S)

    def run(self, row: Row, seeds: int) -> None:
        """All seeds of a row, and the learning rates at the first."""
        base = self._base_rate
        tried = {rate: self._trained(row, 0, rate) for rate in (base * factor for factor in self.options.factors)}
        rate = max(tried, key=lambda r: tried[r]["val_accuracy"])
        for seed in range(seeds):
            self._trained(row, seed, rate)
            self._tested(row, seed, rate)

    @property
    def _base_rate(self) -> float:
        return PRESETS[self.options.preset].train.lr

    def _settings(self, row: Row, seed: int, rate: float) -> dict[str, Any]:
        return {**row.settings, "epochs": self.options.epochs, "seed": seed, "lr": rate, "checkpoint_every": 10**9}

    def _config(self, row: Row, seed: int, rate: float) -> RunConfig:
        return resolve_config("bmrl", self.options.preset, row.semantics, self._settings(row, seed, rate))

    def _trained(self, row: Row, seed: int, rate: float) -> dict[str, Any]:
        about = {**self.identity(row, seed, rate), "kind": "train"}
        if (found := self._find(about)) is not None:
            return found
        return self._write({**about, **self._train(row, seed, rate)})

    def _train(self, row: Row, seed: int, rate: float) -> dict[str, Any]:
        about = self.identity(row, seed, rate)
        print(f"training: {row.name}, seed {seed}, lr {rate:.2g}", flush=True)
        folder = self._folder(about)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        start = time.perf_counter()
        config = self._config(row, seed, rate)
        bank = [TRAIN[row.train](Bank(self.train, seed))] if row.train else []
        validation: list[dict[str, Any]] = []
        try:
            runs.train(
                ChangedSet.of(self.whole, self._changes(row), bank),
                folder,
                preset=self.options.preset,
                semantics=row.semantics,
                protocol=self.options.protocol or None,
                settings=self._settings(row, seed, rate),
                device=self.options.device,
                on_epoch=validation.append,
            )
        except StoppedError:
            print("stopped; the same command goes on with this training", flush=True)
            sys.exit(130)
        best = min(validation, key=lambda summary: summary["val_nll"])
        best["loader_wait"] = loader_wait(folder / "metrics.jsonl", config.train.batch_size)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # best.safetensors is what is tested
        (folder / "last.safetensors").unlink(missing_ok=True)
        return {**best, "seconds": round(time.perf_counter() - start, 1)}

    def _tested(self, row: Row, seed: int, rate: float) -> dict[str, Any]:
        about = {**self.identity(row, seed, rate), "kind": "test"}
        if (found := self._find(about)) is not None:
            return found
        folder = self._folder(about)
        if not all((folder / name).exists() for name in ("config.json", "best.safetensors")):  # of another machine
            self._train(row, seed, rate)
        changed = ChangedSet.of(self.whole, self._changes(row))
        document = runs.evaluate(folder, changed, device=self.options.device, with_controls=False).document
        figures = {name: figure(document) for name, figure in FIGURES.items()}
        rows = document["data"]["n_per_generator"]
        n_unseen = sum(rows.get(name, 0) for name in self.unseen)
        return self._write({**about, "figures": figures, "n_seen": document["seen"]["n"], "n_unseen": n_unseen})

    def _changes(self, row: Row) -> list[Change]:
        return [INFERENCE[row.inference]] if row.inference else []

    def _folder(self, about: dict[str, Any]) -> Path:
        return Path(self.work / about["settings"])

    def _find(self, about: dict[str, Any]) -> dict[str, Any] | None:
        for line in read_log(self.log):
            if all(line.get(name) == about[name] for name in ("settings", "kind")):
                # A row that stands in two groups is run once and has a line under each name.
                return line if line["row"] == about["row"] or self._named(about) else self._write({**line, **about})
        return None

    def _named(self, about: dict[str, Any]) -> bool:
        return any(
            all(line.get(name) == about[name] for name in ("settings", "kind", "row")) for line in read_log(self.log)
        )

    def _write(self, line: dict[str, Any]) -> dict[str, Any]:
        common = {"preset": self.options.preset, "epochs": self.options.epochs, "n_train": len(self.train)}
        line = {**line, **common, "protocol": self.options.protocol, "data": self.whole.document["name"]}
        text = self.log.read_text() if self.log.exists() else ""
        torn = bool(text) and not text.endswith("\n")  # by a crash: a line behind it would be lost with it
        with self.log.open("a") as file:
            file.write("\n" * torn + json.dumps(line) + "\n")
        return line


def numbers(text: str) -> list[float]:
    """What is written as 1/3,1,3."""
    return [float(Fraction(part)) for part in text.split(",")]


def loader_wait(metrics: Path, batch_size: int) -> float:
    """Share of the training steps' time that went by waiting for a batch, over all epochs."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "loader_wait_s" in line]
    whole = sum(batch_size / line["samples_per_s"] for line in steps)
    return float(sum(line["loader_wait_s"] for line in steps) / whole)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Whole lines; one that a crash tore is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def table(log: Path, groups: Sequence[str]) -> str:
    """Markdown: of each row the mean, the standard deviation and all points; rows without a finished test are named."""
    lines = read_log(log)
    out = []
    for budget in sorted({_budget(line) for line in lines if line["kind"] == "test"}):
        data, protocol, preset, epochs, count = budget
        mine = [line for line in lines if _budget(line) == budget]
        simulated = "; the sources are SIMULATED" if protocol != "None" and load_protocol(protocol).simulated else ""
        out.append(f"## {data}, {protocol}, preset {preset}: {epochs} epochs of {count} samples{simulated}\n")
        # A training that stands in two groups is one.
        if waits := list({x["settings"]: 100 * x["loader_wait"] for x in mine if "loader_wait" in x}.values()):
            mean, most = statistics.mean(waits), max(waits)
            out.append(
                f"{len(waits)} trainings waited for the loader {mean:.2f} % of their time, at most {most:.2f} %.\n"
            )
        tested = {line["row"] for line in mine if line["kind"] == "test"}
        run = [group for group in groups if tested & {row.name for row in GROUPS[group]}]
        for group in run:
            out += _group(group, mine)
        if left := [f"({group})" for group in groups if group not in run]:
            out += [f"Nothing of {', '.join(left)} was run with this budget.", ""]
    return "\n".join(out)


def _budget(line: dict[str, Any]) -> tuple[str, str, str, int, int]:
    return line["data"], str(line["protocol"]), line["preset"], line["epochs"], line["n_train"]


def _group(group: str, lines: list[dict[str, Any]]) -> list[str]:
    head = ["row", "seeds", "lr", "validation accuracy by lr, seed 0", *FIGURES]
    out = [f"### ({group})", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    missing = []
    for row in GROUPS[group]:
        searched = {
            t["lr"]: t["val_accuracy"] for t in lines if (t["row"], t["kind"], t["seed"]) == (row.name, "train", 0)
        }
        best = max(sorted(searched), key=lambda rate: searched[rate], default=None)
        # By settings: logs of two machines may hold the same test, which is one point. A rate that was beaten is none.
        tests = {t["settings"]: t for t in lines if (t["row"], t["kind"], t["lr"]) == (row.name, "test", best)}
        if not tests:
            missing.append(row.name)
            continue
        found = sorted(tests.values(), key=lambda t: t["seed"])
        cells = [_cell([t["figures"][name] for t in found]) for name in FIGURES]
        rates = ", ".join(sorted({f"{t['lr']:.2g}" for t in found}))
        tried = ", ".join(f"{rate:.2g}: {100 * searched[rate]:.1f}" for rate in sorted(searched)) or "-"
        out.append("| " + " | ".join([row.name, str(len(found)), rates, tried, *cells]) + " |")
    return [*out, "", *([f"Not run: {'; '.join(missing)}.", ""] if missing else [])]


def _cell(values: list[float | None]) -> str:
    """mean ± sd (points), in percent."""
    points = [100 * v for v in values if v is not None and math.isfinite(v)]
    if not points:
        return "-"
    spread = f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):.1f}{spread} ({', '.join(f'{p:.1f}' for p in points)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--shards", type=Path, required=True)
    run.add_argument("--protocol", default="demo-1", help="Empty: every generator is a class, nothing is unseen.")
    run.add_argument("--preset", default="demo")
    run.add_argument("--epochs", type=int, default=3)
    run.add_argument("--seeds", type=int, default=3)
    run.add_argument(
        "--factors", type=numbers, default=FACTORS, help="Learning rates that are tried: the preset's times these."
    )
    run.add_argument("--rows", type=lambda text: text.split(";"), help="Only these, by their names, separated by ';'.")
    run.add_argument("--part", default="1/1", help="K/N: every N-th row from the K-th on, for a machine.")
    run.add_argument("--device", default="cpu")
    run.add_argument("--threads", type=int, default=torch.get_num_threads())
    tabulated = commands.add_parser("table")
    tabulated.add_argument("--out", type=Path)
    for command in (run, tabulated):
        command.add_argument("--work", type=Path, required=True)
        command.add_argument("--groups", default="a,b,c,d,e,f,g")
    options = parser.parse_args()
    groups = options.groups.split(",")
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if options.command == "run":
        torch.set_num_threads(options.threads)
        keep_freed_memory()
        study = Study(options)
        part, parts = (int(number) for number in options.part.split("/"))
        rows = [row for group in groups for row in GROUPS[group]]
        if options.rows is not None:
            if unknown := set(options.rows) - {row.name for row in rows}:
                parser.error(f"no such row in {options.groups}: {', '.join(sorted(unknown))}")
            rows = [row for row in rows if row.name in options.rows]
        study.run_all(rows[part - 1 :: parts], options.seeds)
        return
    text = table(options.work / "log.jsonl", groups)
    print(text)
    if options.out:
        head = "# Ablations: the tables\n\nCommand: `python benchmarks/ablations.py run` and `table`, see its first lines. "
        note = (
            "Percent; mean ± standard deviation over seeds (all points). The learning rate of a row is the best of those shown "
            "by seen-validation accuracy at seed 0; tested is the epoch of the lowest seen-validation NLL.\n\n"
        )
        options.out.write_text(head + describe("torch", "numpy") + "\n\n" + note + text)


if __name__ == "__main__":
    main()
