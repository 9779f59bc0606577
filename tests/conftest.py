"""A small source folder, the shard set built from it in this process, photographs, and a way to run the commands."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click import Command
from click.testing import CliRunner, Result
from PIL import Image

from bmrl.pipeline.build.build import build as run_build
from bmrl.pipeline.build.options import BuildOptions, RunSettings
from bmrl.pipeline.shardset import ShardSet

DATA = Path(__file__).parents[1] / "../shared/data"
# source -> (train, val, test) images; `mystery` is in no taxonomy
SOURCES = {
    "real": (7, 2, 3),
    "sim-efs-gan-fir": (7, 2, 3),
    "sim-fs-gan-near": (7, 2, 3),
    "sim-efs-gan-vq": (7, 2, 3),
    "mystery": (1, 0, 1),
}
PROTOCOL = """\
name: small
simulated: true
seen: [sim-fs-gan-near, real, sim-efs-gan-fir]
unseen: {sim-efs-gan-vq: FAR}
controls: [mystery]
"""


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Real photographs: JPEGs of 512 and 1024 pixels, and PNGs of other sizes."""
    folders = (
        "real-sources/ffhq-pipeline/real",
        "real-sources/ffhq-pipeline/stylegan",
        "real-sources/celeba-pipeline/real",
        "celebamask-hq/images",
    )
    found = [path for folder in folders for path in sorted((DATA / folder).glob("*.*"))[:2]]
    if len(found) < 8:
        pytest.skip("../shared/data/real-sources and ../shared/data/celebamask-hq are not here")
    return found


def draw(number: int, source: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture with gradients, blocks and noise (H, W, 3); the source decides tint and grain."""
    width, height = size
    rng = np.random.default_rng([number, source])
    y, x = np.mgrid[0:height, 0:width]
    base = (x * (1 + source) // 3 + y + 60 * ((x // 24 + y // 32 + number) % 2)) % 200
    grain = rng.integers(0, 2 + 9 * source, (height, width, 3))
    tint = np.array([[0, 30, 50], [50, 0, 20], [20, 50, 0], [0, 0, 55], [55, 55, 0]])[source % 5]
    return np.asarray(base[..., None] + grain + tint).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR/split/generator/*.png|jpg of several sizes, with label maps under DIR-maps and a protocol in protocol.yaml."""
    root = tmp_path_factory.mktemp("small") / "source"
    sizes = [(224, 224), (224, 224), (300, 260), (100, 140)]
    for source, (name, counts) in enumerate(SOURCES.items()):
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            for number in range(count):
                size = sizes[(number + source) % len(sizes)]
                path = root / split / name / f"Face {split}{number}.{'jpg' if size == (300, 260) else 'png'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw(number + 100 * len(split), source, size)).save(path)
                labels = np.random.default_rng(number).integers(0, 19, (size[1], size[0]), dtype=np.uint8)
                map_path = (root.with_name("maps") / path.relative_to(root)).with_suffix(".png")
                map_path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels).save(map_path)
    root.with_name("protocol.yaml").write_text(PROTOCOL)
    return root


@pytest.fixture(scope="session")
def small_options(small_source: Path) -> Callable[..., BuildOptions]:
    """Options of a build of the small source, with its maps as parser; keywords override."""

    def options(out: Path, **given: Any) -> BuildOptions:
        chosen: dict[str, Any] = {
            "dataset": "folder",
            "source_root": small_source,
            "shard_size": 8,
            "parser": f"maps:bisenet:{small_source.with_name('maps')}",
        }
        return BuildOptions(out=out, **{**chosen, **given})

    return options


@pytest.fixture(scope="session")
def build_here() -> Callable[[BuildOptions], Path]:
    """What a build does, in this process and without Ray; returns ROOT."""

    def build(options: BuildOptions) -> Path:
        run_build(options, RunSettings(workers=0), on_progress=lambda progress: None, on_message=lambda message: None)
        return options.out

    return build


@pytest.fixture(scope="session")
def small_root(
    tmp_path_factory: pytest.TempPathFactory,
    small_options: Callable[..., BuildOptions],
    build_here: Callable[[BuildOptions], Path],
) -> Path:
    """The shard set of the small source: 50 samples, five views, raw codec. Read it only; `small_copy` is for damage."""
    return build_here(small_options(tmp_path_factory.mktemp("shards") / "small"))


@pytest.fixture(scope="session")
def small_set(small_root: Path) -> ShardSet:
    return ShardSet.open(small_root)


@pytest.fixture(scope="session")
def small_protocol(small_source: Path) -> str:
    """The path of a protocol file: three seen sources, one unseen, one control."""
    return str(small_source.with_name("protocol.yaml"))


@pytest.fixture
def small_copy(small_root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_root, tmp_path / "copy")


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Give back the handlers that a command in this process takes over, or ignores once it is interrupted."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def invoke(own_signals: None) -> Callable[..., Result]:
    """Run a command's main in this process. An exception that a user would see as a traceback fails the test."""

    def run(main: Command, *arguments: Any) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR/split/generator/split000.png, 96 pixels: three generators, 12 training, 6 validation, 6 test images each."""
    root = tmp_path_factory.mktemp("faces")
    for source, generator in enumerate(("DDPM", "StyleGAN2", "real")):
        for split, count in (("train", 12), ("val", 6), ("test", 6)):
            (root / split / generator).mkdir(parents=True)
            for number in range(count):
                rgb = draw(number + 100 * len(split), source, (96, 96))
                Image.fromarray(rgb).save(root / split / generator / f"{split}{number:03d}.png")
    return root


@pytest.fixture(scope="session")
def shards(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shard set of `faces`, built by the command with one worker and the shipped parser. Read it only."""
    from support import build

    out = tmp_path_factory.mktemp("shards") / "shards"
    done = build(faces, out, "--parser", "bisenet-lite", "--shard-size", "10", "--workers", "1")
    assert done.returncode == 0, done.stderr
    return out
