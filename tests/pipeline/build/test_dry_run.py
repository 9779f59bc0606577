"""`bmrl-prep build --dry-run`: found against expected, what a build would write, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from released import RELEASED
from support import content, write_faces

from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.build.space import estimate_bytes
from bmrl.pipeline.views import VIEWS

Invoke = Callable[..., Result]


@pytest.fixture
def dry_run(tmp_path: Path, invoke: Invoke) -> Callable[..., list[str]]:
    def run(dataset: str, root: Path, *options: object) -> list[str]:
        before = content(tmp_path)
        out = tmp_path / "out"
        done = invoke(main, "build", "--dataset", dataset, "--root", root, "--out", out, "--dry-run", *options)
        assert done.exit_code == 0, done.output
        assert content(tmp_path) == before and not out.exists()
        return done.output.splitlines()

    return run


def cells(lines: list[str], name: str) -> list[str]:
    """The four cells of the one line that starts with `name`."""
    found = [line for line in lines if line.startswith(name + " ")]
    assert len(found) == 1
    return found[0].removeprefix(name).split()


def test_videos_are_compared_with_what_is_published(tmp_path: Path, dry_run: Callable[..., list[str]]) -> None:
    lines = dry_run("ffpp", RELEASED["ffpp"].write(tmp_path / "source"), "--views", "image,edge")
    assert lines[0].split() == ["found/expected", "videos", "train", "val", "test", "all"]
    assert cells(lines, "Deepfakes") == ["1/720", "0/140", "0/140", "1/1000"]
    assert cells(lines, "Face2Face") == ["0/720", "0/140", "0/140", "0/1000"]
    assert cells(lines, "real") == ["1/?", "1/?", "1/?", "3/1363"]
    assert cells(lines, "all sources") == ["3/?", "2/?", "2/?", "7/9431"]
    assert "missing or left out: Deepfakes, 999 of 1000 videos" in lines
    assert "missing or left out: Face2Face, all 1000 videos" in lines
    assert "left out: 1 files (beyond 32 evenly spaced frames of its video)" in lines
    assert "left out: 2 files (its identities fall into different splits)" in lines


def test_unpublished_totals_are_question_marks(tmp_path: Path, dry_run: Callable[..., list[str]]) -> None:
    lines = dry_run("df40", RELEASED["df40"].write(tmp_path / "source"), "--views", "image")
    assert cells(lines, "SimSwap") == ["1/?", "1/?", "2/?", "4/?"]
    assert cells(lines, "all sources") == ["5/?", "1/?", "11/?", "17/?"]
    assert [line for line in lines if line.startswith("missing")][:2] == [
        "missing or left out: FSGAN",
        "missing or left out: FaceSwap",
    ]
    assert "warning: 2 folders are empty, the first is DF40/sd2.1/ff/001/" in lines


def test_shards_bytes_and_time_of_what_is_to_be_written(tmp_path: Path, dry_run: Callable[..., list[str]]) -> None:
    root = write_faces(tmp_path / "source", {"real": 20, "DDPM": 20})
    lines = dry_run("folder", root, "--views", "image,edge,text", "--shard-size", "10", "--limit", "8")
    assert lines[0].split() == ["found", "images", "train", "val", "test", "all"]
    train, val, test, total = map(int, cells(lines, "real"))
    assert (train + val + test, total) == (20, 20)
    assert cells(lines, "DDPM") == cells(lines, "real")
    plan = resolve(
        BuildOptions(dataset="folder", source_root=root, out=tmp_path / "x", views=("image",), shard_size=10, limit=8)
    ).plan
    planned = 2 * (min(train, 8) + min(val, 8) + min(test, 8))
    assert plan.rows.num_rows == planned < 40
    assert f"planned: {planned} of 40 images (--limit, --splits, earlier runs)" in lines
    num_shards = len(plan.shards)
    assert f"shards: {num_shards} of at most 10 samples, {num_shards} of them to write" in lines
    size = estimate_bytes({**plan.views})["image"]
    assert cells(lines, "image") == [str(num_shards), "shards", f"{planned * size / 1e6:.1f}", "MB"]
    assert not any(line.startswith("noise") for line in lines)
    assert lines[-1].startswith("time: about 0 s on ") and "measured on 16 samples" in lines[-1]


def test_a_finished_build_has_nothing_left_to_write(small_copy: Path, small_source: Path, invoke: Invoke) -> None:
    before = content(small_copy)
    parser = f"maps:bisenet:{small_source.with_name('maps')}"
    done = invoke(
        main,
        "build",
        "--dataset",
        "folder",
        "--root",
        small_source,
        "--out",
        small_copy,
        "--parser",
        parser,
        "--dry-run",
    )
    assert done.exit_code == 0, done.output
    assert content(small_copy) == before
    lines = done.output.splitlines()
    assert "shards: 7 of at most 8 samples, 0 of them to write" in lines
    for view in VIEWS:
        assert cells(lines, view) == ["0", "shards", "0.0", "MB"]


def test_unreadable_files_are_counted_in_the_sample(tmp_path: Path, dry_run: Callable[..., list[str]]) -> None:
    root = write_faces(tmp_path / "source", {"real": 3})
    (root / "real/bad.png").write_bytes(b"no image")
    assert "measured on 3 samples" in (line := dry_run("folder", root, "--views", "image")[-1])
    assert "1 of 4 could not be read" in line
