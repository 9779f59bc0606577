"""Byte-identical files across splits: refused when they are planned, unless they are accepted by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from support import picture

from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.sources import SourceError, duplicates
from bmrl.pipeline.sources.duplicates import TAIL_BYTES, Source, check_copies, find_copies


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """DIR/split/generator/name.png: b of test and c of val are copies of a of train; d is another."""
    folder = tmp_path / "source"
    for number, path in enumerate(("train/real/a.png", "test/DDPM/b.png", "val/real/c.png", "test/real/d.png")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, 64)).save(folder / path)
    for copy in ("test/DDPM/b.png", "val/real/c.png"):
        (folder / copy).write_bytes((folder / "train/real/a.png").read_bytes())
    return folder


def options(root: Path) -> BuildOptions:
    return BuildOptions(dataset="folder", source_root=root, out=root.with_name("out"), views=("image",))


def test_copies_in_two_splits_are_refused_by_name(root: Path) -> None:
    with pytest.raises(SourceError) as error:
        resolve(options(root))
    assert str(error.value) == (
        "train/real/a.png (train) and val/real/c.png (val) are byte-identical, and so are 1 more pairs: a split would leak "
        "into another; remove one of them, or list its path in a file for --accept-duplicates"
    )


def test_copies_are_accepted_by_name(root: Path) -> None:
    accepted = root.with_name("accepted.txt")
    accepted.write_text("val/real/c.png\n\n")
    with pytest.raises(SourceError, match=r"test/DDPM/b\.png \(test\).* are byte-identical: a split"):
        resolve(replace(options(root), accept_duplicates=accepted))
    accepted.write_text("val/real/c.png\ntest/DDPM/b.png\n")
    intake = resolve(replace(options(root), accept_duplicates=accepted))
    assert intake.plan.rows.num_rows == 4
    assert intake.walk.warnings == [
        "2 files have a byte-identical copy in another split, accepted by --accept-duplicates"
    ]
    accepted.write_text("val/real/c.png\nval/real/x.png\n")
    with pytest.raises(SourceError, match=r"accepted\.txt line 2: 'val/real/x\.png' is none of the sources"):
        resolve(replace(options(root), accept_duplicates=accepted))
    with pytest.raises(SourceError, match="cannot be read"):
        resolve(replace(options(root), accept_duplicates=root / "none.txt"))


def test_only_splits_that_are_built_are_compared(root: Path) -> None:
    assert resolve(replace(options(root), splits=("train",))).plan.rows.num_rows == 1


def test_what_an_extension_brings_is_compared_with_what_is_planned(
    root: Path, build_here: Callable[[BuildOptions], Path], invoke: Callable[..., Result]
) -> None:
    copies = {path: (root / path).read_bytes() for path in ("test/DDPM/b.png", "val/real/c.png")}
    for path in copies:
        (root / path).unlink()
    out = build_here(options(root))
    (root / "test/DDPM/b.png").write_bytes(copies["test/DDPM/b.png"])
    refused = invoke(main, "build", "--dataset", "folder", "--root", root, "--out", out, "--views", "image", "--extend")
    assert refused.exit_code == 1
    assert "error: train/real/a.png (train) and test/DDPM/b.png (test) are byte-identical: " in refused.output
    accepted = root.with_name("accepted.txt")
    accepted.write_text("test/DDPM/b.png\n")
    taken = resolve(replace(options(root), extend=True, accept_duplicates=accepted))
    assert taken.plan.rows.num_rows == 3
    build_here(replace(options(root), extend=True, accept_duplicates=accepted))
    assert resolve(options(root)).walk.warnings == []  # planned pairs are not looked at again


def test_files_of_one_size_or_one_tail_are_no_copies(tmp_path: Path) -> None:
    tail = b"t" * TAIL_BYTES
    content = {"a": b"1" + tail, "b": b"2" + tail, "c": b"3" + tail[:-1] + b"u", "d": b"1" + tail, "e": b"", "f": b""}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    sources = [Source(path=name, part="train" if name in "ab" else "test") for name in (*content, "absent")]
    assert [[source.path for source in copies] for copies in find_copies(sources, tmp_path)] == [["a", "d"]]
    assert check_copies(sources, tmp_path, {"d"}) == 1
    assert check_copies([replace(source, is_new=False) for source in sources], tmp_path, set()) == 0


def test_pairs_are_those_of_a_plain_loop() -> None:
    """Of 100,000 equal files (a placeholder that a download leaves) the plain loop looks at 5 billion pairs."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        copies = [
            Source(path=str(n), part=("train", "val", "test")[rng.integers(3)], is_new=bool(rng.integers(2)))
            for n in range(rng.integers(1, 12))
        ]
        expected = []
        for number, copy in enumerate(copies):
            pairs = [(one, copy) for one in copies[:number] if one.part != copy.part and (one.is_new or copy.is_new)]
            expected += pairs[:1]
        assert list(duplicates._across(copies)) == expected
