"""Do two checkouts compute the same? Shard sets, metrics, weights, evaluations and printed text, held against each other.

    python benchmarks/compare_checkouts.py OLD NEW [--source DIR] [--folder DIR] [--only shards,train,evaluate,attribute,text]
    python benchmarks/compare_checkouts.py OLD NEW --only shards --shards-a OLD/demo/shards --shards-b NEW/demo/shards

Neither is installed: every command runs in a process of its own with PYTHONPATH=CHECKOUT/typings, under the Python that runs
this script. Trainings are 2 epochs of 15 steps of protocol demo-1 on one thread: DFACC's centres start after the first epoch.
Prints a table of what was compared and exits 1 where anything differs. Takes about 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import describe
from safetensors import safe_open

CODECS = ("raw", "png")
CLOCK = {"samples_per_s", "loader_wait_s"}  # of a line of metrics.jsonl
PARTS = ("shards", "train", "evaluate", "attribute", "text")
NUM_SHOWN = 12  # differences and lines of a diff that are printed for one comparison


@dataclass(frozen=True)
class Checkout:
    """A folder with the source of one version, whose commands run without being installed."""

    name: str
    folder: Path

    def run(self, command: str, *arguments: object) -> str:
        """Standard output of a command of this checkout. Raises SystemExit where it fails."""
        scripts = (self.folder / "pyproject.toml").read_text()
        found = re.search(rf'^{command} = "(?P<module>[\w.]+):(?P<function>\w+)"', scripts, re.MULTILINE)
        if found is None:
            raise SystemExit(f"{self.folder / 'pyproject.toml'} has no command {command}")
        module, function = found["module"], found["function"]
        code = (
            f"import sys; sys.argv[0] = {command!r}; import {module} as m; "
            f"assert m.__file__.startswith({str(self.folder / 'typings')!r}), m.__file__; m.{function}()"
        )
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder / "typings"),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True, text=True, check=False, env=environment, cwd=tempfile.gettempdir(),
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {command} {' '.join(map(str, arguments))} ended with exit code "
                             f"{done.returncode}:\n{done.stderr[-2000:]}")  # fmt: skip
        return done.stdout


@dataclass(frozen=True, kw_only=True)
class Comparison:
    part: str
    what: str
    size: str  # how much was compared
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Two checkouts and the folder in which both work; what a part needs of an earlier one is made when it is missing."""

    a: Checkout
    b: Checkout
    work: Path
    options: argparse.Namespace

    def both(self, work: Callable[[Checkout], Any]) -> tuple[Any, Any]:
        """What both give, at the same time: each runs on one thread."""
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(work, (self.a, self.b))
        return first, second

    def root(self, checkout: Checkout, codec: str = "raw", folder: Path | None = None) -> Path:
        """A small shard set: of the drawn dataset, or of a folder of images."""
        out = self.work / checkout.name / f"{'demo' if folder is None else 'folder'}-{codec}"
        if not (out / "dataset.json").exists():
            dataset, source = ("demo", self.options.source) if folder is None else ("folder", folder)
            checkout.run(
                *("bmrl-prep", "build", "--dataset", dataset, "--root", source, "--out", out, "--codec", codec),
                *("--limit", self.options.limit, "--workers", 2, "--shard-size", 64, "--parser", "bisenet-lite"),
            )
        return out

    def trained(self, checkout: Checkout, preset: str, semantics: str) -> Path:
        """A run of two epochs on the first checkout's shard set."""
        out = self.work / checkout.name / f"run-{preset}-{semantics}"
        if not (out / "calibration.json").exists():
            checkout.run(
                *("bmrl-train", "--shards", self.root(self.a), "--out", out, "--protocol", "demo-1", "--epochs", 2),
                *("--preset", preset, "--semantics", semantics, "--device", "cpu"),
                *("--batch-size", self.options.batch_size),
            )
        return out

    def variants(self) -> Iterator[tuple[str, str]]:
        for preset in self.options.presets.split(","):
            for semantics in ("sound", "strict"):
                yield preset, semantics


def compare_shards(bench: Bench) -> Iterator[Comparison]:
    for what, roots in _shard_pairs(bench):
        first, second = (read_sums(root) for root in roots)
        differences = list(diff_json(first, second, closed=True))
        if not differences and list(first) != list(second):
            differences.append("SHA256SUMS: the same lines in another order")
        yield Comparison(part="shards", what=what, size=f"{len(first)} files", differences=differences)


def _shard_pairs(bench: Bench) -> Iterator[tuple[str, tuple[Path, Path]]]:
    if bench.options.shards_a:
        yield "given shard sets", (bench.options.shards_a, bench.options.shards_b)
        return
    for codec in CODECS:
        yield f"demo, {codec}", (bench.root(bench.a, codec), bench.root(bench.b, codec))
        if folder := bench.options.folder:
            yield f"folder, {codec}", (bench.root(bench.a, codec, folder), bench.root(bench.b, codec, folder))


def compare_trainings(bench: Bench) -> Iterator[Comparison]:
    bench.root(bench.a)  # built before two processes ask for it
    for preset, semantics in bench.variants():
        first, second = bench.both(lambda one, p=preset, s=semantics: bench.trained(one, p, s))  # type: ignore[misc]
        label = f"{preset}, {semantics}"
        old, new = _metrics(first), _metrics(second)
        steps = sum("step" in line for line in old)
        yield Comparison(part="train", what=f"{label}: metrics.jsonl", size=f"{steps} steps, {len(old)} lines",
                         differences=list(diff_json(old, new, closed=True)))  # fmt: skip
        for name in ("last.safetensors", "best.safetensors"):
            size, differences = diff_weights(first / name, second / name)
            yield Comparison(part="train", what=f"{label}: {name}", size=size, differences=differences)
        for name in ("config.json", "calibration.json"):
            old, new = (_document(run / name) for run in (first, second))
            yield Comparison(part="train", what=f"{label}: {name}", size=f"{_leaves(old)} values",
                             differences=list(diff_json(old, new)))  # fmt: skip


def _document(path: Path) -> Any:
    """A document of a run, but for the commit that it was made with."""
    document = json.loads(path.read_text())
    document.get("versions", {}).pop("commit", None)
    return document


def compare_evaluations(bench: Bench) -> Iterator[Comparison]:
    """Each checkout evaluates its own run and the other's."""
    for preset, semantics in bench.variants():
        for owner in (bench.a, bench.b):
            run = bench.trained(owner, preset, semantics)
            name = f"eval-{owner.name}-{preset}-{semantics}"

            def evaluate(one: Checkout, run: Path = run, name: str = name) -> Any:
                out = bench.work / one.name / name
                root = bench.root(bench.a)
                return json.loads(
                    one.run("bmrl-eval", run, "--shards", root, "--out", out, "--json", "--device", "cpu")
                )

            first, second = bench.both(evaluate)
            yield Comparison(part="evaluate", what=f"{preset}, {semantics}: run of {owner.name}",
                             size=f"{_leaves(first)} values", differences=list(diff_json(first, second)))  # fmt: skip


def compare_attributions(bench: Bench) -> Iterator[Comparison]:
    images = sorted(Path(bench.options.source).glob("test/*/*.png"))[:: bench.options.image_step][:8]
    if not images:
        raise SystemExit(f"{bench.options.source} has no test/*/*.png to attribute")
    for preset, semantics in bench.variants():
        run = bench.trained(bench.a, preset, semantics)
        for form in ((), ("--json",)):
            texts = bench.both(lambda one, r=run, f=form: one.run("bmrl-attribute", r, *images, *f, "--device", "cpu"))  # type: ignore[misc]
            yield _texts("attribute", " ".join((f"{preset}, {semantics}", *form)), *texts)


def compare_texts(bench: Bench) -> Iterator[Comparison]:
    """What the commands print: help texts, `info`, `head`, lists, and the table of an evaluation with its page."""
    root, run = bench.root(bench.a), bench.trained(bench.a, "demo", "sound")
    listed = bench.a.run("bmrl-prep", "--help").partition("Commands:")[2]
    commands = re.findall(r"^  ([\w-]+)  ", listed, re.MULTILINE)
    cases: list[tuple[str, ...]] = [
        (name, "--help") for name in ("bmrl-prep", "bmrl-train", "bmrl-eval", "bmrl-attribute")
    ]
    cases += [("bmrl-prep", command, "--help") for command in commands]
    cases += [("bmrl-prep", "datasets"), ("bmrl-prep", "protocols"), ("bmrl-prep", "protocols", str(root))]
    cases += [
        ("bmrl-prep", "info", str(root)),
        ("bmrl-prep", "info", str(root), "--json"),
        ("bmrl-prep", "head", str(root)),
    ]
    for case in cases:
        texts = bench.both(lambda one, c=case: one.run(*c))  # type: ignore[misc]
        yield _texts("text", " ".join(case).replace(str(root), "ROOT"), *texts)

    def files(one: Checkout) -> tuple[str, bytes, str]:
        out, grid = bench.work / one.name / "eval-text", bench.work / one.name / "grid.png"
        one.run("bmrl-prep", "head", root, "-n", 4, "--grid", grid)
        table = one.run("bmrl-eval", run, "--shards", root, "--out", out, "--device", "cpu")
        return table.replace(str(out), "OUT"), grid.read_bytes(), (out / "report.html").read_text()

    first, second = bench.both(files)
    yield _texts("text", "bmrl-eval RUN", first[0], second[0])
    yield Comparison(part="text", what="head ROOT --grid", size=f"{len(first[1])} bytes",
                     differences=[] if first[1] == second[1] else ["the pictures differ"])  # fmt: skip
    yield _texts("text", "report.html", first[2], second[2])


def diff_json(old: Any, new: Any, path: str = "", *, closed: bool = False) -> Iterator[str]:
    """Where two documents differ; keys that only the new one has are allowed unless `closed`. NaN equals NaN."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if closed and key not in old)]:
            where = f"{path}.{key}" if path else str(key)
            if key not in old or key not in new:
                yield f"{where}: only in {'the second' if key not in old else 'the first'}"
            else:
                yield from diff_json(old[key], new[key], where, closed=closed)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from diff_json(pair[0], pair[1], f"{path}[{i}]", closed=closed)
    elif json.dumps(old) != json.dumps(
        new
    ):  # floats are written so that they come back bit for bit; 1 is not 1.0 or true
        yield f"{path}: {_short(old)} | {_short(new)}"


def diff_weights(old: Path, new: Path) -> tuple[str, list[str]]:
    """How many numbers were compared, and the tensors that differ in name, type, shape or any bit; metadata too."""
    differences, count = [], 0
    with safe_open(old, "pt") as first, safe_open(new, "pt") as second:
        names = [set(one.keys()) for one in (first, second)]
        differences += [f"{name}: only in the first" for name in sorted(names[0] - names[1])]
        differences += [f"{name}: only in the second" for name in sorted(names[1] - names[0])]
        if first.metadata() != second.metadata():
            differences.append(f"metadata: {first.metadata()} | {second.metadata()}")
        for name in sorted(names[0] & names[1]):
            a, b = first.get_tensor(name), second.get_tensor(name)
            count += a.numel()
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                differences.append(f"{name}: {a.dtype} {tuple(a.shape)} | {b.dtype} {tuple(b.shape)}")
            elif a.numpy().tobytes() != b.numpy().tobytes():
                differences.append(f"{name}: largest difference {(a.double() - b.double()).abs().max():.3g}")
    return f"{len(names[0])} tensors, {count:,} numbers", differences


def _texts(part: str, what: str, old: str, new: str) -> Comparison:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "first", "second", lineterm="", n=0)
    return Comparison(part=part, what=what, size=f"{len(old.splitlines())} lines",
                      differences=[line[:200] for line in lines if not line.startswith(("---", "+++", "@@"))])  # fmt: skip


def read_sums(root: Path) -> dict[str, str]:
    """Relative path -> sha256, in the order of SHA256SUMS."""
    pairs = (line.split("  ", 1) for line in (root / "SHA256SUMS").read_text().splitlines())
    return {path: sha256 for sha256, path in pairs}


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def _leaves(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 1 if children is None else sum(map(_leaves, children))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, help="The first checkout, of the version before.")
    parser.add_argument("b", type=Path, help="The second checkout, of the version after.")
    parser.add_argument("--source", type=Path, help="Drawn faces of `--dataset demo`; drawn by the first if missing.")
    parser.add_argument("--folder", type=Path, help="A folder DIR/[split/]generator/ of images, built too.")
    parser.add_argument("--shards-a", type=Path, help="Compare this shard set with --shards-b; nothing is built.")
    parser.add_argument("--shards-b", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help="Parts, with commas between (default: %(default)s).")
    parser.add_argument("--presets", default="demo,small")
    parser.add_argument("--limit", type=int, default=12, help="Samples a source and split: 10 x 12 = 15 x 8.")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-step", type=int, default=331, help="Every how many test images one is attributed.")
    parser.add_argument("--work", type=Path, help="Folder to work in and keep; what is there is used again.")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(PARTS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    if bool(options.shards_a) != bool(options.shards_b):
        parser.error("--shards-a and --shards-b go together")
    return options


def main() -> None:
    options = parse_options()
    work = (options.work or Path(tempfile.mkdtemp(prefix="compare-"))).resolve()
    for name in ("source", "folder", "shards_a", "shards_b"):
        setattr(options, name, getattr(options, name) and getattr(options, name).resolve())
    options.source = options.source or work / "source"
    bench = Bench(
        a=Checkout("first", options.a.resolve()), b=Checkout("second", options.b.resolve()), work=work, options=options
    )
    chosen = dict(zip(PARTS, (compare_shards, compare_trainings, compare_evaluations, compare_attributions, compare_texts),
                      strict=True))  # fmt: skip
    print(f"{describe('torch', 'numpy', 'opencv-python-headless', 'pyarrow', 'ray')}\n")
    print("| part | what | compared | result |\n|---|---|---|---|", flush=True)
    found = []
    for part in options.only.split(","):
        for one in chosen[part](bench):
            result = f"{len(one.differences)} differences" if one.differences else "equal"
            print(f"| {one.part} | {one.what} | {one.size} | {result} |", flush=True)
            found += [one] if one.differences else []
    for one in found:
        print(f"\n{one.part}: {one.what}")
        print("\n".join(f"    {line}" for line in one.differences[:NUM_SHOWN]))
        if len(one.differences) > NUM_SHOWN:
            print(f"    ... and {len(one.differences) - NUM_SHOWN} more")
    print(f"\n{len(found)} comparisons differ" if found else "\neverything is equal")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
