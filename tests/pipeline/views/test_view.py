"""What a record says of its view; and a view from outside the package, which is built, verified, loaded and pictured."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support import content

from bmrl.pipeline.build.build import build
from bmrl.pipeline.build.options import BuildOptions, RunSettings
from bmrl.pipeline.describe.preview import write_grid
from bmrl.pipeline.shards.tars import read_sidecar
from bmrl.pipeline.shards.verify import Damage, verify
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.views import VIEWS, image
from bmrl.pipeline.views.codec import NPY, PNG
from bmrl.pipeline.views.column import default_array
from bmrl.pipeline.views.parsing import FLIPPED_CLASSES
from bmrl.pipeline.views.view import Computed, Params, Sample, View, gray_picture, rows_view

Options = Callable[..., BuildOptions]


def brightness(reads: str) -> View:
    """The brightness of an image in blocks of 4 pixels; all it needs stands inside, so that it goes to workers by value."""

    @dataclass(frozen=True, kw_only=True)
    class BrightnessParams:
        block: int = 4

    def array(params: Params) -> dict[str, Any]:
        side = 224 // params["block"]
        return {"dtype": "uint8", "shape": [side, side], "scale": 255, "unit": "mean of R, G and B in [0, 1]"}

    def blocks(rgb: Any, block: int) -> Any:
        side = 224 // block
        return rgb.reshape(side, block, side, block, 3).mean(axis=(1, 3, 4)).astype(np.uint8)

    def compute(sample: Sample, params: BrightnessParams) -> Computed:
        rgb = sample.image if reads == "image" else image.compute_image(sample.source)  # type: ignore[arg-type]
        value = blocks(rgb, params.block)
        return Computed(value=value, facts={"brightest": int(value.max())})

    def probe(params: BrightnessParams) -> bytes:
        return bytes(blocks(np.arange(224 * 224 * 3).reshape(224, 224, 3) % 256, params.block).tobytes())

    def picture(stored: Any) -> Any:
        return gray_picture(np.repeat(np.repeat(stored[0], 4, 0), 4, 1))

    def arrange(stored: Any) -> Any:
        return stored[:, None]  # (B, H, W) -> (B, 1, H, W)

    return View(
        name="brightness", version=1, reads=reads, params=BrightnessParams, picture=picture, compute=compute, probe=probe,
        array=array, codecs={"raw": NPY, "png": PNG}, facts={"brightest": "int16"}, arrange=arrange,
    )  # type: ignore[arg-type]  # fmt: skip


def run(options: BuildOptions, workers: int) -> Path:
    build(options, RunSettings(workers=workers), on_progress=lambda p: None, on_message=lambda m: None)
    return options.out


@pytest.mark.parametrize("codec", ["raw", "png"])
def test_a_view_from_outside_is_built_verified_loaded_and_pictured(
    codec: str, small_source: Path, small_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VIEWS, "brightness", brightness("image"))
    views = ("image", "brightness", "text")
    here = run(small_options(tmp_path / "here", views=views, codec=codec), workers=0)
    ray = run(small_options(tmp_path / "ray", views=views, codec=codec), workers=2)
    assert content(here) == content(ray)
    assert verify(here) == [] and verify(here, deep=True, source_root=small_source) == []
    shard_set = ShardSet.open(here)
    assert shard_set.views["brightness"]["shape"] == [56, 56]
    batch = next(iter(shard_set.loader(views=views, batch_size=4, shuffle=False)))
    assert batch["brightness"].shape == (4, 1, 56, 56) and batch["brightness"].dtype == torch.uint8
    rgb = batch["image"].numpy().transpose(0, 2, 3, 1)  # (B, 3, H, W) -> (B, H, W, 3)
    means = rgb.reshape(4, 56, 4, 56, 4, 3).mean(axis=(2, 4, 5)).astype(np.uint8)
    assert np.array_equal(batch["brightness"].numpy()[:, 0], means)
    index = pq.read_table(here / "index.parquet")
    assert index["brightest"].to_pylist()[:4] == means.max(axis=(1, 2)).tolist()
    write_grid(shard_set, 2, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (224 * len(VIEWS), 2 * (224 + 18))
        cells = [np.asarray(grid)[18:242, 224 * n : 224 * (n + 1)] for n in range(len(VIEWS))]
    assert (cells[list(VIEWS).index("edge")] == 255).all()  # not built
    assert cells[list(VIEWS).index("brightness")].std() > 5


@pytest.mark.parametrize("reads", ["image", "source"])
def test_a_view_from_outside_comes_to_a_set_that_is_there(
    reads: str, small_source: Path, small_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(run(small_options(tmp_path / "out", views=("image",)), workers=0))
    monkeypatch.setitem(VIEWS, "brightness", brightness(reads))
    out = run(small_options(tmp_path / "out", views=("brightness",)), workers=0)
    after = content(out)
    kept = [name for name in before if name.startswith("image/")]
    assert kept and all(after[name] == before[name] for name in kept)
    assert verify(out, deep=True, source_root=small_source) == []
    whole = run(small_options(tmp_path / "whole", views=("image", "brightness")), workers=0)
    columns = [name for name in after if name.startswith("brightness/")]
    assert columns and content(whole).items() >= {name: after[name] for name in columns}.items()


def test_a_view_from_outside_that_computes_something_else_is_found(
    small_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VIEWS, "brightness", brightness("image"))
    out = run(small_options(tmp_path / "out", views=("image", "brightness"), shard_size=100), workers=0)

    def other(sample: Sample, params: Any) -> Computed:
        return Computed(value=np.zeros((56, 56), np.uint8))

    object.__setattr__(VIEWS["brightness"], "compute", other)
    damages = verify(out, deep=True)
    assert {Path(damage.path).parent.name for damage in damages} == {"brightness"}
    assert all(damage.problem.endswith("is not what its view computes") for damage in damages)
    assert isinstance(damages[0], Damage)


def test_the_records_of_the_views() -> None:
    assert list(VIEWS) == ["image", "edge", "noise", "parsing", "text"]
    assert all(name == view.name for name, view in VIEWS.items())
    assert [view.name for view in VIEWS.values() if view.decides_rows] == [rows_view(VIEWS).name] == ["image"]
    assert {name: view.reads for name, view in VIEWS.items()} == {
        "image": "source", "edge": "image", "noise": "image", "parsing": "source", "text": "labels",
    }  # fmt: skip
    assert default_array("noise")["shape"] == [3, 112, 112]
    for view in VIEWS.values():
        assert pickle.loads(pickle.dumps(view)) == view


def test_what_is_stored_is_what_a_record_says(small_root: Path) -> None:
    shard_set = ShardSet.open(small_root)
    for name, plan in shard_set.plans.items():
        sidecar = read_sidecar(small_root, name, "000000")
        assert sidecar is not None and set(sidecar["members"]) == set(plan.codec)
        assert set(sidecar["rows"][0]) == set(VIEWS[name].facts)


def test_mirrored_batches(small_set: ShardSet) -> None:
    batch = next(iter(small_set.loader(views=tuple(VIEWS), batch_size=4, shuffle=False)))
    for name, view in VIEWS.items():
        if view.mirror is None:
            assert name == "text"
            continue
        mirrored, stored = view.mirror(batch[name]), batch[name].numpy()
        assert mirrored.dtype == batch[name].dtype
        expected = stored[..., ::-1]
        if name == "parsing":
            expected = np.array(FLIPPED_CLASSES, dtype=np.uint8)[expected]
        assert np.array_equal(mirrored.numpy(), expected)
        assert np.array_equal(view.mirror(mirrored).numpy(), stored)
