"""The small set as its tars hold it: every source size and container, against the plain references."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.views.edge import SCALE

Stored = dict[str, dict[str, bytes]]  # key -> member suffix -> bytes


@pytest.fixture(scope="module")
def stored(small_root: Path) -> Stored:
    members: Stored = {}
    for path in sorted(small_root.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.isreg() and not member.pax_headers
                file = tar.extractfile(member)
                assert file is not None
                key, _, suffix = member.name.partition(".")
                members.setdefault(key, {})[suffix] = file.read()
    return members


def array(data: bytes) -> Any:
    return np.load(io.BytesIO(data), allow_pickle=False)


def test_every_sample_has_every_member(stored: Stored, small_set: ShardSet) -> None:
    assert sorted(stored) == sorted(small_set.index["key"].to_pylist())
    expected = {"npy", "edge.npy", "noise.npy", "parsing.npy", "json", "txt"}
    assert all(set(members) == expected for members in stored.values())


def test_images_and_label_maps_are_the_sources(stored: Stored, small_set: ShardSet, small_source: Path) -> None:
    passed = 0
    for row in small_set.index.to_pylist():
        with Image.open(small_source / row["source_path"]) as image:
            rgb = image.convert("RGB")
        assert (row["source_width"], row["source_height"]) == rgb.size
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        crop = rgb.crop((left, top, left + side, top + side))
        found = array(stored[row["key"]]["npy"])
        if side == 224:
            assert found.tobytes() == np.asarray(crop).tobytes()
            passed += 1
        else:
            expected = np.asarray(crop.resize((224, 224), Image.Resampling.BILINEAR))
            assert np.abs(found.astype(int) - expected).max() <= 2
        maps = small_source.with_name("maps") / row["source_path"]
        with Image.open(maps.with_suffix(".png")) as image:
            labels = np.asarray(image)[top : top + side, left : left + side]
        places = np.arange(224) * side // 224
        assert np.array_equal(array(stored[row["key"]]["parsing.npy"]), labels[places][:, places])
    assert passed >= 20


def test_edges_noise_and_labels_follow_the_stored_image(stored: Stored, small_set: ShardSet) -> None:
    for row in small_set.index.to_pylist():
        members = stored[row["key"]]
        rgb = array(members["npy"])
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        dx, dy = cv2.Sobel(gray, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(gray, cv2.CV_64F, 0, 1, ksize=3)
        assert np.abs(array(members["edge.npy"]) / SCALE - np.hypot(dx, dy) / 255).max() <= 1e-4
        assert len(row["patch_scores"]) == 4
        assert 2 * row["patch_row"] + row["patch_col"] == int(np.argmin(row["patch_scores"]))
        top, left = 112 * row["patch_row"], 112 * row["patch_col"]
        total = np.pad(rgb[top : top + 112, left : left + 112].astype(int).sum(axis=2), 2)
        second = total[2:-2, 1:-3] - 2 * total[2:-2, 2:-2] + total[2:-2, 3:-1]  # the third SRM kernel
        assert np.array_equal(array(members["noise.npy"])[2], second.clip(-1530, 1530))
        labels = json.loads(members["json"])
        assert labels["key"] == row["key"]
        for name in ("generator", "kind", "family", "split", "group", "source_path", "synthetic"):
            assert labels[name] == row[name]
        assert members["txt"].decode().count("\n") == 4
        assert (
            members["txt"].decode().splitlines()[3].endswith("a camera" if row["kind"] == "real" else row["generator"])
        )


def test_one_split_a_shard_and_mixed_generators(small_set: ShardSet) -> None:
    by_shard: dict[str, set[str]] = {}
    for row in small_set.index.to_pylist():
        by_shard.setdefault(row["shard"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_shard.values())
    first = [row["generator"] for row in small_set.index.to_pylist() if row["shard"] == "000000"]
    assert len(set(first)) > 1


def test_labels_and_classes_of_selections(small_set: ShardSet, small_protocol: str) -> None:
    assert small_set.classes == ("mystery", "real", "sim-efs-gan-fir", "sim-efs-gan-vq", "sim-fs-gan-near")
    assert small_set.select(split="val").classes == small_set.classes, "a split never changes the classes"
    seen = small_set.select(protocol=small_protocol, part="seen")
    assert seen.classes == ("sim-fs-gan-near", "real", "sim-efs-gan-fir")
    for row, label in zip(seen.index.to_pylist(), seen.labels, strict=True):
        assert seen.classes[label] == row["generator"]
    unseen = small_set.select(protocol=small_protocol, part="unseen", split="test")
    assert unseen.classes == seen.classes and unseen.labels.tolist() == [-1, -1, -1]
    everything = small_set.select(protocol=small_protocol)
    assert len(everything) == 50 and (everything.labels == -1).sum() == 14
    two = small_set.select(generators=["sim-efs-gan-vq", "mystery"])
    assert two.classes == ("sim-efs-gan-vq", "mystery") and len(two) == 14
    assert small_set.select(generators=["mystery", "sim-efs-gan-vq"]).digest != two.digest, "labels enter the digest"
