"""The tar of a column against webdataset's own writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from bmrl.pipeline.shards.tars import ColumnWriter, DamagedShardError, read_members, read_sidecar


@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_bytes_are_webdatasets(count: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(count)
    samples = [
        (f"key_{number}", {"txt": rng.bytes(int(rng.integers(0, 2000))), "edge.npy": rng.bytes(512 * number)})
        for number in range(count)
    ]
    with ColumnWriter(tmp_path, "edge", "000000") as writer:
        for key, members in samples:
            writer.write(key, members)
        sidecar = writer.commit(digest="d", rows=[], drops=[])
    with wds.TarWriter(str(tmp_path / "theirs.tar"), encoder=False, mtime=0, user="", group="") as theirs:
        for key, members in samples:
            theirs.write({"__key__": key, **members})
    assert (tmp_path / "edge/000000.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    for suffix in ("txt", "edge.npy"):
        assert read_members(tmp_path, sidecar, suffix) == [members[suffix] for _, members in samples]


def test_members_of_a_damaged_tar_are_not_read(tmp_path: Path) -> None:
    with ColumnWriter(tmp_path, "edge", "000000") as writer:
        writer.write("key", {"npy": bytes(5000)})
        sidecar = writer.commit(digest="d", rows=[{}], drops=[])
    tar = tmp_path / "edge/000000.tar"
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DamagedShardError, match=r"edge/000000\.tar is damaged"):
        read_members(tmp_path, sidecar, "npy")


@pytest.mark.parametrize("change", ["view", "shard", "less", "more"])
def test_a_sidecar_of_another_file_or_form_is_none(change: str, tmp_path: Path) -> None:
    with ColumnWriter(tmp_path, "edge", "000000") as writer:
        writer.write("key", {"edge.npy": bytes(5000)})
        sidecar = writer.commit(digest="d", rows=[{}], drops=[])
    assert read_sidecar(tmp_path, "edge", "000000") == sidecar
    changed: dict[str, Any] = {**sidecar, "view": "image"} if change == "view" else {**sidecar, "shard": "000001"}
    if change == "less":
        changed = {name: value for name, value in sidecar.items() if name != "keys"}
    elif change == "more":
        changed = {**sidecar, "vieW": "edge"}
    (tmp_path / "edge/000000.json").write_text(json.dumps(changed))
    assert read_sidecar(tmp_path, "edge", "000000") is None


def test_an_abandoned_column_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), ColumnWriter(tmp_path, "edge", "000000") as writer:
        writer.write("key", {"npy": bytes(5000)})
        raise RuntimeError("stop")
    assert list((tmp_path / "edge").iterdir()) == []
