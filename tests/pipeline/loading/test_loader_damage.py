"""A damaged shard is an error that names file and sample, and never a smaller or different epoch."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmrl.pipeline import ShardSet
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.loading import reader
from bmrl.pipeline.shards.tars import DamagedShardError, read_sidecar
from bmrl.pipeline.shardset import ShardSetError

VIEWS = ("image", "edge", "noise", "parsing")
STEP = {"image": 151_552, "edge": 101_376, "noise": 76_288, "parsing": 51_200}  # bytes from member to member


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process: no shard was checked before."""
    monkeypatch.setattr(reader, "_checked", set())


@pytest.fixture
def damaged(small_root: Path, tmp_path: Path) -> Path:
    """A shard set of second names of the small one's files; what a test replaces is its own."""
    root = tmp_path / "damaged"
    for path in small_root.rglob("*"):
        target = root / path.relative_to(small_root)
        if path.is_file() and ".log" not in path.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)
    return root


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def epoch(root: Path, check: str, views: tuple[str, ...]) -> list[Any]:
    return list(ShardSet.open(root).loader(views=views, batch_size=8, shuffle=False, num_threads=0, check=check))


def refused(root: Path, view: str, check: str = "first", views: tuple[str, ...] = ()) -> str:
    with pytest.raises(DamagedShardError) as error:
        epoch(root, check, views or (view,))
    text = str(error.value)
    keys = ShardSet.open(root).index["key"].to_pylist()
    assert re.search(rf"{view}/000001\.(tar|json)", text) and any(key in text for key in keys), text
    return text


@pytest.mark.parametrize("check", reader.CHECKS)
@pytest.mark.parametrize("view", VIEWS)
def test_truncated_at_every_block(view: str, check: str, small_root: Path, damaged: Path) -> None:
    """All 512-byte boundaries: the size is compared before anything else, so one open of the shard a cut is enough."""
    whole = (small_root / view / "000001.tar").read_bytes()
    shard_set = ShardSet.open(damaged)
    number = shard_set.shard_names.index("000001")
    path = damaged / view / "000001.tar"
    replace(path, whole)
    plan, sums = shard_set.plans[view], shard_set.sums
    key = next(row["key"] for row in shard_set.index.to_pylist() if row["shard"] == "000001")
    place = np.array([number]), np.array([0])
    cuts = range(len(whole) - 512, -1, -512)
    with path.open("r+b") as file:
        for size in cuts:
            file.truncate(size)
            fresh = reader.ColumnReader(damaged, plan, shard_set.shard_names, sums=sums, check=check)
            with pytest.raises(DamagedShardError) as error:
                fresh.gather(np.empty((1, *fresh.shape), fresh.dtype), *place, [key])
            assert f"{view}/000001.tar has {size} bytes, its sidecar says {len(whole)}" in str(error.value)
            assert key in str(error.value)
    assert len(cuts) == len(whole) // 512 > 700
    refused(damaged, view, check)  # through the loader, the file empty now


def payload_bytes(view: str) -> Iterator[tuple[str, int]]:
    """Named places of the second member: in its tar name, its npy header, its payload, and the padding after it."""
    start = STEP[view]
    payload = start + 512 + 128  # after a tar and an npy header
    yield from {"name": start, "npy header": start + 512 + 9, "first": payload}.items()
    yield from {"middle": payload + start // 2, "padding": 2 * start - 1}.items()


@pytest.mark.parametrize("check", ["first", "always"])
@pytest.mark.parametrize(("view", "place"), [(view, place) for view in VIEWS for place, _ in payload_bytes(view)])
def test_one_flipped_bit(view: str, place: str, check: str, small_root: Path, damaged: Path) -> None:
    data = bytearray((small_root / view / "000001.tar").read_bytes())
    data[dict(payload_bytes(view))[place]] ^= 16
    replace(damaged / view / "000001.tar", bytes(data))
    refused(damaged, view, check)


def test_headers_are_compared_without_a_checksum_too(small_root: Path, damaged: Path) -> None:
    for place in ("name", "npy header"):
        data = bytearray((small_root / "edge/000001.tar").read_bytes())
        data[dict(payload_bytes("edge"))[place]] ^= 16
        replace(damaged / "edge/000001.tar", bytes(data))
        key = read_sidecar(small_root, "edge", "000001")["keys"][1]  # type: ignore[index]
        assert key in refused(damaged, "edge", "never")


@pytest.mark.parametrize("check", reader.CHECKS)
@pytest.mark.parametrize("view", VIEWS)
def test_swapped_members(view: str, check: str, small_root: Path, damaged: Path) -> None:
    data, step = (small_root / view / "000001.tar").read_bytes(), STEP[view]
    third = data[2 * step : 3 * step]
    swapped = data[: 2 * step] + data[3 * step : 4 * step] + third + data[4 * step :]
    assert len(swapped) == len(data) and swapped != data
    replace(damaged / view / "000001.tar", swapped)
    key = read_sidecar(small_root, view, "000001")["keys"][2]  # type: ignore[index]
    assert f"is not {key}." in refused(damaged, view, check)


def test_swapped_payloads_under_their_old_names(small_root: Path, damaged: Path) -> None:
    data, step = bytearray((small_root / "noise/000001.tar").read_bytes()), STEP["noise"]
    one, other = slice(512, step), slice(512 + step, 2 * step)
    data[one], data[other] = data[other], data[one]
    replace(damaged / "noise/000001.tar", bytes(data))
    assert "is damaged: xxh3" in refused(damaged, "noise")


@pytest.mark.parametrize("check", reader.CHECKS)
@pytest.mark.parametrize("name", ["edge/000001.tar", "edge/000001.json"])
def test_a_missing_file(name: str, check: str, damaged: Path) -> None:
    (damaged / name).unlink()
    assert "No such file" in refused(damaged, "edge", check)


@pytest.mark.parametrize("check", reader.CHECKS)
def test_a_missing_view(check: str, damaged: Path) -> None:
    shutil.rmtree(damaged / "edge")
    with pytest.raises(
        DamagedShardError, match=r"edge/000000\.json cannot be read: No such file .* sample \S+ was to be"
    ):
        epoch(damaged, check, ("image", "edge"))


def test_a_view_that_was_never_built(small_options: Any, build_here: Any, tmp_path: Path) -> None:
    root = build_here(small_options(tmp_path / "out", views=("image",), parser=None))
    with pytest.raises(
        ValueError, match="has no view 'edge', it has image; add it with `bmrl-prep build --views edge`"
    ):
        ShardSet.open(root).loader(views=["image", "edge"], batch_size=4)


@pytest.fixture(scope="module")
def other_build(
    small_options: Callable[..., BuildOptions], build_here: Callable[[BuildOptions], Path], tmp_path_factory: Any
) -> Path:
    """The same sources under another resize kernel: same keys, other pixels and digests."""
    folder = tmp_path_factory.mktemp("other")
    return build_here(small_options(folder / "area", views=("image", "edge"), parser=None, resize="area"))


@pytest.mark.parametrize("check", reader.CHECKS)
def test_a_sidecar_of_another_build(check: str, other_build: Path, damaged: Path) -> None:
    replace(damaged / "edge/000001.json", (other_build / "edge/000001.json").read_bytes())
    assert "it is of another build (digest" in refused(damaged, "edge", check)
    # Sums and all: the digest still is not the one that dataset.json names.
    sums = ShardSet.open(damaged).sums | {"edge/000001.json": ShardSet.open(other_build).sums["edge/000001.json"]}
    replace(damaged / "SHA256SUMS", "".join(f"{v}  {k}\n" for k, v in sums.items()).encode())
    assert "is of another build (digest" in refused(damaged, "edge", check)


@pytest.mark.parametrize("check", reader.CHECKS)
def test_a_column_of_another_build(check: str, other_build: Path, damaged: Path) -> None:
    for suffix in ("json", "tar"):
        replace(damaged / f"image/000001.{suffix}", (other_build / f"image/000001.{suffix}").read_bytes())
    assert "it is of another build (digest" in refused(damaged, "image", check)


def test_a_sidecar_of_another_shard(small_root: Path, damaged: Path) -> None:
    """Same digest, other samples, and sums that agree: the index is what decides."""
    for suffix in ("json", "tar"):
        replace(damaged / f"edge/000001.{suffix}", (small_root / f"edge/000000.{suffix}").read_bytes())
    sums = ShardSet.open(small_root).sums
    for shard, said in (("000000", "is that of edge/000000"), ("000001", "row 0 should be")):
        document = {**json.loads((small_root / "edge/000000.json").read_bytes()), "shard": shard}
        replace(damaged / "edge/000001.json", json.dumps(document).encode())
        sums["edge/000001.json"] = hashlib.sha256((damaged / "edge/000001.json").read_bytes()).hexdigest()
        replace(damaged / "SHA256SUMS", "".join(f"{v}  {k}\n" for k, v in sums.items()).encode())
        assert said in refused(damaged, "edge", "never")


def test_every_byte_of_a_sidecar_counts(small_root: Path, damaged: Path) -> None:
    data = (small_root / "edge/000001.json").read_bytes()
    assert json.loads(data)["num_samples"] == 8
    for offset in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[offset] ^= 1
        replace(damaged / "edge/000001.json", bytes(flipped))
        assert "is not the one that SHA256SUMS lists" in refused(damaged, "edge", "never")


@pytest.mark.parametrize("name", ["index.parquet", "dataset.json"])
def test_a_damaged_index_is_not_opened(name: str, small_root: Path, damaged: Path) -> None:
    data = (small_root / name).read_bytes()
    for offset in range(0, len(data), len(data) // 50):
        flipped = bytearray(data)
        flipped[offset] ^= 2
        replace(damaged / name, bytes(flipped))
        with pytest.raises(ShardSetError, match=name):
            ShardSet.open(damaged)
    (damaged / name).unlink()
    with pytest.raises(ShardSetError, match=name):
        ShardSet.open(damaged)


def test_damaged_sums(small_root: Path, damaged: Path) -> None:
    data = (small_root / "SHA256SUMS").read_bytes()
    flipped = bytearray(data)
    flipped[data.index(b"  edge/000001.json") - 1] ^= 1
    replace(damaged / "SHA256SUMS", bytes(flipped))
    assert "is not the one that SHA256SUMS lists" in refused(damaged, "edge")
    for damage in (b"", b"nonsense\n", data[:-30], b"\xff" + data):
        replace(damaged / "SHA256SUMS", damage)
        with pytest.raises((ShardSetError, DamagedShardError), match="SHA256SUMS"):
            epoch(damaged, "first", VIEWS)
    (damaged / "SHA256SUMS").unlink()
    with pytest.raises(ShardSetError, match="SHA256SUMS is missing or damaged"):
        ShardSet.open(damaged)


@pytest.mark.parametrize("threads", [1, 3])
def test_damage_reaches_the_caller_through_threads(threads: int, small_root: Path, damaged: Path) -> None:
    data = bytearray((small_root / "edge/000001.tar").read_bytes())
    data[-20_000] ^= 1
    replace(damaged / "edge/000001.tar", bytes(data))
    loader = ShardSet.open(damaged).loader(views=["edge"], batch_size=4, shuffle=False, num_threads=threads)
    received = []
    with pytest.raises(DamagedShardError, match=r"edge/000001\.tar is damaged"):
        for batch in loader:
            received += batch["key"]
    keys = ShardSet.open(damaged).index["key"].to_pylist()
    assert received == keys[: len(received)] and len(received) <= 8
    assert loader.state_dict()["consumed"] == len(received)


@pytest.mark.parametrize("check", reader.CHECKS)
def test_an_undamaged_copy_passes(check: str, small_root: Path, damaged: Path) -> None:
    keys = [key for batch in epoch(damaged, check, VIEWS) for key in batch["key"]]
    assert keys == ShardSet.open(small_root).index["key"].to_pylist()
