"""A pipe, device, folder or link in the place of any file: no command waits, and each says one sentence."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support import fit

from bmrl.cli import attribute, train
from bmrl.cli import eval as evaluate
from bmrl.cli.prep import main as prep

Invoke = Callable[..., Result]
KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "dangling": lambda path: path.symlink_to("/nowhere/at/all"),
}


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def trained(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert fit(small_root, out, "--protocol", small_protocol).exit_code == 0
    return out


def put(kind: str, path: Path) -> Path:
    path.unlink(missing_ok=True)
    KINDS[kind](path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["dataset.json", "index.parquet", "SHA256SUMS", "image/000000.json", "image/000000.tar"]
)
def test_in_a_shard_set(kind: str, name: str, small_copy: Path, trained: Path, invoke: Invoke, tmp_path: Path) -> None:
    put(kind, small_copy / name)
    verified = invoke(prep, "verify", small_copy)
    assert verified.exit_code == 1 and verified.stderr, verified.output
    out = tmp_path / "out"
    commands: list[tuple[Any, ...]] = [
        (prep, "head", small_copy, "--grid", tmp_path / "grid.png", "-n", 50),
        (prep, "export", small_copy, "--views", "image", "--out", out),
        (evaluate.main, trained, "--shards", small_copy, "--out", tmp_path / "eval", "--device", "cpu"),
    ]
    if not name.startswith("image/"):
        commands += [(prep, "info", small_copy), (train.main, "--shards", small_copy, "--out", tmp_path / "run")]
    for main, *arguments in commands:
        done = invoke(main, *arguments)
        assert done.exit_code == 1, (arguments, done.output)
        assert done.stderr.strip().splitlines()[-1].startswith("error: "), done.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["plan.json", "plan.parquet"])
def test_in_a_plan(kind: str, name: str, small_copy: Path, small_source: Path, invoke: Invoke) -> None:
    put(kind, small_copy / name)
    assert invoke(prep, "verify", small_copy).exit_code == 1
    options = ("--dataset", "folder", "--root", small_source, "--workers", 0)
    done = invoke(prep, "build", "--out", small_copy, *options)
    assert done.exit_code == 2 and done.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "best.safetensors"])
def test_in_a_run(kind: str, name: str, trained: Path, small_source: Path, invoke: Invoke, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    put(kind, run / name)
    done = invoke(attribute.main, run, small_source / "test/real/Face test0.png", "--device", "cpu")
    assert done.exit_code == 1 and done.stderr.startswith("error: "), done.output


@pytest.mark.parametrize("kind", KINDS)
def test_as_an_argument(
    kind: str, trained: Path, small_source: Path, small_root: Path, invoke: Invoke, tmp_path: Path
) -> None:
    odd = put(kind, tmp_path / "odd.yaml")
    build = ("build", "--dataset", "folder", "--root", small_source, "--out", tmp_path / "out", "--views", "image")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    put(kind, photographs / "face.png")
    manifest = put(kind, tmp_path / "manifest.csv")
    commands: list[tuple[Any, ...]] = [
        (prep, *build, "--generators", odd),
        (prep, *build, "--exclude", odd),
        (prep, *build, "--accept-duplicates", odd),
        (prep, *build[:2], "manifest", "--root", manifest, "--out", tmp_path / "out"),
        (prep, "synth", "--real-dir", photographs, "--out", tmp_path / "synth", "--parser", "bisenet-lite"),
        (train.main, "--shards", small_root, "--out", tmp_path / "run", "--protocol", odd),
    ]
    for main, *arguments in commands:
        done = invoke(main, *arguments)
        assert done.exit_code in (1, 2), (arguments, done.output)
        assert "error: " in done.stderr.lower(), done.stderr
    face = small_source / "test/real/Face test0.png"
    done = invoke(attribute.main, trained, odd, face, "--device", "cpu")
    assert done.exit_code == 1
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{odd}: cannot be read: ") and second.startswith(f"{face}: ")
