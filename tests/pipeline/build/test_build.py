"""The build through its command: stock readers, byte identity, resume, and what a no-op touches."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import build, content, picture, run_command, write_faces

from bmrl.pipeline import ShardSet
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.shards.finish import begin_changes
from bmrl.pipeline.shards.plan import write_plan

KEY = re.compile(r"[a-z0-9_-]+")
VIEWS = ("image", "edge", "noise", "parsing", "text")


def test_members_are_plain_and_columns_agree(shards: Path) -> None:
    shard_set = ShardSet.open(shards)
    for shard in shard_set.shard_names:
        orders = {}
        for view in VIEWS:
            with tarfile.open(shards / view / f"{shard}.tar") as tar:
                members = tar.getmembers()
            assert all(member.isreg() and not member.pax_headers and member.mtime == 0 for member in members)
            keys = [member.name.split(".", 1)[0] for member in members]
            assert all(KEY.fullmatch(key) for key in keys)
            orders[view] = list(dict.fromkeys(keys))
        assert len({tuple(order) for order in orders.values()}) == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_a_column(shards: Path) -> None:
    import webdataset

    # Stock readers leave closing to the garbage collector.
    samples = list(webdataset.WebDataset(str(shards / "edge/000000.tar"), shardshuffle=False, empty_check=False))
    stored = ShardSet.open(shards).index.to_pylist()
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in stored if row["shard"] == "000000"]
    assert {"edge.npy"} <= set(samples[0])


@pytest.mark.filterwarnings("ignore")  # of datasets and its own dependencies
def test_hf_datasets_reads_columns(shards: Path, tmp_path: Path) -> None:
    import datasets

    for view, column in (("image", "npy"), ("text", "txt")):
        loaded = datasets.load_dataset(
            "webdataset",
            data_files={"train": [str(path) for path in sorted((shards / view).glob("*.tar"))]},
            split="train",
            cache_dir=str(tmp_path),
        )
        assert len(loaded) == len(ShardSet.open(shards))
        assert column in loaded.column_names
    assert "photo" in str(loaded[0]["txt"])


def test_two_workers_write_the_same_bytes(faces: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    done = build(faces, out, "--parser", "bisenet-lite", "--shard-size", "10", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert content(out) == content(shards)


def test_an_interrupted_build_resumes_to_the_same_bytes(faces: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    shutil.copytree(shards, out)
    # As after a crash: no dataset.json, one column's shard gone, one with a tar but no sidecar, a torn temporary.
    (out / "dataset.json").unlink()
    (out / "edge/000001.tar").unlink()
    (out / "edge/000001.json").unlink()
    (out / "noise/000002.json").unlink()
    (out / "image/.tmp-dead-000000.tar").write_bytes(b"torn")
    kept = {path: path.stat() for path in out.rglob("*.tar") if path.parent.name in ("image", "text", "parsing")}
    assert run_command("prep", "verify", out).returncode == 1
    done = build(faces, out, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert content(out) == content(shards)
    for path, before in kept.items():
        if ".tmp-" not in path.name:
            assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_second_run_writes_nothing(faces: Path, shards: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*") if ".log" not in path.parts}
    done = build(faces, shards)
    assert done.returncode == 0, done.stderr
    assert "0 columns of shards written" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*") if ".log" not in path.parts} == before


@pytest.mark.slow
def test_a_view_is_added_alone_and_extend_adds_shards(faces: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "out", tmp_path / "faces"
    shutil.copytree(faces, root)
    assert build(root, out, "--views", "image", "--shard-size", "20", "--workers", "1").returncode == 0
    order = ShardSet.open(out).select(split="train").digest
    image = {path: path.stat().st_mtime_ns for path in (out / "image").iterdir()}
    assert build(root, out, "--views", "edge", "--workers", "1").returncode == 0
    assert sorted(ShardSet.open(out).views) == ["edge", "image"]
    assert {path: path.stat().st_mtime_ns for path in (out / "image").iterdir()} == image
    assert ShardSet.open(out).select(split="train").digest == order
    shutil.copy(root / "test/real/test000.png", root / "test/real/later.png")
    refused = build(root, out)
    assert refused.returncode == 2
    assert "--extend" in refused.stderr
    assert build(root, out, "--extend", "--workers", "1").returncode == 0
    extended = ShardSet.open(out)
    assert len(extended) == 73
    assert {path: path.stat().st_mtime_ns for path in image} == image
    (root / "test/real/later.png").unlink()
    assert build(root, out).returncode == 2


@pytest.mark.slow
def test_png_codec_gives_the_same_arrays(faces: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "png"
    options = ("--codec", "png", "--shard-size", "10", "--parser", "bisenet-lite", "--workers", "1", "--splits", "val")
    assert build(faces, out, *options).returncode == 0
    views = ("image", "edge", "noise", "parsing", "text")
    raw, png = (
        {
            key: {view: batch[view][i].numpy() for view in views}
            for batch in ShardSet.open(root).select(split="val").loader(views=views, batch_size=4, shuffle=False)
            for i, key in enumerate(batch["key"])
        }
        for root in (shards, out)
    )
    assert raw.keys() == png.keys()
    assert all(np.array_equal(raw[key][view], png[key][view]) for key in raw for view in views)
    assert run_command("prep", "verify", out, "--deep", "--root", faces).returncode == 0


def test_export_joins_columns(shards: Path, tmp_path: Path) -> None:
    done = run_command("prep", "export", shards, "--views", "image,text", "--out", tmp_path / "joined")
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "joined/000000.tar") as tar:
        suffixes = {member.name.split(".", 1)[1] for member in tar}
    assert suffixes == {"npy", "txt", "json"}


def test_an_interrupted_retry_goes_on_with_the_same_command(
    small_options: Callable[..., BuildOptions], build_here: Callable[[BuildOptions], Path], tmp_path: Path
) -> None:
    """As the sentence of an interrupt says; it was refused as 'not complete yet', and so was one beside --extend."""
    source = write_faces(tmp_path / "source", {"real": 2})
    (source / "real/broken.png").write_bytes(b"no image")
    given = {"source_root": source, "views": ("image",), "parser": None}
    out = build_here(small_options(tmp_path / "out", **given))
    Image.fromarray(picture(7)).save(source / "real/new.png")
    options = small_options(out, **given, extend=True, retry_failed=True)
    plan = resolve(options).plan
    assert [(segment.cause, segment.num_rows) for segment in plan.segments] == [
        ("build", 3),
        ("extend", 1),
        ("retry", 1),
    ]
    begin_changes(out)
    write_plan(out, plan)  # and killed
    assert resolve(options).plan.document() == plan.document()
    build_here(options)
    assert [segment.cause for segment in resolve(options).plan.segments] == ["build", "extend", "retry", "retry"]
