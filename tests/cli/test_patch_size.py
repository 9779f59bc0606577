"""Noise patches of other sizes from the command that builds them to the ones that train, evaluate and attribute."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from support import build
from support import fit as fit_tiny

from bmrl.cli import attribute
from bmrl.cli import eval as evaluate
from bmrl.model.runs.attribute import inference_batch
from bmrl.model.runs.folder import load_attributor
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.views.image import ImageParams

Invoke = Callable[..., Result]
NO_TEXT = ("--set", "model.text=0", "--set", "losses.cmc=0", "--set", "losses.kl=0")


def fit(shards: Path, out: Path, *options: Any) -> Result:
    return fit_tiny(shards, out, *NO_TEXT, *options)


@pytest.fixture(scope="module")
def root56(small_root: Path, small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shard set whose noise column the command replaced by patches of 56 pixels."""
    root = shutil.copytree(small_root, tmp_path_factory.mktemp("shards") / "56")
    maps = f"maps:bisenet:{small_source.with_name('maps')}"
    done = build(small_source, root, "--parser", maps, "--replace", "noise", "--patch-size", 56, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "7 columns of shards written" in done.stdout
    return root


@pytest.fixture(scope="module")
def runs(
    root56: Path, small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Patch size -> a run of one epoch under the small protocol."""
    folder = tmp_path_factory.mktemp("runs")
    for size, root in ((56, root56), (112, small_root)):
        result = fit(root, folder / str(size), "--protocol", small_protocol)
        assert result.exit_code == 0, result.output
    return {size: folder / str(size) for size in (56, 112)}


def test_a_run_takes_the_size_of_its_shards(runs: dict[int, Path]) -> None:
    for size, run in runs.items():
        _, model = load_attributor(run, torch.device("cpu"))
        assert model.config.model.patch_size == size
        weights: Any = model.state_dict()
        # p is halved three times; the whole map of 4 channels is one token
        assert tuple(weights["visual.noise.transformer.project.weight"].shape) == (16, 4 * (size // 8) ** 2)


def test_evaluated_on_shards_of_its_size(invoke: Invoke, runs: dict[int, Path], root56: Path, tmp_path: Path) -> None:
    result = invoke(evaluate.main, runs[56], "--shards", root56, "--out", tmp_path, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["seen"]["n"] == 9 and document["data"]["is_training_root"] is True
    assert (tmp_path / "report.html").is_file()


def test_attributed_as_the_shards_are(invoke: Invoke, runs: dict[int, Path], root56: Path, small_source: Path) -> None:
    rows = ShardSet.open(root56).select(split="test")
    run, model = load_attributor(runs[56], torch.device("cpu"))
    (batch,) = rows.loader(views=model.inference_views, batch_size=13, shuffle=False)
    assert tuple(batch["noise"].shape) == (13, 3, 56, 56)
    with torch.no_grad():
        expected = model.logits(batch).double().softmax(dim=1)
    images = [small_source / path for path in rows.index["source_path"].to_pylist()]
    result = invoke(attribute.main, runs[56], *images, "--json", "--device", "cpu")
    assert result.exit_code == 0
    for answer, shares in zip(json.loads(result.stdout)["images"], expected.tolist(), strict=True):
        assert answer["probabilities"] == pytest.approx(dict(zip(run.classes, shares, strict=True)), abs=1e-6)


def test_attributed_under_the_resize_kernel_of_the_shards(invoke: Invoke, small_source: Path, tmp_path: Path) -> None:
    root, run_folder = tmp_path / "shards", tmp_path / "run"
    assert build(small_source, root, "--views", "image", "--resize", "area", "--workers", 1).returncode == 0
    options = ("--set", "model.views=image", "--set", "model.parsing=0", "--set", "losses.cpc=0")
    result = fit(root, run_folder, *options)
    assert result.exit_code == 0, result.output
    rows = ShardSet.open(root).select(split="test")
    run, model = load_attributor(run_folder, torch.device("cpu"))
    assert run.data["params"]["image"]["resize"] == "area"
    (batch,) = rows.loader(views=("image",), batch_size=len(rows), shuffle=False)
    images = [small_source / path for path in rows.index["source_path"].to_pylist()]
    made = [inference_batch(p.read_bytes(), model, ImageParams(**run.data["params"]["image"]))["image"] for p in images]
    assert torch.equal(torch.cat(made), batch["image"])
    default = [inference_batch(path.read_bytes(), model, ImageParams())["image"] for path in images]
    assert not torch.equal(torch.cat(default), batch["image"])
    with torch.no_grad():
        expected = model.logits(batch).double().softmax(dim=1)
    result = invoke(attribute.main, run_folder, *images, "--json", "--device", "cpu")
    for answer, shares in zip(json.loads(result.stdout)["images"], expected.tolist(), strict=True):
        assert answer["probabilities"] == pytest.approx(dict(zip(run.classes, shares, strict=True)), abs=1e-6)


@pytest.mark.parametrize(("trained", "stored"), [(56, 112), (112, 56)])
def test_shards_of_another_size_are_wrong_use(
    trained: int, stored: int, invoke: Invoke, runs: dict[int, Path], root56: Path, small_root: Path, tmp_path: Path
) -> None:
    root = {56: root56, 112: small_root}[stored]
    result = invoke(evaluate.main, runs[trained], "--shards", root, "--out", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: the run was trained on noise patches of {trained} pixels, {root} holds patches of {stored}; "
        f"use a shard set built with --patch-size {trained}\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["patch_size", "model.patch_size"])
def test_another_size_than_the_shards_cannot_be_set(key: str, root56: Path, tmp_path: Path) -> None:
    """Not 112 either, though that is every preset's: it would be trained at 56 without a word."""
    result = fit(root56, tmp_path / "run", "--set", f"{key}=112")
    assert result.exit_code == 2 and not (tmp_path / "run").exists()
    assert result.stderr == f"error: model.patch_size 112: {root56} holds noise patches of 56 pixels\n"


def test_shards_without_the_column(
    small_options: Callable[..., BuildOptions],
    build_here: Callable[[BuildOptions], Path],
    invoke: Invoke,
    runs: dict[int, Path],
    tmp_path: Path,
) -> None:
    root = build_here(small_options(tmp_path / "root", views=("image", "edge"), splits=("test",), parser=None))
    result = invoke(evaluate.main, runs[56], "--shards", root, "--out", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    assert result.stderr == (
        f"error: {root} has no view 'noise', which the run reads; add it with `bmrl-prep build --views noise`\n"
    )


def test_resumed_on_another_size(runs: dict[int, Path], small_root: Path, small_protocol: str) -> None:
    result = fit(small_root, runs[56], "--protocol", small_protocol, "--resume")
    assert result.exit_code == 2 and "(model.patch_size: 56, asked for 112)" in result.stderr


def test_without_the_noise_encoder_any_size_will_do(
    invoke: Invoke, root56: Path, small_root: Path, small_protocol: str, small_source: Path, tmp_path: Path
) -> None:
    result = fit(root56, tmp_path / "run", "--protocol", small_protocol, "--set", "model.views=image")
    assert result.exit_code == 0, result.output
    done = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--json", "--device", "cpu")
    assert done.exit_code == 0 and json.loads(done.stdout)["seen"]["n"] == 9
    image = sorted((small_source / "test").rglob("*.png"))[0]
    assert invoke(attribute.main, tmp_path / "run", image, "--device", "cpu").exit_code == 0


def test_what_the_noise_backbone_can_halve(
    small_options: Callable[..., BuildOptions],
    build_here: Callable[[BuildOptions], Path],
    invoke: Invoke,
    tmp_path: Path,
) -> None:
    """Preset demo halves three times: 32 -> 4 trains, 4 is refused in one sentence before RUN is made."""
    views = ("image", "edge", "noise")
    roots = {
        size: build_here(small_options(tmp_path / str(size), patch_size=size, views=views, parser=None))
        for size in (32, 4)
    }
    whole = ("--set", "model.parsing=0", "--set", "losses.cpc=0")
    result = fit(roots[32], tmp_path / "run", *whole)
    assert result.exit_code == 0, result.output
    done = invoke(evaluate.main, tmp_path / "run", "--shards", roots[32], "--json", "--device", "cpu")
    assert done.exit_code == 0 and json.loads(done.stdout)["seen"]["n"] == 13
    refused = fit(roots[4], tmp_path / "refused", *whole)
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"error: {roots[4]} holds noise patches of 4 pixels: model.noise_widths (4, 4, 4) halve 4 pixels to nothing; "
        "8 or more are needed\n"
    )
    assert not (tmp_path / "refused").exists()
