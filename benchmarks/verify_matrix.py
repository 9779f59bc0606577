"""Flips every byte, truncates every file at every length, takes every file away and adds some: does `verify --deep` name it?

    python benchmarks/verify_matrix.py --out benchmarks/results/verify_matrix.md

The shard set: one shard of two samples, all five views. Every damage is undone before the next. A damage counts as found
when `verify(root, deep=True)` reports a damage of that path; for SHA256SUMS itself also when a reported problem blames it,
for a digest there and the file it stands for can only be seen to disagree.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine import describe
from PIL import Image
from tqdm import tqdm

from bmrl.pipeline.build.build import build
from bmrl.pipeline.build.options import BuildOptions, RunSettings
from bmrl.pipeline.shards.verify import verify

EXTRA = ("notes.txt", "image/000001.tar", "image/000000.tar.bak", "edge/.tmp-1-000000.tar", "other/000000.tar", "-")


def build_small(work: Path, codec: str) -> Path:
    """Two samples with plain pictures, so that the columns are small."""
    y, x = np.mgrid[0:224, 0:224]
    for number, name in enumerate(("real", "StyleGAN2")):
        rgb = np.stack([(x // 32 * 20 + 40 * number), y // 32 * 20, x * 0], axis=-1).astype(np.uint8)
        for folder, array in (("source", rgb), ("maps", (x // 60).astype(np.uint8))):
            path = work / folder / "test" / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(array).save(path)
    options = BuildOptions(
        dataset="folder", source_root=work / "source", out=work / "root", codec=codec,
        parser=f"maps:bisenet:{work / 'maps'}",
    )  # fmt: skip
    build(options, RunSettings(workers=1), on_progress=lambda _: None, on_message=print)
    return work / "root"


def is_named(root: Path, name: str) -> bool:
    damages = verify(root, deep=True)
    return any(one.path == name or (name == "SHA256SUMS" and name in one.problem) for one in damages)


def flips(root: Path, name: str, step: int) -> Iterator[tuple[str, bool]]:
    descriptor = os.open(root / name, os.O_RDWR)
    for position in range(0, os.fstat(descriptor).st_size, step):
        byte = os.pread(descriptor, 1, position)
        os.pwrite(descriptor, bytes([byte[0] ^ (1 << position % 8)]), position)
        yield f"{name}: byte {position} flipped", is_named(root, name)
        os.pwrite(descriptor, byte, position)
    os.close(descriptor)


def truncations(root: Path, name: str, step: int) -> Iterator[tuple[str, bool]]:
    whole = (root / name).read_bytes()
    for length in range(len(whole) - 1, -1, -step):
        os.truncate(root / name, length)
        yield f"{name}: truncated to {length}", is_named(root, name)
    (root / name).write_bytes(whole)


def absences(root: Path, name: str, step: int) -> Iterator[tuple[str, bool]]:
    (root / name).rename(root.with_name("aside"))
    yield f"{name}: missing", is_named(root, name)
    root.with_name("aside").rename(root / name)


def extras(root: Path) -> Iterator[tuple[str, bool]]:
    for name in EXTRA:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
        yield f"{name}: extra", is_named(root, name)
        (root / name).unlink()
    shutil.rmtree(root / "other")


def run(root: Path, step: int) -> tuple[Counter[str], dict[str, int], list[str]]:
    """(damages tried per kind, file -> bytes, damages that were not named)"""
    sizes = {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".log" not in path.relative_to(root).parts
    }
    tried: Counter[str] = Counter()
    missed: list[str] = []
    with tqdm(total=2 * sum(sizes.values()) // step, mininterval=5) as bar:
        for kind, damage in (("byte flipped", flips), ("truncated", truncations), ("missing", absences)):
            for name in sizes:
                for what, found in damage(root, name, step):
                    tried[kind] += 1
                    bar.update()
                    if not found:
                        missed.append(what)
        for what, found in extras(root):
            tried["extra"] += 1
            if not found:
                missed.append(what)
    left = verify(root, deep=True)
    assert not left, f"the damages were not all undone: {left}"
    return tried, sizes, missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", choices=["raw", "png"], default="png")
    parser.add_argument("--step", type=int, default=1, help="only every STEPth byte and length")
    parser.add_argument("--work", type=Path, help="a folder for the shard set (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="Markdown result file")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="verify-matrix-", dir=options.work))
    root = build_small(work, options.codec)
    start = time.perf_counter()
    tried, sizes, missed = run(root, options.step)
    minutes = (time.perf_counter() - start) / 60
    by_kind: Counter[str] = Counter()
    for name, size in sizes.items():
        by_kind[Path(name).suffix or name] += size
    rows = "\n".join(
        f"| {kind} | {count} | {count - sum(set(kind.split()) <= set(one.split()) for one in missed)} |"
        for kind, count in tried.items()
    )
    text = f"""# Does `verify --deep` find every damage?

    python benchmarks/verify_matrix.py --codec {options.codec} --step {options.step}

{describe("pyarrow", "webdataset")}
One shard of two samples, five views, {options.codec} codec; bytes per kind of file: {dict(by_kind)}; {minutes:.0f} minutes.

| damage | tried | found and named |
|---|---|---|
{rows}

{chr(10).join("* " + one for one in missed) or f"None of {tried.total()} damages was missed."}
"""
    print(text)
    if options.out:
        options.out.write_text(text)
    shutil.rmtree(work)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
