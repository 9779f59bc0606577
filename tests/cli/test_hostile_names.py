"""File names with newlines, ESC and marks of direction, through the commands that print them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support import fit

from bmrl.cli import attribute
from bmrl.cli.prep import main as prep

Invoke = Callable[..., Result]
NAMES = ["a\nb: real  (real 1.000)", "c\x1b[2J\x1b]0;owned\x07", "d\u202egnp", "e\r", "f\u2028g"]


@pytest.fixture(scope="module")
def trained(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert fit(small_root, out, "--protocol", small_protocol).exit_code == 0
    return out


def is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.replace("\r", "\n" if "%|" in text else "\r").split("\n"))


def test_attribute_is_one_line_an_input(trained: Path, small_source: Path, invoke: Invoke, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in NAMES]
    for file in files:
        shutil.copy(small_source / "test/real/Face test0.png", file)
    absent = [tmp_path / f"{name}.jpg" for name in NAMES]
    done = invoke(attribute.main, trained, *files, *absent, "--device", "cpu")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == len(files) + len(absent)
    assert is_plain(done.stdout)
    missing = invoke(attribute.main, tmp_path / NAMES[1], files[0])
    assert missing.exit_code == 1 and is_plain(missing.stderr)


def test_the_commands_of_a_shard_set(small_source: Path, invoke: Invoke, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    (source / "real").mkdir(parents=True)
    (source / "odd\x1b[2J").mkdir()
    for name in NAMES:
        for folder in ("real", "odd\x1b[2J"):
            shutil.copy(small_source / "test/real/Face test0.png", source / folder / f"{name}.png")
    (source / "real/broken\n\x1b.png").write_text("no image")
    listed = tmp_path / "accepted"
    listed.write_text("\x1b[2J\n")
    build = ("build", "--dataset", "folder", "--root", source, "--out", root, "--views", "image,text", "--workers", 0)
    refused = invoke(prep, *build, "--accept-duplicates", listed)
    assert refused.exit_code == 1 and is_plain(refused.stderr)
    leaking = invoke(prep, *build)
    assert leaking.exit_code in (1, 3) and is_plain(leaking.stderr), leaking.stderr
    for number, file in enumerate(sorted(source.rglob("*.png"))):
        if "broken" not in file.name:
            file.write_bytes(file.read_bytes() + bytes([number]))  # no copies
    built = invoke(prep, *build, "--max-failures", "1")
    assert built.exit_code == 0, built.output
    for command in (("head", root, "-n", 50), ("info", root), ("verify", root)):
        done = invoke(prep, *command)
        assert done.exit_code == 0 and is_plain(done.stdout), done.stdout
