"""What `bmrl-prep head` shows: every source, under headings, in a picture that other programs can open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image

from bmrl.cli.prep import main
from bmrl.pipeline.shardset import ShardSet

Invoke = Callable[..., Result]
SOURCES = {"real", "sim-efs-gan-fir", "sim-fs-gan-near", "sim-efs-gan-vq", "mystery"}


@pytest.mark.parametrize("options", [(), ("-n", 1), ("-n", 7), ("-n", 1000)])
def test_every_source_stands_in_a_table(invoke: Invoke, small_root: Path, options: tuple[Any, ...]) -> None:
    done = invoke(main, "head", small_root, *options)
    assert done.exit_code == 0
    table, _, sentences = done.stdout.partition("\n\n")
    head, *lines = table.splitlines()
    assert head.split() == ["source", "kind", "family", "split", "shard", "row", "size", "format", "key", "file"]
    rows = ShardSet.open(small_root).index.to_pylist()
    count = min(options[1] if options else 5, 50)
    shown = [line.split()[8] for line in lines]
    assert shown[:count] == [row["key"] for row in rows[:count]]  # the first ones, then one of each other source
    assert {line.split()[0] for line in lines} == SOURCES
    assert len(lines) == count + len(SOURCES - {row["generator"] for row in rows[:count]})
    for title in head.split()[1:]:  # a column begins where its heading does
        assert {line[head.index(title) - 1] for line in lines} == {" "}
    assert all(f"{name}:\n" in f"\n{sentences}" for name in SOURCES)


@pytest.mark.parametrize(
    ("name", "form"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")]
)
def test_the_picture_is_what_its_name_says(
    invoke: Invoke, small_root: Path, tmp_path: Path, name: str, form: str
) -> None:
    done = invoke(main, "head", small_root, "--grid", tmp_path / name)
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / name}\n"
    with Image.open(tmp_path / name) as picture:
        assert picture.format == form and picture.size == (5 * 224, len(SOURCES) * 242)


@pytest.mark.parametrize("name", ["a.gif", "a", "a.txt", "png"])
def test_a_picture_of_no_known_format(invoke: Invoke, small_root: Path, tmp_path: Path, name: str) -> None:
    done = invoke(main, "head", small_root, "--grid", tmp_path / name)
    assert done.exit_code == 2 and not (tmp_path / name).exists()
    assert done.stderr == f"error: --grid {tmp_path / name}: a picture is a .png, .jpg, .jpeg, .webp file\n"


def test_a_picture_that_would_be_too_high(
    invoke: Invoke, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmrl.pipeline.describe.preview.MAX_SIDE", 10_000)
    done = invoke(main, "head", small_root, "-n", 5000, "--grid", tmp_path / "a.png")
    assert done.exit_code == 2 and not (tmp_path / "a.png").exists()
    assert done.stderr == (
        "error: -n 5000: a picture of 50 samples would be 12100 pixels high; at most 10000 are drawn, which is -n 41\n"
    )
    assert invoke(main, "head", small_root, "-n", 41, "--grid", tmp_path / "a.png").exit_code == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height == 41 * 242
