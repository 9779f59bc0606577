"""Manifests: what is wrong is named by file and row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import write_faces

from bmrl.pipeline.sources import SourceError
from bmrl.pipeline.sources.folder import PAIRS, walk_folder
from bmrl.pipeline.sources.grouping import Grouping
from bmrl.pipeline.sources.manifest import walk_manifest
from bmrl.pipeline.sources.rows import group_split, hash_split
from bmrl.pipeline.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()


def walk(folder: Path, text: str) -> list[str]:
    (folder / "manifest.csv").write_text(text)
    return [f"{row.path} {row.generator} {row.split}" for row in walk_manifest(folder, TAXONOMY).rows]


def test_columns_and_aliases(tmp_path: Path) -> None:
    rows = walk(tmp_path, "path,generator,split\nb.png,LDM,test\na.png,stylegan2,train\n")
    assert rows == ["a.png StyleGAN2 train", "b.png LatDiff test"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,generator\na.png,real\n", "column 'path' is missing"),
        ("path,generator\na.png,nobody\n", "row 1: generator 'nobody'"),
        ("path,generator\na.png,real\n/etc/b.png,real\n", "row 2: path '/etc/b.png' must be relative"),
        ("path,generator\n../b.png,real\n", r"row 1: path '../b.png' leaves the root through"),
        ("path,generator\na.png,real\na.png,real\n", "row 2: path .a.png. is in row 1 already$"),
        (
            "path,generator,split\na.png,real,train\na.png,real,test\n",
            "row 2: path 'a.png' is in row 1 already, as train there and test here$",
        ),
        ("path,generator,spilt\na.png,real,train\n", "column 'spilt' is unknown; rename it to 'split'"),
        ("path,generator,Group\na.png,real,x\n", "column 'Group' is unknown; rename it to 'group'"),
        ("path,generator,split\na.png,real,holdout\n", "row 1: split 'holdout'"),
        ("path,generator,kind,family\na.png,mine,swap,GAN\n", "row 1: kind 'swap'"),
        ("path,generator,path\na.png,real,b.png\n", "column 'path' stands there 2 times"),
        ("path,generator,kind\na.png,real,FS\n", "row 1: kind 'FS', but real is 'real' in the taxonomy"),
        ("path,generator,family\na.png,SimSwap,diffusion\n", "row 1: family 'diffusion', but SimSwap is 'GAN'"),
        (
            "path,generator,kind,family\na.png,mine,FS,GAN\nb.png,mine,AM,GAN\n",
            "row 2: generator 'mine' is AM, GAN, in row 1 FS, GAN; a generator has one kind",
        ),
    ],
)
def test_errors_name_the_row(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=expected):
        walk(tmp_path, text)


def test_a_column_that_the_first_line_lacks(tmp_path: Path) -> None:
    """Its official splits would have been replaced by hashed ones."""
    (tmp_path / "manifest.jsonl").write_text(
        '{"path": "a.png", "generator": "real"}\n{"path": "b.png", "generator": "real", "split": "val", "group": "7"}\n'
    )
    rows = walk_manifest(tmp_path, TAXONOMY).rows
    assert [(row.path, row.split, row.group) for row in rows] == [
        ("a.png", hash_split("a"), "a"),
        ("b.png", "val", "7"),
    ]
    assert hash_split("b") != "val"


@pytest.mark.parametrize("line", ["[1]", "5", "null"])
def test_a_line_that_is_no_object(line: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(f'{{"path": "a.png", "generator": "real"}}\n{line}\n')
    with pytest.raises(SourceError, match=r"manifest\.jsonl cannot be read: row 2 is no object"):
        walk_manifest(tmp_path, TAXONOMY)


def test_of_two_manifests_the_one_that_is_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"path": "a.png", "generator": "real"}\n')
    assert walk_manifest(tmp_path, TAXONOMY).warnings == []
    (tmp_path / "manifest.csv").write_text("path,generator\nb.png,real\n")
    found = walk_manifest(tmp_path, TAXONOMY)
    assert [row.path for row in found.rows] == ["b.png"]
    assert found.warnings == [
        "manifest.csv is read and manifest.jsonl beside it is not; give the one you mean as --root FILE"
    ]
    assert [row.path for row in walk_manifest(tmp_path / "manifest.jsonl", TAXONOMY).rows] == ["a.png"]


def test_a_byte_order_mark_leaves_the_first_column_text(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xef\xbb\xbfgroup,path,generator\n007,a.png,real\n")
    assert [row.group for row in walk_manifest(tmp_path, TAXONOMY).rows] == ["007"]


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"x")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(SourceError, match="leads out of the root"):
        walk(inside, "path,generator\nlink.png,real\n")  # the only row
    (inside / "manifest.csv").write_text("path,generator\n" + "link.png,real\n" * 30 + "a.png,real\n")
    found = walk_manifest(inside, TAXONOMY)
    assert [row.path for row in found.rows] == ["a.png"] and len(found.bad_links) == 30
    with pytest.raises(SourceError, match=r"^30 links .*manifest.csv row 20: .* and 10 more\); take them away"):
        found.check_links()


def test_columns_of_another_purpose_are_left_alone(tmp_path: Path) -> None:
    assert walk(tmp_path, "path,generator,mask,age\na.png,real,m.png,30\n") == ["a.png real val"]


def test_identities_that_the_split_column_shares_are_counted(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "path,generator,split,group\na.png,real,train,x\nb.png,SimSwap,test,x+y\nc.png,real,test,y\n"
    )
    assert walk_manifest(tmp_path, TAXONOMY).warnings == [
        "1 identities of manifest.csv stand in more than one split; without the column split they would not"
    ]


def test_a_stem_of_two_identities_is_split_by_both(tmp_path: Path) -> None:
    """007 hashes to train, 039 and 047 to test."""
    assert {hash_split("039"), hash_split("047"), hash_split("007")} == {"test", "train"}
    for stem in ("039+047", "039+007", "007"):
        (tmp_path / "SimSwap").mkdir(exist_ok=True)
        (tmp_path / f"SimSwap/{stem}.png").write_bytes(stem.encode())
    found = walk_folder(tmp_path, TAXONOMY, Grouping.of(PAIRS, ""))  # a folder is asked for pairs, a manifest has them
    assert [(row.group, row.split) for row in found.rows] == [("007", "train"), ("039+047", "test")]
    assert found.unused == {"its identities fall into different splits": 1}


def test_a_swap_of_two_splits_is_unused_and_counted(tmp_path: Path) -> None:
    ids = [str(i) for i in range(60)]
    one = next(i for i in ids if hash_split(i) == "train")
    other = next(i for i in ids if hash_split(i) == "test")
    assert group_split(f"{one}+{other}") is None
    (tmp_path / "manifest.csv").write_text(f"path,generator,group\na.png,SimSwap,{one}+{other}\nb.png,SimSwap,{one}\n")
    found = walk_manifest(tmp_path, TAXONOMY)
    assert [row.path for row in found.rows] == ["b.png"]
    assert found.unused.total() == 1


def test_folder_groups_by_stem_and_warns_of_unknown_generators(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces", {"real": 40, "brand-new": 40})
    found = walk_folder(tmp_path / "faces", TAXONOMY)
    by_stem: dict[str, set[str]] = {}
    for row in found.rows:
        by_stem.setdefault(row.group, set()).add(row.split)
    assert all(len(splits) == 1 for splits in by_stem.values())
    assert {row.split for row in found.rows} == {"train", "val", "test"}
    assert len(found.warnings) == 1
    assert "brand-new" in found.warnings[0]
    assert {row.kind for row in found.rows if row.generator == "brand-new"} == {"unknown"}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"path": "a.png", "generator": {"name": "real"}}, "row 1: generator is no text, number, true or false"),
        ({"path": ["a.png"], "generator": "real"}, "row 1: path is no text"),
        ({"path": "a.png", "generator": "real", "group": 10**30}, "row 1: group is a number of 100 bits"),
    ],
)
def test_values_of_other_types_are_named(record: dict[str, object], expected: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(SourceError, match=expected):
        walk_manifest(tmp_path, TAXONOMY)


def test_numbers_and_truths_are_taken(tmp_path: Path) -> None:
    records = [
        {"path": "a.png", "generator": "real", "group": 7, "synthetic": True, "other": {"a": 1}},
        {"path": "b.png", "generator": "real", "group": "8", "synthetic": False, "other": 10**40},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = walk_manifest(tmp_path, TAXONOMY).rows
    assert [(row.group, row.synthetic) for row in rows] == [("7", True), ("8", False)]
