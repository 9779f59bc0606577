"""The loader: a pure order, exact resume at every step, exact unions over ranks, damage that is never silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bmrl.pipeline import ShardSet
from bmrl.pipeline.shardset import ShardSetError

VIEWS = ("image", "edge", "noise", "parsing", "text")


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) if torch.is_tensor(first[name]) else first[name] == second[name]
        for name in first
    )


def test_batch_contract(shards: Path) -> None:
    batch = next(iter(ShardSet.open(shards).loader(views=VIEWS, batch_size=4)))
    assert list(batch) == ["key", "generator", "label", *VIEWS]
    shapes = {
        "label": (torch.int64, (4,)),
        "image": (torch.uint8, (4, 3, 224, 224)),
        "edge": (torch.uint16, (4, 1, 224, 224)),
        "noise": (torch.int16, (4, 3, 112, 112)),
        "parsing": (torch.uint8, (4, 224, 224)),
        "text": (torch.int32, (4, 4, 77)),
    }
    for name, (dtype, shape) in shapes.items():
        assert (batch[name].dtype, tuple(batch[name].shape)) == (dtype, shape)
    assert int(batch["parsing"].max()) < 19


def test_balanced_draws_every_class_equally(shards: Path) -> None:
    rows = ShardSet.open(shards).select(split="train", generators=["real", "DDPM"])
    labels = torch.cat([batch["label"] for batch in rows.loader(views=[], batch_size=6, balanced=True)])
    assert torch.bincount(labels).tolist() == [12, 12]


def test_select_follows_the_contract(shards: Path, tmp_path: Path) -> None:
    shard_set = ShardSet.open(shards)
    assert shard_set.classes == ("DDPM", "StyleGAN2", "real")
    chosen = shard_set.select(split="val", generators=["real", "DDPM"])
    assert chosen.classes == ("real", "DDPM")
    assert chosen.counts == {"DDPM": 6, "real": 6}
    protocol = tmp_path / "mine.yaml"
    protocol.write_text("name: mine\nseen: [StyleGAN2, real]\nunseen: [DDPM, SiT]\n")
    seen = shard_set.select(protocol=str(protocol), part="seen")
    unseen = shard_set.select(protocol=str(protocol), part="unseen")
    assert seen.classes == unseen.classes == ("StyleGAN2", "real")
    assert set(unseen.labels.tolist()) == {-1}
    assert seen.missing_sources == ("SiT",)
    for wrong in ({"split": "holdout"}, {"generators": ["nobody"]}, {"part": "seen"}):
        with pytest.raises(ShardSetError):
            shard_set.select(**wrong)  # type: ignore[arg-type]
