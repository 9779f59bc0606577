"""verify finds what is damaged, missing or extra, and names it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support import run_command

import bmrl.pipeline.shards.verify as verify_module
from bmrl.cli.prep import main
from bmrl.pipeline.parsers.choice import ParserChoice
from bmrl.pipeline.parsers.errors import ParserError
from bmrl.pipeline.shards.verify import Damage, verify
from bmrl.pipeline.views.parsing import LabelTool


def flip(path: Path, offset: int = -5000) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "flipped payload": ("edge/000000.tar", flip),
    "flipped padding": ("text/000001.tar", lambda path: flip(path, -1)),
    "truncated tar": ("noise/000001.tar", lambda path: path.write_bytes(path.read_bytes()[:-512])),
    "missing tar": ("image/000002.tar", Path.unlink),
    "missing sidecar": ("parsing/000000.json", Path.unlink),
    "flipped sidecar": ("image/000000.json", lambda path: flip(path, 100)),
    "flipped plan": ("plan.json", lambda path: flip(path, 50)),
    "flipped plan rows": ("plan.parquet", lambda path: flip(path, 60)),
    "flipped index": ("index.parquet", lambda path: flip(path, 60)),
    "flipped dataset": ("dataset.json", lambda path: flip(path, 60)),
    "extra file": ("edge/notes.txt", lambda path: path.write_text("x")),
    "left over": ("edge/.tmp-1-000000.tar", lambda path: path.write_text("x")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(name: str, shards: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(shards, root)
    path, damage = DAMAGES[name]
    damage(root / path)
    found = {one.path for one in verify(root, deep=True)}
    assert path in found
    assert found <= {path, "SHA256SUMS"}


def test_damaged_sums_are_found(shards: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(shards, root)
    size = (root / "SHA256SUMS").stat().st_size
    for offset in range(0, size, 37):
        original = (root / "SHA256SUMS").read_bytes()
        flip(root / "SHA256SUMS", offset)
        assert verify(root, deep=True), f"byte {offset}"
        (root / "SHA256SUMS").write_bytes(original)


def test_a_sound_set_passes_with_its_sources(shards: Path, faces: Path) -> None:
    done = run_command("prep", "verify", shards, "--deep", "--root", faces)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete and undamaged" in done.stdout


@pytest.mark.slow
def test_flips_and_truncations_of_every_file_are_named() -> None:
    """benchmarks/verify_matrix.py does it for every byte; this takes every 499th."""
    script = Path(__file__).parents[3] / "benchmarks/verify_matrix.py"
    done = subprocess.run([sys.executable, str(script), "--step", "499"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "damages was missed" in done.stdout


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_that_cannot_be_read_is_named(deep: bool, small_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a failing disk, which is when one verifies."""
    victims = {small_root / "edge/000001.tar", small_root / "text/000000.json"}

    def failing(whole: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def fails(path: Path) -> Any:
            if path in victims:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return whole(path)

        return fails

    for name in ("file_sha256", "file_digests"):
        monkeypatch.setattr(verify_module, name, failing(getattr(verify_module, name)))
    expected = [Damage("text/000000.json", "cannot be read: Input/output error")]
    if deep:
        expected.insert(0, Damage("edge/000001.tar", "cannot be read: Input/output error"))
    assert verify(small_root, deep=deep) == expected


def test_weights_that_cannot_be_had_end_in_a_sentence(
    invoke: Callable[..., Result], shards: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: ParserChoice) -> None:
        raise ParserError("the weights cannot be had")

    monkeypatch.setattr(ParserChoice, "open", unreachable)
    result = invoke(main, "verify", shards, "--deep", "--root", faces)
    assert result.exit_code == 1
    assert result.stderr == "error: the weights cannot be had\n"


def test_the_parser_is_loaded_once(shards: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    whole = ParserChoice.open

    def counted(self: ParserChoice) -> LabelTool:
        opened.append(self.spec.name)
        return whole(self)

    monkeypatch.setattr(ParserChoice, "open", counted)
    assert len(list((shards / "image").glob("*.tar"))) > 3
    assert verify(shards, deep=True, source_root=faces) == []
    assert opened == ["bisenet-lite"]


def test_a_root_of_sources_that_is_not_there_is_no_damage(
    invoke: Callable[..., Result], small_root: Path, tmp_path: Path
) -> None:
    result = invoke(main, "verify", small_root, "--deep", "--root", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert result.stdout == "" and result.stderr.startswith(f"error: --root {tmp_path / 'nowhere'} does not exist")


def test_sources_without_deep_are_said_to_do_nothing(
    invoke: Callable[..., Result], small_root: Path, small_source: Path
) -> None:
    result = invoke(main, "verify", small_root, "--root", small_source)
    assert result.exit_code == 0 and "--root needs --deep" in result.stdout
