"""What the hostile documents are changes of: a small source, its shard set in two codecs, a manifest, and two tiny runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 4, "val": 2, "test": 2}  # images a source
SOURCES = ("StyleGAN2", "mystery", "real")
PROTOCOL = """\
name: tiny
about: two sources and one that nobody has seen
simulated: false
published: {images: 24}
seen: [real, StyleGAN2]
unseen: {mystery: FAR}
controls: []
"""
GENERATORS = """\
mystery: {kind: FS, family: GAN, aliases: [mystery-v1, Mystery 2], reference: none}
OwnGAN: {kind: EFS, family: diffusion}
"""
TINY = (  # a training of a second
    *("--preset", "demo", "--device", "cpu", "--batch-size", "4", "--epochs", "2"),
    *("--set", "model.dim=16", "--set", "model.depth=1", "--set", "model.heads=2", "--set", "model.mlp=16"),
    *("--set", "model.widths=4,4,4,4,8", "--set", "noise_widths=4,4,4", "--set", "precision=float32"),
    *("--set", "text_depth=1", "--set", "text_heads=2", "--set", "text_mlp=16", "--set", "checkpoint_every=1"),
)
STOPPED = """
import os, signal, sys
from bmrl.cli import train
from bmrl.model.training.trainer import Trainer
step = Trainer._step
def stop(self, batch, number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return step(self, batch, number)
Trainer._step = stop
train.main()
"""


@dataclass(frozen=True)
class Sets:
    """Paths below one folder; everything in it is read only once it is made."""

    top: Path

    @property
    def source(self) -> Path:
        return self.top / "source"

    @property
    def maps(self) -> Path:
        return self.top / "maps"

    @property
    def protocol(self) -> Path:
        return self.top / "protocol.yaml"

    @property
    def generators(self) -> Path:
        return self.top / "generators.yaml"

    def shards(self, codec: str) -> Path:
        return self.top / f"shards-{codec}"

    @property
    def run(self) -> Path:
        """Trained to its end."""
        return self.top / "run"

    @property
    def stopped(self) -> Path:
        """Interrupted in its first epoch."""
        return self.top / "stopped"

    def build_options(self, out: Path, codec: str) -> list[str]:
        return [
            *("build", "--dataset", "folder", "--root", str(self.source), "--out", str(out), "--workers", "0"),
            *("--parser", f"maps:bisenet:{self.maps}", "--shard-size", "8", "--codec", codec),
        ]

    def train_options(self, shards: Path, out: Path) -> list[str]:
        return ["--shards", str(shards), "--out", str(out), *TINY]


def picture(number: int, source: int, side: int = 96) -> np.ndarray:
    """RGB uint8 (side, side, 3)."""
    rng = np.random.default_rng([number, source])
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [127 + 90 * np.sin(rng.uniform(3, 25) * x + rng.uniform(3, 25) * y + rng.uniform(0, 6)) for _ in range(3)]
    return np.clip(np.stack(waves, -1) + rng.normal(0, 3 + 3 * source, (side, side, 3)), 0, 255).astype(np.uint8)


def make_sets(top: Path) -> Sets:
    """Made once; the last step leaves a mark."""
    sets = Sets(top)
    if (top / "made").exists():
        return sets
    shutil.rmtree(top, ignore_errors=True)
    for source, name in enumerate(SOURCES):
        for split, count in COUNTS.items():
            for number in range(count):
                relative = f"{split}/{name}/{split}{number}.png"
                for folder, array in (
                    (sets.source, picture(number + 100 * len(split), source)),
                    (sets.maps, picture(number, source)[..., 0] % 19),
                ):
                    (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(array).save(folder / relative)
    sets.protocol.write_text(PROTOCOL)
    sets.generators.write_text(GENERATORS)
    for codec in ("raw", "png"):
        start("prep", *sets.build_options(sets.shards(codec), codec))
    start("train", *sets.train_options(sets.shards("raw"), sets.run))
    start("train", *sets.train_options(sets.shards("raw"), sets.stopped), code=STOPPED, expected=130)
    assert json.loads((sets.stopped / "state.json").read_text())["step"] in (1, 2)
    (top / "made").touch()
    return sets


def command_line(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", f"from bmrl.cli.{name} import main; main()", *map(str, arguments)]


def start(name: str, *arguments: object, code: str = "", expected: int = 0) -> None:
    command = [sys.executable, "-c", code, *map(str, arguments)] if code else command_line(name, *arguments)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=allow_interrupts,
    )  # fmt: skip
    if done.returncode != expected:
        raise SystemExit(f"bmrl-{name} {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")


def allow_interrupts() -> None:
    """A shell in the background makes its children ignore Ctrl-C, and they theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def link_tree(source: Path, target: Path) -> Path:
    """A copy whose files are links to the same content: whoever writes there by rename leaves the original as it is. Locks and
    logs are left out, as they are written in place."""
    return shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns(".log", "tensorboard"))


def replace(path: Path, data: bytes) -> None:
    """Other content in the place of a linked file."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
