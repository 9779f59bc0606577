"""`bmrl-prep export` of a damaged shard set: an error, and never fewer members or other bytes than were stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from bmrl.cli.prep import main

Invoke = Callable[..., Result]
WHAT = (("--views", "image,edge"), ("--for", "open_clip"), ("--for", "deepfakebench"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("what", WHAT)
def test_a_damaged_tar(what: tuple[str, str], invoke: Invoke, small_copy: Path, tmp_path: Path) -> None:
    flip(small_copy / "image/000001.tar")
    result = invoke(main, "export", small_copy, *what, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "image/000001.tar is damaged" in result.stderr


@pytest.mark.parametrize("file", ["image/000001.json", "edge/000001.json", "edge/000001.tar"])
def test_a_missing_file(file: str, invoke: Invoke, small_copy: Path, tmp_path: Path) -> None:
    """The other columns of the shard would have been exported alone."""
    (small_copy / file).unlink()
    result = invoke(main, "export", small_copy, "--views", "image,edge", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "000001" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("what", WHAT)
def test_an_out_that_is_a_file(what: tuple[str, str], invoke: Invoke, small_root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = invoke(main, "export", small_root, *what, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == f"error: --out {tmp_path / 'out'} is not an empty folder\n"
