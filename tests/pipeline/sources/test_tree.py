"""Every named dataset, from a small copy of its released tree to shards; what a layout file may say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from released import FF_LISTS, RELEASED
from support import SHARED

from bmrl import manifests
from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.sources import DATASETS, SourceError
from bmrl.pipeline.sources.layout import parse_layout
from bmrl.pipeline.sources.tree import walk_tree
from bmrl.pipeline.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
VIEWS = ("image", "edge", "noise", "text")


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def test_every_named_set_has_a_released_tree() -> None:
    assert sorted(RELEASED) == manifests.names("datasets")


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_tree_becomes_rows_and_shards(
    name: str, tmp_path: Path, build_here: Callable[[BuildOptions], Path]
) -> None:
    released = RELEASED[name]
    root = released.write(tmp_path / "source")
    walk = DATASETS[name].walk(root, TAXONOMY)
    assert [f"{row.path} {row.generator} {row.split} {row.group}" for row in walk.rows] == lines(released.rows)
    assert dict(walk.unused) == released.unused
    assert len(walk.warnings) == len(released.warnings)
    for warning, part in zip(walk.warnings, released.warnings, strict=True):
        assert part in warning
    for row in walk.rows:
        generator = TAXONOMY.find_or_unknown(row.generator)
        assert (row.kind, row.family, row.licence) == (generator.kind, generator.family, DATASETS[name].licence)
    out = build_here(BuildOptions(dataset=name, source_root=root, out=tmp_path / "out", views=VIEWS, shard_size=16))
    index = ShardSet.open(out).index.to_pydict()
    columns = ("source_path", "generator", "split", "group")
    dropped = [line for line in lines(released.rows) if line.split(" ")[0] in released.empty]
    assert sorted([*dropped, *map(" ".join, zip(*(index[column] for column in columns), strict=True))]) == sorted(
        lines(released.rows)
    )
    failures = pq.read_table(out / "failures.parquet").to_pylist()
    assert [(row["source_path"], row["reason"]) for row in failures] == [
        (line.split(" ")[0], "not an image file") for line in dropped
    ]


def test_without_its_lists_a_set_is_split_by_the_hash_and_says_so(tmp_path: Path) -> None:
    root = RELEASED["ffpp"].write(tmp_path)
    for file in tmp_path.rglob("*.json"):
        file.unlink()
    walk = DATASETS["ffpp"].walk(root, TAXONOMY)
    found = {row.group: row.split for row in walk.rows}
    assert (found["953"], found["974+953"], found["000"]) == (
        "train",
        "train",
        "train",
    )  # by the lists: test, test, train
    assert walk.warnings == [
        "3 of the lists that this dataset ships are not below --root (see `bmrl-prep datasets`): "
        "a stable hash of the identity or video decides the split instead"
    ]


def test_adding_a_source_moves_no_sample(tmp_path: Path) -> None:
    """DF40 method by method: what is planned keeps its split, whatever comes in later."""
    root = RELEASED["df40"].write(tmp_path / "all")
    everything = {row.path: row.split for row in DATASETS["df40"].walk(root, TAXONOMY).rows}
    (tmp_path / "some").mkdir()
    (root / "DF40_train").rename(tmp_path / "some" / "DF40_train")
    some = {row.path: row.split for row in DATASETS["df40"].walk(tmp_path / "some", TAXONOMY).rows}
    assert len(some) == 6 + 1  # 953_000 is only left out beside DF40, which tests 953
    assert {path: split for path, split in some.items() if path in everything}.items() <= everything.items()


def test_ffs_lists_part_df40s_train_archive_and_the_hash_one_archive_alone(tmp_path: Path) -> None:
    root = RELEASED["df40"].write(tmp_path / "root")
    for name, text in FF_LISTS.items():
        (root / name).write_text(text.replace("974", "000") if name == "test.json" else text.replace('"000"', '"001"'))
    walk = DATASETS["df40"].walk(root, TAXONOMY)
    assert {row.group: row.split for row in walk.rows if row.path.startswith("DF40_train/simswap")} == {
        "953+000": "test",
        "039+047": "val",
    }  # 000 is a test identity by the list: 000_003 and 039_000 are left out
    alone = {row.path: row.split for row in DATASETS["df40"].walk(root / "DF40", TAXONOMY).rows}
    assert alone["simswap/cdf/frames/id0_id2_0000/000.png"] == "train"
    assert alone["e4s/cdf/Fake_from_Youtube-real/frames/00011/010.png"] == "test"


def test_a_broken_list_is_named(tmp_path: Path) -> None:
    root = RELEASED["ffpp"].write(tmp_path)
    (root / "FaceForensics++/val.json").write_text('{"720": 1')
    with pytest.raises(SourceError, match=r"FaceForensics\+\+/val\.json is not a list as ffpp ships it"):
        DATASETS["ffpp"].walk(root, TAXONOMY)


def test_a_wrong_tree_is_one_sentence(tmp_path: Path) -> None:
    root = RELEASED["dfdc"].write(tmp_path / "dfdc")
    with pytest.raises(SourceError, match=r"none of the 7 images under .* lies where --dataset celebdf expects them"):
        DATASETS["celebdf"].walk(root, TAXONOMY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no images found under"):
        DATASETS["celebdf"].walk(tmp_path / "empty", TAXONOMY)
    with pytest.raises(SourceError, match="is a file; --dataset dfdc reads a folder tree"):
        DATASETS["dfdc"].walk(root / "DFDC/test/labels.csv", TAXONOMY)


def test_links_out_of_the_root_are_refused_and_linked_folders_counted(tmp_path: Path) -> None:
    root = RELEASED["owdfa40"].write(tmp_path / "inside")
    (tmp_path / "outside").mkdir()
    (root / "OWDFA40/5_linked").symlink_to(tmp_path / "outside")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/OWDFA40").symlink_to(root / "OWDFA40")
    with pytest.raises(SourceError, match=r"for --dataset owdfa40 \(left out: 1 x a link to a folder\);"):
        DATASETS["owdfa40"].walk(tmp_path / "links", TAXONOMY)
    assert DATASETS["owdfa40"].walk(root, TAXONOMY).unused == {"a link to a folder": 1}
    (tmp_path / "outside/x.png").write_bytes(b"x")
    (root / "OWDFA40/train/0_Real/x.png").symlink_to(tmp_path / "outside/x.png")
    with pytest.raises(SourceError, match=r"0_Real/x\.png: x\.png is a link that leads out of the root"):
        DATASETS["owdfa40"].walk(root, TAXONOMY).check_links()


LAYOUT: dict[str, Any] = {"name": "own", "layout": "l", "licence": "n", "obtain": "o", "patterns": [{"path": "*"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "own.yaml: unknown key 'colour'; known are"),
        ({"patterns": [{"path": "*", "group": "x"}]}, "own.yaml, pattern: unknown key 'group'"),
        ({"patterns": [{"generator": "real"}]}, "own.yaml, pattern: 'path' is missing"),
        ({"patterns": [{"path": "{a:[}"}]}, "is no regular expression"),
        ({"patterns": [{"path": "*", "kind": "swap"}]}, "own.yaml, pattern *, kind: 'swap' is none of"),
        ({"patterns": [{"path": "*", "split": "tests"}]}, "own.yaml, pattern *, split: 'tests' is none of"),
        ({"splits": {"dev": "tests"}}, "own.yaml, splits: 'tests' is none of"),
        ({"ids": [{"match": "x"}]}, "own.yaml, ids: 'group' is missing"),
        ({"tables": [{"file": "x", "form": "xml", "by": "ids"}]}, "own.yaml, table x, form: 'xml' is none of"),
        ({"tables": [{"file": "x", "form": "words", "by": "ids", "rows": 1}]}, "own.yaml, table: unknown key 'rows'"),
        ({"unit": "clips"}, "own.yaml, unit: 'clips' is none of images, videos"),
        ({"expected": {"real": {"dev": 3}}}, "own.yaml, expected real: unknown key 'dev'"),
    ],
)
def test_an_error_in_a_layout_names_the_entry(change: dict[str, Any], message: str) -> None:
    parse_layout(LAYOUT, "own.yaml")
    with pytest.raises(ValueError) as error:
        parse_layout({**LAYOUT, **change}, "own.yaml")
    assert message in str(error.value)


def test_frames_are_evenly_spaced_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    layout = parse_layout(
        {**LAYOUT, "patterns": [{"path": "{generator}/{video}/{frame}"}], "frames_per_video": 3}, "own.yaml"
    )
    for number in range(1, 12):
        file = tmp_path / f"real/clip/frame{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%d" % number)
    walk = walk_tree(layout, tmp_path, TAXONOMY)
    assert [row.path for row in walk.rows] == [f"real/clip/frame{n}.png" for n in (1, 11, 6)]
    assert dict(walk.unused) == {"beyond 3 evenly spaced frames of its video": 8}


def test_every_expected_source_is_in_the_taxonomy() -> None:
    for dataset in DATASETS.values():
        for source in dataset.tree.expected if dataset.tree else ():
            found = TAXONOMY.find(source)
            assert found is not None and found.name == source, (dataset.name, source)


def test_the_photographs_at_hand_are_read_as_celebamask_hq() -> None:
    """images/ and masks/ of other names than the released ones, without lists."""
    root = SHARED / "celebamask-hq"
    if not root.is_dir():
        pytest.skip("../shared/data/celebamask-hq is not here")
    walk = DATASETS["celebamask-hq"].walk(root, TAXONOMY)
    assert Counter(row.split for row in walk.rows) == {"train": 664, "val": 129, "test": 107}
    assert {row.path.split("/")[0] for row in walk.rows} == {"images"}
    assert dict(walk.unused) == {}
    assert [warning.split(" (")[0] for warning in walk.warnings] == [
        "3 of the lists that this dataset ships are not below --root"
    ]


def test_the_datasets_are_listed_with_layout_licence_and_source(invoke: Callable[..., Result]) -> None:
    blocks = invoke(main, "datasets").output.split("\n  ")
    assert len(blocks) == 1 + 3 * len(DATASETS)
    output = "\n".join(blocks)
    for name, dataset in DATASETS.items():
        assert f"{name}\nlayout:  {dataset.layout}\nlicence: {dataset.licence}\nobtain:  {dataset.obtain}\n" in output


def test_videos_without_frames_are_counted_in_the_sentence(tmp_path: Path) -> None:
    for name in ("000", "001"):
        video = tmp_path / f"original_sequences/youtube/c23/videos/{name}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes(b"x")
    with pytest.raises(SourceError, match=r"no images found .* \(left out: 2 x not an image file name\)"):
        DATASETS["ffpp"].walk(tmp_path, TAXONOMY)
