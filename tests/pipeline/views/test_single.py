"""One image's views are those that a shard set of it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.views.errors import UnreadableImageError
from bmrl.pipeline.views.single import view_batch


def test_as_the_loader_gives_them(small_set: ShardSet, small_source: Path) -> None:
    views = ("image", "edge", "noise")
    batch = next(iter(small_set.loader(views=views, batch_size=8, shuffle=False)))
    paths = small_set.index["source_path"].to_pylist()
    for row in range(8):
        found = view_batch((small_source / paths[row]).read_bytes(), views, {})
        assert list(found) == list(views)
        for name in views:
            assert found[name].dtype == batch[name].dtype and torch.equal(found[name][0], batch[name][row])


def test_under_other_parameters(small_source: Path) -> None:
    data = next((small_source / "test/real").iterdir()).read_bytes()
    found = view_batch(data, ("noise",), {"noise": {"patch_size": 56}, "image": {"resize": "area"}})
    assert list(found) == ["noise"] and found["noise"].shape == (1, 3, 56, 56)


@pytest.mark.parametrize("name", ["parsing", "text", "depth"])
def test_what_an_image_alone_does_not_give(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"the view '{name}' cannot be computed from an image alone; .* image, edge, noise"
    ):
        view_batch(b"", ("image", name), {})


def test_no_image() -> None:
    with pytest.raises(UnreadableImageError, match="not an image file"):
        view_batch(b"nothing", ("image",), {})
