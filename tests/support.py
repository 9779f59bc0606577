"""What the tests share: pictures, folders of faces, and the commands as a user starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from bmrl.cli import train

SHARED = Path(__file__).parents[1] / "../shared/data"
TINY = (  # preset demo with narrow layers
    *("--preset", "demo", "--device", "cpu", "--batch-size", 4, "--epochs", 1),
    *("--set", "model.dim=16", "--set", "model.depth=1", "--set", "model.heads=2", "--set", "model.mlp=16"),
    *("--set", "model.widths=4,4,4,4,8", "--set", "noise_widths=4,4,4", "--set", "precision=float32"),
    *("--set", "text_depth=1", "--set", "text_heads=2", "--set", "text_mlp=16"),
)


def run_command(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """bmrl-NAME as a user starts it; its output must never hold a traceback."""
    command = [sys.executable, "-c", f"from bmrl.cli.{name} import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def picture(seed: int, side: int = 96) -> np.ndarray:
    """RGB uint8 (side, side, 3): a smooth picture with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [127 + 90 * np.sin(rng.uniform(3, 25) * x + rng.uniform(3, 25) * y + rng.uniform(0, 6)) for _ in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)


def write_faces(root: Path, counts: dict[str, int], *, side: int = 96) -> Path:
    """root/GENERATOR/N.png"""
    for number, (generator, count) in enumerate(counts.items()):
        folder = root / generator
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(picture(1000 * number + i, side)).save(folder / f"{i:03d}.png")
    return root


def build(root: Path, out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    base = ("build", "--dataset", "folder", "--root", root, "--out", out)
    return run_command("prep", *base, *options)


def fit(shards: Path, out: Path, *options: Any) -> Result:
    """bmrl-train in this process, one tiny epoch unless `options` say otherwise."""
    torch.set_num_threads(1)
    arguments = ["--shards", shards, "--out", out, *TINY, *options]
    return CliRunner().invoke(train.main, [str(argument) for argument in arguments])


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A new folder on a file system of its own, by mount's options: small, read-only."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def content(root: Path) -> dict[str, bytes]:
    """Every file outside .log/ by its relative path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".log" not in path.parts
    }
