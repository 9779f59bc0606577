"""File names with newlines, ESC and marks of direction, through the commands that print them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from click.testing import Result
from PIL import Image
from support import fit, picture

from bmrl.cli import attribute, train
from bmrl.cli import eval as evaluate
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


PIECES = [
    "\n", "\r", "\r\n", "\t", "\x0b", "\x00"[:0], "\x07", "\x1b[2J", "\x1b]0;owned\x07", "\x1b[31m", "\x9b1m", "\x7f", "\u202e",
    "\u2066", "\u2069", "\u200f", "\u200b", "\u2028", "\u2029", "\u0085", "\ufeff", "<script>alert(1)</script>", "<img src=x>",
    '"', "'", "`", "|", "*", "_", "$x_{y^", "\\", "&amp;", "=cmd()", "+1+1", "-2", "@SUM(A1)", "%s%n", "{{7*7}}", "{0}", "a" * 60,
    "real  (real 1.000)", "error: ", "--json", "~", "#", "]]>", "-->", "名前", "é", "🙂", "\udcff", "\udc80",
]  # fmt: skip


def hostile_names(count: int, *, longest: int = 180) -> list[str]:
    """Different names that a file may have; those with \\udc.. are bytes that are no UTF-8."""
    random, found = Random(0), dict.fromkeys(PIECES)
    while len(found) <= count:
        found["".join(random.choices(PIECES, k=random.randint(1, 5)))] = None
    names = [name for name in found if name.strip(".") and len(os.fsencode(name)) <= longest]
    return names[:count]


def test_a_thousand_names_of_files(trained: Path, small_source: Path, invoke: Invoke, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    names = hostile_names(1300)[:1000]
    assert len(names) == 1000
    faces = {}
    for number, name in enumerate(names):
        file = source / ("real", "DDPM")[number % 2] / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, 64)).save(faces.setdefault(name, file), compress_level=1)
    common = ("build", "--dataset", "folder", "--root", source, "--out", root, "--views", "image,text", "--workers", 0)
    drafted = invoke(prep, *common, "--dry-run")
    assert drafted.exit_code == 0 and is_plain(drafted.stdout) and is_plain(drafted.stderr)
    built = invoke(prep, *common)
    assert built.exit_code == 0 and is_plain(built.stdout) and is_plain(built.stderr), built.output
    commands = [
        ("head", root, "-n", 1000), ("head", root, "--grid", tmp_path / "grid.png"), ("info", root), ("verify", root),
        ("info", root, "--card", tmp_path / "card"), ("export", root, "--for", "open_clip", "--out", tmp_path / "a\x1b[2J"),
        ("export", root, "--for", "deepfakebench", "--out", tmp_path / "bench"),
        ("export", root, "--views", "image,text", "--out", tmp_path / "tars"),
    ]  # fmt: skip
    for command in commands:
        done = invoke(prep, *command)
        assert done.exit_code == 0, done.output
        assert is_plain(done.stdout) and is_plain(done.stderr), command
    card = (tmp_path / "card/README.md").read_text()
    assert is_plain(card)
    asked = invoke(attribute.main, trained, "--device", "cpu", "--", *faces.values())
    assert asked.exit_code == 0 and len(asked.stdout.splitlines()) == 1000
    assert is_plain(asked.stdout) and is_plain(asked.stderr)
    told = invoke(attribute.main, trained, "--device", "cpu", "--json", "--", *list(faces.values())[:50])
    assert told.exit_code == 0 and len(json.loads(told.stdout)["images"]) == 50 and is_plain(told.stdout)


def test_names_of_sources(small_source: Path, invoke: Invoke, tmp_path: Path) -> None:
    """A manifest may call its sources anything: through build, training and evaluation, to the page."""
    lines = [name for name in hostile_names(100) if name.strip() == name and name.splitlines() == [name]]
    lines = [name for name in lines if not any("\ud800" <= c <= "\udfff" for c in name)]
    names = ["a\nb", "c\u2028d", *lines[:24]]
    records, root, run = [], tmp_path / "root", tmp_path / "run"
    for number, name in enumerate(["real", *names]):
        for part, split in enumerate(("train", "train", "val", "test")):
            path = f"{number}-{part}.png"
            Image.fromarray(picture(10 * number + part, 64)).save(tmp_path / path)
            kinds = {"kind": "real", "family": "real"} if name == "real" else {"kind": "EFS", "family": "GAN"}
            records.append({"path": path, "generator": name, "split": split, **kinds})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    common = ("build", "--dataset", "manifest", "--root", tmp_path / "manifest.jsonl", "--out", root, "--workers", 0)
    refused = invoke(prep, *common, "--parser", "bisenet-lite")
    assert refused.exit_code == 1 and is_plain(refused.stderr)
    assert ": a name is one line" in refused.stderr
    records = [record for record in records if record["generator"].splitlines() == [record["generator"]]]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for command in ((*common, "--dry-run"), common):
        done = invoke(prep, *command, "--parser", "bisenet-lite")
        assert done.exit_code == 0 and is_plain(done.stdout) and is_plain(done.stderr), done.output
    for command in (("head", root), ("info", root), ("info", root, "--card", tmp_path / "card")):
        done = invoke(prep, *command)
        assert done.exit_code == 0 and is_plain(done.stdout), done.output
    card = (tmp_path / "card/README.md").read_text()
    assert is_plain(card) and "<script>" not in card and "<img" not in card
    trained = fit(root, run)
    assert trained.exit_code == 0 and is_plain(trained.stdout) and is_plain(trained.stderr), trained.output
    judged = invoke(evaluate.main, run, "--shards", root, "--device", "cpu", "--out", tmp_path / "eval")
    assert judged.exit_code == 0 and is_plain(judged.stdout) and is_plain(judged.stderr), judged.output
    page = (tmp_path / "eval/report.html").read_text()
    assert is_plain(page) and "<script>" not in page and "<img src=x>" not in page
    asked = invoke(attribute.main, run, tmp_path / "0-0.png", "--threshold", 0, "--device", "cpu")
    assert asked.exit_code == 0 and len(asked.stdout.splitlines()) == 1 and is_plain(asked.stdout)


@pytest.mark.parametrize("command", ["train", "eval", "attribute", "prep"])
def test_options_that_a_pattern_of_the_shell_found(command: str, invoke: Invoke) -> None:
    mains = {"train": train.main, "eval": evaluate.main, "attribute": attribute.main, "prep": prep}
    for arguments in (
        ["--x\x1b[2J\n"],
        ["x\x1b[2J", "--threshold", "\x1b[2J", "y"],
        ["info", "--\x1b[2J\n"],
        ["in\nfo\x1b"],
    ):
        done = invoke(mains[command], *arguments)
        assert done.exit_code in (1, 2) and is_plain(done.stderr), done.stderr
