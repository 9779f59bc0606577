"""Noise patches of other sizes than 112: exact values under both codecs, reading, verification, replacement."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from skimage.feature import graycomatrix, graycoprops
from support import content

from bmrl.cli.prep import main
from bmrl.pipeline import ShardSet
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.build.space import estimate_bytes
from bmrl.pipeline.describe.card import write_card
from bmrl.pipeline.describe.info import describe
from bmrl.pipeline.describe.preview import view_pictures
from bmrl.pipeline.export.tars import export_tars
from bmrl.pipeline.loading import reader
from bmrl.pipeline.loading.reader import ColumnReader
from bmrl.pipeline.shards.plan import PlanError, read_plan
from bmrl.pipeline.shards.tars import DamagedShardError, read_sidecar
from bmrl.pipeline.shards.verify import verify
from bmrl.pipeline.views.noise import KERNELS

Options = Callable[..., BuildOptions]
Build = Callable[[BuildOptions], Path]
VIEWS = ("image", "edge", "noise", "parsing")
CODECS = {56: "raw", 64: "png"}  # 64 leaves a rim of 32 pixels that is in no patch


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, small_options: Options, build_here: Build) -> dict[int, Path]:
    """Patch size -> shard set of the small source, all views. Read them only."""
    folder = tmp_path_factory.mktemp("patches")
    return {
        size: build_here(small_options(folder / str(size), patch_size=size, codec=codec))
        for size, codec in CODECS.items()
    }


@pytest.fixture
def copy56(roots: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reader, "_checked", set())  # as in a fresh process
    return shutil.copytree(roots[56], tmp_path / "copy56")


def gray_of(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """trunc(255 * (0.2989 R + 0.587 G + 0.114 B)) in float32 on RGB / 255."""
    unit = rgb.astype(np.float32) / np.float32(255)
    gray = np.float32(0.2989) * unit[..., 0] + np.float32(0.587) * unit[..., 1] + np.float32(0.114) * unit[..., 2]
    return np.trunc(gray * np.float32(255)).astype(np.uint8)


def residual_of(patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The clipped SRM numerators in integers, (3, p, p)."""
    size = patch.shape[0]
    padded = np.pad(patch.astype(np.int64).sum(axis=2), 2)
    residual = np.zeros((3, size, size), dtype=np.int64)
    for k, kernel in enumerate(KERNELS):
        for (i, j), weight in np.ndenumerate(kernel):
            residual[k] += weight * padded[i : i + size, j : j + size]
        limit = 3 * 255 * (4, 12, 2)[k]
        residual[k] = residual[k].clip(-limit, limit)
    return residual


@pytest.mark.parametrize("size", CODECS)
def test_what_is_stored_is_the_plain_reference(size: int, roots: dict[int, Path]) -> None:
    rows = ShardSet.open(roots[size]).select(split="test")
    per_side = 224 // size
    places = set()
    (batch,) = rows.loader(views=VIEWS, batch_size=13, shuffle=False)
    assert tuple(batch["noise"].shape) == (13, 3, size, size)
    for image, stored, row in zip(batch["image"], batch["noise"], rows.index.to_pylist(), strict=True):
        rgb = image.permute(1, 2, 0).numpy()
        gray, scores = gray_of(rgb), []
        corners = [(top, left) for top in range(0, 225 - size, size) for left in range(0, 225 - size, size)]
        for top, left in corners:
            tile = gray[top : top + size, left : left + size]
            glcm = graycomatrix(tile, [1], [0], 256, symmetric=True, normed=True)
            scores.append(float(graycoprops(glcm, "homogeneity")[0, 0]))
        assert len(row["patch_scores"]) == len(scores) == per_side**2
        assert np.abs(np.array(row["patch_scores"]) - scores).max() <= 1e-9
        best = int(np.argmin(scores))
        assert (row["patch_row"], row["patch_col"]) == divmod(best, per_side)
        top, left = corners[best]
        assert np.array_equal(stored.numpy(), residual_of(rgb[top : top + size, left : left + size]))
        places.add(best)
    assert len(places) > 4, "the pictures must differ in their richest patch"


def test_dataset_json_says_the_size_and_nothing_else_changes(roots: dict[int, Path], small_root: Path) -> None:
    usual, other = (json.loads((root / "dataset.json").read_bytes())["views"] for root in (small_root, roots[56]))
    changed = {key for key in usual["noise"] if usual["noise"][key] != other["noise"][key]}
    assert changed == {"params", "shape", "digest", "probe"}
    assert usual["noise"]["shape"] == [3, 112, 112] and other["noise"]["shape"] == [3, 56, 56]
    assert usual["noise"]["params"] == {"patch_size": 112, "clip": 3}
    assert other["noise"]["params"] == {"patch_size": 56, "clip": 3}
    assert {view: usual[view] for view in usual if view != "noise"} == {
        view: other[view] for view in other if view != "noise"
    }


@pytest.mark.parametrize("size", CODECS)
def test_verify_deep_and_a_reader_of_another_size(size: int, roots: dict[int, Path], small_set: ShardSet) -> None:
    assert verify(roots[size], deep=True) == []
    shard_set = ShardSet.open(roots[size])
    foreign = ColumnReader(
        roots[size], small_set.plans["noise"], shard_set.shard_names, sums=shard_set.sums, check="never"
    )
    row = shard_set.index.to_pylist()[0]
    with pytest.raises(DamagedShardError, match=r"noise/000000\.json is of another build"):
        foreign.gather(np.empty((1, *foreign.shape), "<i2"), np.array([0]), np.array([0]), [row["key"]])


def test_damage_is_found(copy56: Path) -> None:
    tar = copy56 / "noise/000001.tar"
    data = bytearray(tar.read_bytes())
    data[30_000] ^= 1
    tar.write_bytes(data)
    assert [(damage.path, damage.problem) for damage in verify(copy56, deep=True)] == [
        ("noise/000001.tar", "damaged: its sha256 is not the sidecar's")
    ]
    with pytest.raises(DamagedShardError, match=r"noise/000001\.tar is damaged: xxh3"):
        list(ShardSet.open(copy56).loader(views=["noise"], batch_size=8, shuffle=False))


def test_the_column_of_another_size_is_no_substitute(copy56: Path, small_root: Path) -> None:
    for suffix in ("tar", "json"):
        shutil.copy(small_root / f"noise/000001.{suffix}", copy56 / f"noise/000001.{suffix}")
    assert ("noise/000001.json", "its content is not what SHA256SUMS says") in {
        (damage.path, damage.problem) for damage in verify(copy56)
    }
    with pytest.raises(DamagedShardError, match=r"noise/000001\.json is not the one that SHA256SUMS lists"):
        list(ShardSet.open(copy56).loader(views=["noise"], batch_size=8, shuffle=False))


def test_another_size_than_the_plans_is_refused(copy56: Path, small_options: Options) -> None:
    before = read_plan(copy56)
    assert before is not None
    assert resolve(small_options(copy56)).plan.document() == before.document(), "not given: as the plan has it"
    assert resolve(small_options(copy56, patch_size=56)).is_new is False
    with pytest.raises(PlanError, match=r"view noise: the plan has patch_size 56, asked for 64\..*--replace noise"):
        resolve(small_options(copy56, patch_size=64))
    assert resolve(small_options(copy56, overwrite=True)).plan.views["noise"].params["patch_size"] == 112


def test_a_plan_without_its_size_is_damaged(copy56: Path) -> None:
    document = json.loads((copy56 / "plan.json").read_bytes())
    for size in (None, "56", 57):
        document["views"]["noise"]["params"] = {"clip": 3} if size is None else {"clip": 3, "patch_size": size}
        (copy56 / "plan.json").write_text(json.dumps(document))
        with pytest.raises(PlanError, match=r"damaged|do not belong together"):
            read_plan(copy56)


def test_replacing_the_column_there_and_back(
    roots: dict[int, Path], small_root: Path, small_copy: Path, small_options: Options, build_here: Build
) -> None:
    """To 56: what a fresh build at 56 writes, and no other column is touched. Back: every byte as before."""
    before = {path: path.stat().st_mtime_ns for path in small_copy.rglob("*.tar")}
    build_here(small_options(small_copy, patch_size=56, replace=("noise",)))
    assert {path.parent.name for path in before if path.stat().st_mtime_ns != before[path]} == {"noise"}
    assert content(small_copy) == content(roots[56])
    build_here(small_options(small_copy, patch_size=112, replace=("noise",)))
    assert content(small_copy) == content(small_root)


def test_a_copy_of_links_shares_every_other_column(
    roots: dict[int, Path], small_root: Path, small_options: Options, build_here: Build, tmp_path: Path
) -> None:
    """`cp -al ROOT COPY`, then --replace noise: how the sizes are compared without storing the images twice."""
    before = content(small_root)
    copy = shutil.copytree(small_root, tmp_path / "linked", copy_function=os.link)
    build_here(small_options(copy, patch_size=56, replace=("noise",)))
    assert content(copy) == content(roots[56]) and content(small_root) == before
    for view, is_shared in {"image": True, "edge": True, "parsing": True, "text": True, "noise": False}.items():
        assert (copy / view / "000000.tar").samefile(small_root / view / "000000.tar") is is_shared
    assert ShardSet.open(copy).digest == ShardSet.open(small_root).digest, "the same samples in the same order"


@pytest.mark.parametrize("size", [2, 224])
def test_the_smallest_and_the_largest(size: int, small_options: Options, build_here: Build, tmp_path: Path) -> None:
    out = build_here(
        small_options(tmp_path / "out", patch_size=size, views=("image", "noise"), splits=("val",), parser=None)
    )
    rows = ShardSet.open(out)
    (batch,) = rows.loader(views=("image", "noise"), batch_size=8, shuffle=False)
    for image, stored, row in zip(batch["image"], batch["noise"], rows.index.to_pylist(), strict=True):
        rgb = image.permute(1, 2, 0).numpy()
        gray, count = gray_of(rgb).astype(np.float64), 224 // size
        tiles = gray.reshape(count, size, count, size)  # (rows, size, cols, size)
        scores = (1 / (1 + np.diff(tiles, axis=3) ** 2)).mean(axis=(1, 3)).ravel()
        assert np.abs(np.array(row["patch_scores"]) - scores).max() <= 1e-12
        found = count * row["patch_row"] + row["patch_col"]
        assert found == int(np.argmin(row["patch_scores"])) and scores[found] <= scores.min() + 1e-12
        top, left = size * row["patch_row"], size * row["patch_col"]
        assert np.array_equal(stored.numpy(), residual_of(rgb[top : top + size, left : left + size]))
    assert verify(out, deep=True) == []


def test_the_estimate_counts_array_and_scores(roots: dict[int, Path], small_set: ShardSet) -> None:
    """An estimate lies above what the column really takes, and not far above."""
    for root in (*roots.values(), small_set.root):
        shard_set = ShardSet.open(root)
        estimate = estimate_bytes(shard_set.plans)["noise"] * len(shard_set)
        found = sum(path.stat().st_size for path in (root / "noise").iterdir())
        assert found * 0.9 < estimate < found * 1.1


def test_the_dry_run_tells_the_size_of_this_column(small_options: Options, invoke: Callable[..., Result]) -> None:
    options = small_options(Path("unused"))
    lines = {}
    for size in (56, 112):
        done = invoke(
            main, "build", "--dataset", "folder", "--root", options.source_root, "--out", f"/nowhere/{size}",
            "--views", "image,noise", "--patch-size", size, "--dry-run",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        lines[size] = next(line.split() for line in done.output.splitlines() if line.startswith("noise "))
    assert lines == {56: ["noise", "3", "shards", "1.0", "MB"], 112: ["noise", "3", "shards", "3.8", "MB"]}


def test_pictures_fill_their_cell(roots: dict[int, Path], small_set: ShardSet) -> None:
    for size, shard_set in ((56, ShardSet.open(roots[56])), (112, small_set)):
        (views,) = view_pictures(shard_set, [3])
        times = 224 // size
        assert np.array_equal(views["noise"], views["noise"][::times, ::times].repeat(times, 0).repeat(times, 1))
        assert views["noise"].shape == (224, 224, 3) and views["noise"].dtype == np.uint8
    shard_set = ShardSet.open(roots[64])
    (views,) = view_pictures(shard_set, [3])
    assert views["noise"].shape == (224, 224, 3)
    (batch,) = shard_set.take(np.array([3])).loader(views=["noise"], batch_size=1, shuffle=False)
    for y, x in ((0, 0), (3, 4), (100, 51), (223, 220)):  # 3.5 pixels of the cell show one of the 64
        stored = batch["noise"][0, :, int(y / 3.5), int(x / 3.5)].tolist()
        shown = [127.5 + 127.5 * 8 * value / (255 * divisor) for value, divisor in zip(stored, (4, 12, 2), strict=True)]
        assert views["noise"][y, x].tolist() == [int(min(max(value, 0), 255)) for value in shown]


def test_exported_and_described(roots: dict[int, Path], tmp_path: Path) -> None:
    shard_set = ShardSet.open(roots[64])
    export_tars(shard_set, ("noise",), tmp_path / "tars")
    sidecar = read_sidecar(shard_set.root, "noise", "000000")
    assert sidecar is not None
    assert (tmp_path / "tars/000000.tar").stat().st_size >= sidecar["num_samples"] * (3 * 64 * 64 * 2 + 512)
    info = describe(shard_set)
    assert info["views"]["noise"]["params"]["patch_size"] == 64
    assert "int16 (3, 64, 64): SRM residual" in write_card(shard_set, info, tmp_path / "card").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--patch-size", 1), "1 is not in the range 2<=x<=224"),
        (("--patch-size", 225), "225 is not in the range 2<=x<=224"),
        (("--patch-size", "56.5"), "'56.5' is not a valid integer range"),
        (
            ("--patch-size", 56, "--views", "image,edge"),
            "--patch-size 56 is of the noise view, which is not built here",
        ),
    ],
)
def test_wrong_use_exits_2(
    options: tuple[Any, ...], words: str, invoke: Callable[..., Result], small_source: Path, tmp_path: Path
) -> None:
    done = invoke(main, "build", "--dataset", "folder", "--root", small_source, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2 and words in done.stderr
    assert not (tmp_path / "out/plan.json").exists()
