"""docs/reuse.md as a stranger runs it: the same ROOT read by other programs, none of which imports bmrl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from bmrl.cli.prep import main
from bmrl.pipeline import ShardSet

DOCUMENT = Path(__file__).parents[3] / "docs/reuse.md"
SPLITS = {"train": 29, "val": 8, "test": 13}


def script(heading: str) -> str:
    """The Python block under a heading."""
    section = DOCUMENT.read_text().split(f"## {heading}")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    assert "bmrl" not in found[1]
    return found[1]


def run(code: str, folder: Path, *arguments: object) -> list[str]:
    """In a process without this repository; returns the lines printed."""
    file = folder / "script.py"
    file.write_text(code)
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, file, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def keys(shard_set: ShardSet, split: str) -> list[str]:
    return list(shard_set.select(split=split).index["key"].to_pylist())


def test_webdataset_zips_two_columns(small_root: Path, small_set: ShardSet, tmp_path: Path) -> None:
    lines = run(script("webdataset"), tmp_path, small_root)
    assert [line.split()[0] for line in lines] == keys(small_set, "train")
    for line, batch in zip(
        lines, small_set.select(split="train").loader(views=["edge"], batch_size=1, shuffle=False), strict=True
    ):
        assert line.endswith(f"(224, 224, 3) {round(float(batch['edge'].numpy().max() / 14563), 4)}")


def test_hugging_face_datasets(small_root: Path, small_set: ShardSet, tmp_path: Path) -> None:
    lines = run(script("Hugging Face"), tmp_path, small_root)
    rows = small_set.select(split="test").index.to_pylist()
    assert lines == [f"{row['key']} {row['generator']} 224" for row in rows]


@pytest.fixture
def exported(invoke: Callable[..., Result], small_root: Path, tmp_path: Path) -> Path:
    result = invoke(main, "export", small_root, "--for", "open_clip", "--out", tmp_path / "clip")
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'clip'}: 50 samples\n"
    return tmp_path / "clip"


@pytest.mark.parametrize("split", SPLITS)
def test_open_clip(split: str, exported: Path, small_set: ShardSet, tmp_path: Path) -> None:
    lines = run(script("open_clip"), tmp_path, exported / split)
    prompts = small_set.document["prompts"]
    rows = small_set.select(split=split).index.to_pylist()
    captions = [", ".join(line for line in prompts[row["generator"]]["sentences"] if line) for row in rows]
    assert lines == [f"{row['key']} (224, 224) {caption}" for row, caption in zip(rows, captions, strict=True)]
    sizes = json.loads((exported / split / "sizes.json").read_bytes())
    assert list(sizes) == [f"{number:06d}.tar" for number in range(len(sizes))] and sum(sizes.values()) == SPLITS[split]
    assert {path.name for path in (exported / split).iterdir()} == {*sizes, "sizes.json"}


def test_open_clip_pictures_are_the_stored_ones(exported: Path, small_set: ShardSet) -> None:
    batch = next(iter(small_set.select(split="val").loader(views=["image"], batch_size=8, shuffle=False)))
    with tarfile.open(exported / "val/000000.tar") as tar:
        assert all(member.isreg() and not member.pax_headers and member.mtime == 0 for member in tar.getmembers())
        for key, image in zip(batch["key"], batch["image"], strict=True):
            member = tar.extractfile(f"{key}.png")
            assert member is not None
            with Image.open(member) as picture:
                assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())


def test_open_clip_refuses(invoke: Callable[..., Result], small_root: Path, exported: Path, tmp_path: Path) -> None:
    again = invoke(main, "export", small_root, "--for", "open_clip", "--out", exported)
    assert again.exit_code == 2 and "is not an empty folder" in again.stderr
    both = invoke(main, "export", small_root, "--for", "open_clip", "--views", "edge", "--out", tmp_path / "x")
    assert both.exit_code == 2 and "give either --views or --for" in both.stderr


def test_open_clip_needs_text(
    invoke: Callable[..., Result], small_options: Callable, build_here: Callable, tmp_path: Path
) -> None:
    root = build_here(small_options(tmp_path / "out", views=("image",), parser=None))
    result = invoke(main, "export", root, "--for", "open_clip", "--out", tmp_path / "clip")
    assert result.exit_code == 2 and "has no view 'text', which open_clip needs" in result.stderr
    assert not (tmp_path / "clip").exists()


def test_a_resnet_in_30_lines_trains(small_root: Path, tmp_path: Path) -> None:
    code = script("Training a ResNet")
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
    losses = [float(line.split()[-1]) for line in run(code, tmp_path, small_root, 4)]
    assert len(losses) == -(-29 * 4 // 16)
    assert losses[-1] < 0.75 * losses[0]
