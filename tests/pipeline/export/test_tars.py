"""`bmrl-prep export`: of a damaged shard set an error, never fewer members or other bytes; nothing is written beside OUT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from support import content, write_faces

from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.export.deepfakebench import export_deepfakebench
from bmrl.pipeline.shardset import ShardSet

Invoke = Callable[..., Result]
WHAT = (("--views", "image,edge"), ("--for", "open_clip"), ("--for", "deepfakebench"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("what", WHAT)
def test_a_damaged_tar(what: tuple[str, str], invoke: Invoke, small_copy: Path, tmp_path: Path) -> None:
    flip(small_copy / "image/000001.tar")
    result = invoke(main, "export", small_copy, *what, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "image/000001.tar is damaged" in result.stderr


@pytest.mark.parametrize("file", ["image/000001.json", "edge/000001.json", "edge/000001.tar"])
def test_a_missing_file(file: str, invoke: Invoke, small_copy: Path, tmp_path: Path) -> None:
    """The other columns of the shard would have been exported alone."""
    (small_copy / file).unlink()
    result = invoke(main, "export", small_copy, "--views", "image,edge", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "000001" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("what", WHAT)
def test_an_out_that_is_a_file(what: tuple[str, str], invoke: Invoke, small_root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = invoke(main, "export", small_root, *what, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == f"error: --out {tmp_path / 'out'} is not an empty folder\n"


def test_no_name_leads_out_of_the_export(
    small_options: Callable[..., BuildOptions], build_here: Callable[[BuildOptions], Path], tmp_path: Path
) -> None:
    """Generators and groups come from a stranger's manifest."""
    source = tmp_path / "source"
    write_faces(source, {"real": 3})
    lines = ["path,generator,kind,family,split,group"]
    groups = ("../../../../a", "..", "b")
    lines += [f"real/{n:03d}.png,../../../evil,FS,GAN,test,{group}" for n, group in enumerate(groups)]
    (source / "manifest.csv").write_text("\n".join(lines) + "\n")
    root = build_here(
        small_options(tmp_path / "root", dataset="manifest", source_root=source, views=("image",), parser=None)
    )
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    out = tmp_path / "deep/down/out"
    assert export_deepfakebench(ShardSet.open(root), out) == 3
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(written) == 5 and all(path.is_relative_to(out) for path in written)
    label = "out/.._.._.._evil_Fake/frames"
    assert sorted(path.parent.relative_to(out).as_posix() for path in written if path.suffix == ".png") == [
        f"{label}/.._.._.._.._a",
        f"{label}/_..",
        f"{label}/b",
    ]


@pytest.mark.parametrize("what", [("export", *what, "--out") for what in WHAT] + [("head", "--grid")])
@pytest.mark.parametrize("place", ["new", "dataset.json"])
def test_nothing_is_written_into_the_shard_set(
    place: str, what: tuple[str, ...], invoke: Invoke, small_copy: Path
) -> None:
    """It was 'damaged' afterwards, and --grid ROOT/dataset.json replaced the file."""
    before = content(small_copy)
    result = invoke(main, what[0], small_copy, *what[1:], small_copy / place)
    assert result.exit_code == 2
    assert "inside the shard set" in result.stderr or "not an empty folder" in result.stderr
    assert content(small_copy) == before


@pytest.mark.parametrize("group", ["x" * 300, "é" * 200, "a\0b", "a/b", ".."])
def test_a_group_that_is_no_name_of_a_folder(group: str, small_copy: Path, tmp_path: Path) -> None:
    index = pq.read_table(small_copy / "index.parquet")
    groups = [group, *index["group"].to_pylist()[1:]]
    number = index.column_names.index("group")
    pq.write_table(index.set_column(number, "group", pa.array(groups)), small_copy / "index.parquet")
    digest = hashlib.sha256((small_copy / "index.parquet").read_bytes()).hexdigest()
    sums = (small_copy / "SHA256SUMS").read_text().splitlines()
    sealed = [f"{digest}  index.parquet" if line.endswith("  index.parquet") else line for line in sums]
    (small_copy / "SHA256SUMS").write_text("\n".join(sealed) + "\n")
    assert export_deepfakebench(ShardSet.open(small_copy), tmp_path / "out") == 50
    assert len(list((tmp_path / "out").rglob("*.png"))) == 50
