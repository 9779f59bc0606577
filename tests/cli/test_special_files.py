"""A pipe, device, folder or link in the place of any file: no command waits, and each says one sentence."""

from __future__ import annotations

import hashlib
import json
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


@pytest.mark.parametrize("place", [".log", ".log/lock"])
def test_a_build_writes_through_no_link(
    place: str, small_copy: Path, small_source: Path, invoke: Invoke, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "lock").write_text("kept")
    target = outside if place == ".log" else outside / "lock"
    shutil.rmtree(small_copy / ".log")
    (small_copy / place).parent.mkdir(exist_ok=True)
    (small_copy / place).symlink_to(target)
    before = {path: path.read_text() for path in outside.iterdir()}
    build = ("build", "--dataset", "folder", "--root", small_source, "--out", small_copy, "--workers", 0)
    done = invoke(prep, *build)
    assert done.exit_code == 1 and "is a link" in done.stderr
    assert {path: path.read_text() for path in outside.iterdir()} == before
    assert "kept" not in invoke(prep, "info", small_copy).stderr


def test_a_pipe_in_the_place_of_the_lock(small_copy: Path, small_source: Path, invoke: Invoke) -> None:
    (small_copy / ".log/lock").unlink()
    os.mkfifo(small_copy / ".log/lock")
    assert invoke(prep, "info", small_copy).exit_code == 0
    build = ("build", "--dataset", "folder", "--root", small_source, "--out", small_copy, "--workers", 0)
    assert invoke(prep, *build).exit_code == 1


@pytest.mark.parametrize("place", ["metrics.jsonl", "checkpoint", "tensorboard"])
def test_a_training_writes_through_no_link(
    place: str, trained: Path, small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / place).rename(tmp_path / "outside")
    (run / place).symlink_to(tmp_path / "outside")
    state = json.loads((run / "state.json").read_text())  # as if it had not ended
    (run / "state.json").write_text(json.dumps(state | {"step": 0, "loader": state["loader"] | {"epoch": 0}}))
    outside = tmp_path / "outside"
    before = [path.stat() for path in ([outside] if outside.is_file() else sorted(outside.iterdir()))]
    done = fit(small_root, run, "--protocol", small_protocol, "--resume")
    assert done.exit_code == 1 and "is a link; a run holds plain files" in done.stderr, done.output
    assert [path.stat().st_mtime_ns for path in ([outside] if outside.is_file() else sorted(outside.iterdir()))] == [
        one.st_mtime_ns for one in before
    ]


@pytest.mark.parametrize("field", ["shards", "counts", "views", "classes"])
def test_a_build_writes_a_lying_table_again(field: str, small_copy: Path, small_source: Path, invoke: Invoke) -> None:
    """dataset.json parses, SHA256SUMS matches it, and it says nothing that can be used."""
    before = (small_copy / "dataset.json").read_bytes()
    (small_copy / "dataset.json").write_text(json.dumps(json.loads(before) | {field: 1}))
    digest = hashlib.sha256((small_copy / "dataset.json").read_bytes()).hexdigest()
    lines = (small_copy / "SHA256SUMS").read_text().splitlines()
    sealed = [f"{digest}  dataset.json" if line.endswith("  dataset.json") else line for line in lines]
    (small_copy / "SHA256SUMS").write_text("\n".join(sealed) + "\n")
    build = ("build", "--dataset", "folder", "--root", small_source, "--out", small_copy, "--workers", 0)
    done = invoke(prep, *build, "--parser", f"maps:bisenet:{small_source.with_name('maps')}")
    assert done.exit_code == 0, done.output
    assert (small_copy / "dataset.json").read_bytes() == before
