"""bmrl-prep's smaller commands, and refusals that come before any work starts, through main in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from click.testing import Result
from PIL import Image

import bmrl.pipeline.build.space as space_module
from bmrl.cli.prep import main
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.store.local import remove_temporaries

Invoke = Callable[..., Result]


def build(invoke: Invoke, source: Path, out: Path, *options: Any) -> Result:
    maps = f"maps:bisenet:{source.with_name('maps')}"
    return invoke(
        main,
        "build",
        "--dataset",
        "folder",
        "--root",
        source,
        "--out",
        out,
        "--shard-size",
        8,
        "--parser",
        maps,
        *options,
    )


def content(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and ".log" not in path.parts
    }


def test_less_free_space_than_the_estimate(
    invoke: Invoke, small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_module, "free_bytes", lambda folder: 1_000_000)
    result = build(invoke, small_source, tmp_path / "out")
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()[-1:]
    assert line.startswith("error: the build needs about 0.02 GB and") and "has 0.00 GB free" in line
    assert not (tmp_path / "out/plan.json").exists()


def test_an_overwrite_without_room_destroys_nothing(
    invoke: Invoke, small_source: Path, small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old set's own bytes count as room, but for a file that has a second name elsewhere."""
    before = content(small_copy)
    room = 200_000  # less than the estimate is above what 50 samples take
    monkeypatch.setattr(space_module, "free_bytes", lambda folder: room)
    os.link(small_copy / "image/000000.tar", small_copy.with_name("second"))
    result = build(invoke, small_source, small_copy, "--overwrite")
    assert result.exit_code == 1 and "error: the build needs about 0.02 GB and" in result.stderr
    assert content(small_copy) == before
    used = sum(len(data) for data, _ in before.values())
    used += sum(file.stat().st_size for file in (small_copy / ".log").iterdir())
    linked = (small_copy / "image/000000.tar").stat().st_size
    assert space_module.used_bytes(small_copy) == used - linked


def test_a_dry_run_of_an_overwrite_counts_everything(invoke: Invoke, small_source: Path, small_copy: Path) -> None:
    result = build(invoke, small_source, small_copy, "--dry-run")
    assert "0 of them to write" in result.stdout
    result = build(invoke, small_source, small_copy, "--dry-run", "--overwrite")
    assert "shards: 7 of at most 8 samples, 7 of them to write" in result.stdout


def test_a_complete_set_is_left_alone(invoke: Invoke, small_source: Path, small_copy: Path) -> None:
    before = content(small_copy)
    result = build(invoke, small_source, small_copy)
    assert result.exit_code == 0 and "0 columns of shards written" in result.stdout
    assert content(small_copy) == before


@pytest.mark.parametrize("name", ["plan.parquet", "index.parquet", "failures.parquet", "dataset.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_a_build_writes_damaged_tables_again(
    name: str, damage: str, invoke: Invoke, small_source: Path, small_root: Path, small_copy: Path
) -> None:
    file = small_copy / name
    data = bytearray(file.read_bytes())
    data[data.index(b"index.parquet") - 3 if name == "SHA256SUMS" else len(data) // 3] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flipped" else data[:-1])
    result = build(invoke, small_source, small_copy)
    if name == "plan.parquet":  # which sample stands where is in no other file
        assert result.exit_code == 2 and "restore" in result.stderr
        file.write_bytes((small_root / name).read_bytes())
    else:
        assert result.exit_code == 0 and "0 columns of shards written" in result.stdout
    assert invoke(main, "verify", small_copy).exit_code == 0
    assert support.content(small_copy) == support.content(small_root)


@pytest.mark.parametrize(
    "options", [("--root", "nowhere"), ("--resize", "nope"), ("--parser", "nope.pth"), ("--splits", "nope")]
)
def test_a_refused_overwrite_destroys_nothing(
    options: tuple[str, str], invoke: Invoke, small_source: Path, small_copy: Path
) -> None:
    before = content(small_copy)
    result = build(invoke, small_source, small_copy, "--overwrite", *options)
    assert result.exit_code in (1, 2) and "error: " in result.stderr
    assert content(small_copy) == before


def test_a_refused_folder_is_left_as_it_is(invoke: Invoke, small_source: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    (out / "drafts").mkdir(parents=True)
    for name in ("thesis.txt", ".tmp-thesis.txt", "drafts/.tmp-1"):
        (out / name).write_text(name)
    before = content(out)
    result = build(invoke, small_source, out)
    assert result.exit_code == 2 and "is not empty and holds no shard set" in result.stderr
    assert content(out) == before


def test_an_overwrite_deletes_nothing_but_a_builds_files(invoke: Invoke, small_source: Path, tmp_path: Path) -> None:
    """image, edge, noise, parsing and text are names that a folder of photographs has, too."""
    out = tmp_path / "mine"
    (out / "image").mkdir(parents=True)
    for name in ("image/000000.tar", "image/holiday.jpg"):
        (out / name).write_text(name)
    before = content(out)
    result = build(invoke, small_source, out, "--overwrite")
    assert result.exit_code == 2 and "--overwrite would delete 'image/holiday.jpg'" in result.stderr
    assert content(out) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seed", 3), "seed: the plan has 0, asked for 3"),
        (("--limit", 2), "limit: the plan has 0, asked for 2"),
        (("--splits", "train"), "splits: the plan has"),
        (("--codec", "png"), "--replace image --replace edge --replace noise --replace parsing"),
        (("--patch-size", 56), "view noise: the plan has patch_size 112, asked for 56"),
        (("--resize", "area"), "view image: the plan has resize 'bilinear', asked for 'area'"),
    ],
)
def test_other_settings_than_the_plans_are_named(
    options: tuple[Any, ...], words: str, invoke: Invoke, small_source: Path, small_copy: Path
) -> None:
    before = content(small_copy)
    result = build(invoke, small_source, small_copy, *options)
    assert result.exit_code == 2 and words in result.stderr
    assert content(small_copy) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--views", ""), "--views names nothing; known are image, edge"),
        (("--views", ","), "--views names nothing"),
        (("--splits", " "), "--splits names nothing; known are train, val, test"),
        (("--replace", "nosie"), "unknown --replace 'nosie'; known are image, edge"),
        (("--resize", ""), "unknown --resize ''"),
    ],
)
def test_an_option_that_names_nothing_is_wrong_use(
    options: tuple[str, str], words: str, invoke: Invoke, small_source: Path, small_copy: Path
) -> None:
    before = content(small_copy)
    result = build(invoke, small_source, small_copy, *options)
    assert result.exit_code == 2 and words in result.stderr
    assert content(small_copy) == before


def test_the_order_of_splits_says_nothing(invoke: Invoke, small_source: Path, small_copy: Path) -> None:
    result = build(invoke, small_source, small_copy, "--splits", "test,val,train,val")
    assert result.exit_code == 0 and "0 columns of shards written" in result.stdout


def test_a_replacement_of_the_same_settings_is_said(invoke: Invoke, small_source: Path, small_copy: Path) -> None:
    result = build(invoke, small_source, small_copy, "--replace", "noise", "--replace", "edge")
    assert result.exit_code == 0 and "0 columns of shards written" in result.stdout
    assert "warning: --replace edge, noise: the plan has these settings already\n" in result.stderr


def test_a_parser_that_is_not_used_is_said(small_options: Any, tmp_path: Path) -> None:
    intake = resolve(small_options(tmp_path / "out", views=("image",), parser="nope.pth"))
    assert "--parser and --parser-engine are of the parsing view, which is not built here" in intake.walk.warnings


def test_a_drawing_replaces_nobodys_files(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole PNG at the place of a drawn face would have been taken for it, any other file replaced."""
    mine = tmp_path / "shards-source"
    mine.mkdir()
    (mine / "train").write_text("mine")
    (tmp_path / "shards").mkdir()
    monkeypatch.chdir(tmp_path / "shards")
    result = invoke(main, "build", "--dataset", "demo", "--out", ".", "--workers", 1)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {mine} holds 'train' and no drawing")
    assert [path.name for path in mine.iterdir()] == ["train"]
    result = invoke(main, "build", "--dataset", "demo", "--out", "x", "--root", mine / "train", "--workers", 1)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"error: cannot draw into {mine / 'train'}: File exists"


@pytest.mark.parametrize("temporary", [None, ".tmp-1-plan.parquet", ".tmp-1-plan.json"])
def test_a_build_that_was_killed_while_it_wrote_the_plan(
    temporary: str | None, small_options: Any, build_here: Any, small_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / ".log").mkdir(parents=True)
    if temporary:
        (out / temporary).write_bytes(b"half")
    if temporary != ".tmp-1-plan.parquet":
        (out / "plan.parquet").write_bytes(b"of an older run")
    build_here(small_options(out))
    remove_temporaries(out)
    assert support.content(out) == support.content(small_root)


def test_other_labels_than_the_plans_are_named(
    invoke: Invoke, small_source: Path, small_copy: Path, tmp_path: Path
) -> None:
    """The build of a folder that is in no taxonomy says: name it with --generators."""
    before = content(small_copy)
    (tmp_path / "mine.yaml").write_text("mystery: {kind: FS, family: GAN}\n")
    result = build(invoke, small_source, small_copy, "--generators", tmp_path / "mine.yaml")
    assert result.exit_code == 2
    assert (
        "mystery/Face test0.png changed its kind (it was 'unknown', now 'FS'), family (it was 'unknown', now 'GAN'); "
    ) in result.stderr
    assert content(small_copy) == before


def test_a_licence_that_is_worded_anew_is_said(
    invoke: Invoke, small_options: Any, build_here: Any, tmp_path: Path
) -> None:
    source = support.write_faces(tmp_path / "source", {"real": 2})
    rows = "path,generator,licence\nreal/000.png,real,{}\nreal/001.png,real,CC0\n"
    (source / "manifest.csv").write_text(rows.format("CC BY"))
    options = {"dataset": "manifest", "source_root": source, "views": ("image",), "parser": None}
    out = build_here(small_options(tmp_path / "out", **options))
    (source / "manifest.csv").write_text(rows.format("CC BY 4.0"))
    result = invoke(main, "build", "--dataset", "manifest", "--root", source, "--out", out)
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: 1 planned sources changed, the shard set keeps what was planned (--overwrite starts anew): real/000.png "
        "changed its licence (it was 'CC BY', now 'CC BY 4.0')\n"
    )


def test_verify_names_each_file_and_exits_1(
    invoke: Invoke, small_source: Path, small_root: Path, small_copy: Path
) -> None:
    sound = invoke(main, "verify", small_root, "--deep")
    assert sound.exit_code == 0 and "image and parsing need --root" in sound.stdout
    tar = small_copy / "noise/000001.tar"
    data = bytearray(tar.read_bytes())
    data[70_000] ^= 1
    tar.write_bytes(data)
    shallow = invoke(main, "verify", small_copy)
    assert shallow.exit_code == 0, "without --deep payloads are not hashed"
    (small_copy / "edge/000000.tar").unlink()
    (small_copy / "stray.txt").write_text("x")
    result = invoke(main, "verify", small_copy, "--deep")
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        "edge/000000.tar",
        "noise/000001.tar",
        "stray.txt",
    ]
    assert "3 damaged, missing or extra files" in result.stderr


def test_verify_deep_derives_images_from_their_sources(
    invoke: Invoke, small_source: Path, small_options: Any, build_here: Any, tmp_path: Path
) -> None:
    root = tmp_path / "source"
    for number in range(3):
        (root / "test/real").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 100), (number, 80, 160)).save(root / f"test/real/{number}.png")
    out = build_here(small_options(tmp_path / "out", source_root=root, views=("image", "edge"), parser=None))
    assert invoke(main, "verify", out, "--deep", "--root", root).exit_code == 0
    for number in range(3):
        Image.new("RGB", (100, 100), (200, number, 60)).save(root / f"test/real/{number}.png")
    result = invoke(main, "verify", out, "--deep", "--root", root)
    assert result.exit_code == 1 and result.stdout.startswith("image/000000.tar: sample")


def test_info_is_one_json_document(invoke: Invoke, small_root: Path) -> None:
    result = invoke(main, "info", small_root, "--json")
    document = json.loads(result.stdout)
    assert document["samples"] == 50 and document["per_split"] == {"train": 29, "val": 8, "test": 13}
    assert document["root_digest"] == ShardSet.open(small_root).root_digest
    assert set(document["views"]) == {"image", "edge", "noise", "parsing", "text"}
    assert "mystery" in invoke(main, "info", small_root).stdout


def test_head_shows_samples_and_a_grid(invoke: Invoke, small_root: Path, tmp_path: Path) -> None:
    listed = invoke(main, "head", small_root, "-n", 3)
    keys = ShardSet.open(small_root).index["key"].to_pylist()[:3]
    assert listed.exit_code == 0 and all(key in listed.stdout for key in keys)
    assert invoke(main, "head", small_root, "-n", 2, "--grid", tmp_path / "grid.png").exit_code == 0
    with Image.open(tmp_path / "grid.png") as image:
        assert image.width >= 4 * 112 and image.height >= 2 * 112


def test_a_grid_of_no_samples(invoke: Invoke, small_options: Any, build_here: Any, tmp_path: Path) -> None:
    (tmp_path / "source/real").mkdir(parents=True)
    (tmp_path / "source/real/broken.png").write_bytes(b"no image")
    options = {"source_root": tmp_path / "source", "views": ("image",), "parser": None}
    out = build_here(small_options(tmp_path / "out", **options))
    result = invoke(main, "head", out, "--grid", tmp_path / "grid.png")
    assert result.exit_code == 1
    assert result.stderr == f"error: {out} has no samples to show; failures.parquet says why they were dropped\n"


def test_datasets_are_listed_with_licence_and_layout(invoke: Invoke) -> None:
    result = invoke(main, "datasets")
    assert result.exit_code == 0
    for words in ("demo\n", "folder\n", "manifest\n", "licence:", "layout:", "obtain:"):
        assert words in result.stdout
