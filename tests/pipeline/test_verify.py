"""verify finds what is damaged, missing or extra, and names it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import run_command

from bmrl.pipeline.verify import verify


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
    script = Path(__file__).parents[2] / "benchmarks/verify_matrix.py"
    done = subprocess.run([sys.executable, str(script), "--step", "499"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "damages was missed" in done.stdout
