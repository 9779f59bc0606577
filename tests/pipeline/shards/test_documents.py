"""Documents that parse but lie, with sums that match: one sentence from every command, and `verify` refuses them all."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bmrl.pipeline.shards.plan import PlanError, read_plan
from bmrl.pipeline.shards.tars import read_sidecar
from bmrl.pipeline.shards.verify import verify
from bmrl.pipeline.shardset import ShardSet, ShardSetError

Change = Callable[[dict[str, Any]], object]


def reseal(root: Path) -> None:
    names = [line.split("  ")[1] for line in (root / "SHA256SUMS").read_text().splitlines()]
    lines = [f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (root / "SHA256SUMS").write_text("".join(lines))


def change(file: Path, what: Change) -> None:
    document = json.loads(file.read_text())
    what(document)
    file.write_text(json.dumps(document))


DATASET: dict[str, Change] = {
    "a number for a name": lambda d: d.update(name=5),
    "a text for a count": lambda d: d["counts"].update(samples="50"),
    "a negative count": lambda d: d["counts"].update(dropped=-1),
    "an endless count": lambda d: d["counts"].update(samples=10**30),
    "a list of sources": lambda d: d.update(generators=list(d["generators"])),
    "a source without a kind": lambda d: d["generators"]["real"].pop("kind"),
    "classes twice": lambda d: d.update(classes=d["classes"] * 2),
    "another split": lambda d: d["shards"][0].update(split="elsewhere"),
    "no bytes": lambda d: d["shards"][0].pop("bytes"),
    "bytes of no view": lambda d: d["shards"][0]["bytes"].update(other=1),
    "more samples than there are": lambda d: d["shards"][0].update(num_samples=10**9),
    "prompts of texts": lambda d: d.update(prompts=dict.fromkeys(d["prompts"], "x")),
    "no tokens": lambda d: d["prompts"]["real"].pop("tokens"),
    "tokens beyond the vocabulary": lambda d: d["prompts"]["real"]["tokens"][0].__setitem__(0, 10**6),
    "views of nulls": lambda d: d.update(views=dict.fromkeys(d["views"])),
    "no image": lambda d: d["views"].pop("image"),
    "another shape": lambda d: d["views"]["edge"].update(shape=[10**6, 10**6]),
    "another codec": lambda d: d["views"]["edge"].update(codec={"../x": "npy"}),
    "a patch of gigapixels": lambda d: d["views"]["noise"]["params"].update(patch_size=10**9),
    "a text for a size": lambda d: d["views"]["noise"]["params"].update(patch_size="112"),
    "an unknown parameter": lambda d: d["views"]["edge"]["params"].update(other=1),
    "shards of texts": lambda d: d.update(shards=["000000"]),
}


@pytest.mark.parametrize("what", DATASET)
def test_a_dataset_json_that_lies(what: str, small_copy: Path) -> None:
    change(small_copy / "dataset.json", DATASET[what])
    reseal(small_copy)
    with pytest.raises(ShardSetError, match=r"dataset\.json|index\.parquet") as caught:
        ShardSet.open(small_copy)
    assert len(str(caught.value).splitlines()) == 1
    assert verify(small_copy)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "null", "[]", "5", '"x"', '{"name": "\\ud800"}', "{"]
)
@pytest.mark.parametrize("name", ["dataset.json", "plan.json", "edge/000001.json"])
def test_what_is_no_document(text: str, name: str, small_copy: Path) -> None:
    (small_copy / name).write_text(text)
    reseal(small_copy)
    assert name in {damage.path for damage in verify(small_copy)}
    if name == "dataset.json":
        with pytest.raises(ShardSetError, match="damaged"):
            ShardSet.open(small_copy)
    elif name == "plan.json":
        with pytest.raises(PlanError, match="damaged"):
            read_plan(small_copy)
    else:
        assert read_sidecar(small_copy, "edge", "000001") is None


PLAN: dict[str, Change] = {
    "a thousand million shards": lambda d: d["segments"][0].update(num_shards=10**9),
    "a thousand million rows": lambda d: d["segments"][0].update(num_rows=10**9),
    "no segments": lambda d: d.update(segments=[]),
    "shards of size 0": lambda d: d["settings"].update(shard_size=0),
    "a text for a seed": lambda d: d["settings"].update(seed="0"),
    "another view": lambda d: d["views"].update({"../x": d["views"]["edge"]}),
    "a null for a view": lambda d: d["views"].update(edge=None),
    "settings of another kind": lambda d: d.update(settings=[]),
}


@pytest.mark.parametrize("what", PLAN)
def test_a_plan_that_lies(what: str, small_copy: Path) -> None:
    change(small_copy / "plan.json", PLAN[what])
    reseal(small_copy)
    with pytest.raises(PlanError, match=r"damaged|belong together"):
        read_plan(small_copy)
    assert "plan.json" in {damage.path for damage in verify(small_copy)}


SIDECAR: dict[str, Change] = {
    "texts for offsets": lambda d: d["members"].update({"edge.npy": [["0", "1"]] * d["num_samples"]}),
    "negative offsets": lambda d: d["members"]["edge.npy"].__setitem__(0, [-512, 10]),
    "offsets beyond the end": lambda d: d["members"]["edge.npy"].__setitem__(0, [2**40, 10]),
    "fewer keys": lambda d: d["keys"].pop(),
    "a key that is a path": lambda d: d["keys"].__setitem__(0, "../../x"),
    "another key": lambda d: d["keys"].__setitem__(0, "other"),
    "rows of texts": lambda d: d.update(rows=["x"] * d["num_samples"]),
    "a null for a hash": lambda d: d.update(xxh3_128=None),
    "members of another suffix": lambda d: d["members"].update(pkl=d["members"].pop("edge.npy")),
    "drops of another kind": lambda d: d.update(drops=[{"key": 5}]),
    "bytes as a text": lambda d: d.update(bytes="5"),
}


@pytest.mark.parametrize("what", SIDECAR)
def test_a_sidecar_that_lies(what: str, small_copy: Path) -> None:
    change(small_copy / "edge/000001.json", SIDECAR[what])
    reseal(small_copy)
    assert {damage.path for damage in verify(small_copy)} & {"edge/000001.json", "edge/000001.tar"}
    with pytest.raises(RuntimeError, match=r"edge/000001\.(json|tar)"):
        for _ in ShardSet.open(small_copy).loader(views=["edge"], batch_size=8, shuffle=False):
            pass


def put_index(root: Path, table: pa.Table) -> None:
    pq.write_table(table, root / "index.parquet")
    reseal(root)


def test_an_index_that_lies(small_copy: Path) -> None:
    whole = pq.read_table(small_copy / "index.parquet")

    def replaced(name: str, values: list[Any]) -> pa.Table:
        number = whole.column_names.index(name)
        return whole.set_column(number, name, pa.array(values, whole.schema.field(name).type))

    count = whole.num_rows
    lies = {
        "rows": whole.slice(0, 10),
        "rows,": pa.concat_tables([whole, whole]),
        "order": replaced("row", [10**6] * count),
        "order,": replaced("shard", ["../../x"] * count),
        "generator": replaced("generator", ["nobody"] * count),
        "key twice": replaced("key", ["a"] * count),
        "key that": replaced("key", [f"../{i}" for i in range(count)]),
        "source_path": replaced("source_path", ["../../etc/passwd"] * count),
        "empty": replaced("source_path", [None] * count),
        "type": whole.set_column(0, "key", pa.array(range(count))),
    }
    for problem, table in lies.items():
        put_index(small_copy, table)
        with pytest.raises(ShardSetError, match=rf"index\.parquet .*{problem.rstrip(',')}"):
            ShardSet.open(small_copy)
        assert "index.parquet" in {damage.path for damage in verify(small_copy)}
    put_index(small_copy, whole)
    assert len(ShardSet.open(small_copy)) == count and not verify(small_copy)


def test_an_index_of_a_thousand_million_rows(small_copy: Path) -> None:
    """A few kilobytes on disk: the metadata are read first."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 10**6, pa.int32()), pa.array(["x"]))
    schema = pa.schema([("key", column.type)])
    with pq.ParquetWriter(small_copy / "index.parquet", schema, compression="zstd") as writer:
        for _ in range(60):
            writer.write_table(pa.table([column], schema=schema))
    assert (small_copy / "index.parquet").stat().st_size < 2**18
    reseal(small_copy)
    with pytest.raises(ShardSetError, match=r"index\.parquet cannot be read: it has 60000000 rows, expected 50"):
        ShardSet.open(small_copy)


def test_the_whole_set_is_still_read(small_root: Path, tmp_path: Path) -> None:
    """Twice: what is checked is not changed, and a copy elsewhere is the same."""
    limit = sys.getrecursionlimit()
    copy = shutil.copytree(small_root, tmp_path / "copy")
    assert ShardSet.open(copy).document == json.loads((small_root / "dataset.json").read_text())
    assert read_sidecar(copy, "image", "000000") == json.loads((small_root / "image/000000.json").read_text())
    assert verify(copy, deep=True) == []
    assert sys.getrecursionlimit() == limit
