"""Leaving rows out of a new build, by licence and by name, and what a later run makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from support import content, picture

from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.shards.plan import PlanError
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.sources import SourceError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eight images, two of a licence of their own, in a manifest."""
    folder = tmp_path / "source"
    folder.mkdir()
    lines = ["path,generator,split,licence"]
    for number in range(8):
        Image.fromarray(picture(number, 80)).save(folder / f"{number}.png")
        licence = "CC BY-NC 4.0" if number < 2 else "CC0"
        lines.append(f"{number}.png,{'real' if number % 2 else 'DDPM'},train,{licence}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


def build(build_here: Callable[[BuildOptions], Path], source: Path, **given: Any) -> Path:
    return build_here(options(source, **given))


def options(source: Path, **given: Any) -> BuildOptions:
    out = source.with_name("out")
    return BuildOptions(dataset="manifest", source_root=source, out=out, views=("image",), **given)


def stored(root: Path) -> list[str]:
    return sorted(ShardSet.open(root).index["source_path"].to_pylist())


def test_a_licence_is_left_out_and_counted(source: Path, build_here: Callable[[BuildOptions], Path]) -> None:
    intake = resolve(options(source, exclude_licences=("CC BY-NC 4.0",)))
    assert intake.walk.unused["--exclude-licence CC BY-NC 4.0"] == 2
    root = build(build_here, source, exclude_licences=("CC BY-NC 4.0",))
    assert stored(root) == [f"{number}.png" for number in range(2, 8)]
    assert {facts["licence"] for facts in ShardSet.open(root).document["generators"].values()} == {"CC0"}


def test_paths_and_keys_are_left_out(source: Path, build_here: Callable[[BuildOptions], Path]) -> None:
    keys = {row["source_path"]: row["key"] for row in resolve(options(source)).plan.rows.to_pylist()}
    file = source.with_name("leave.txt")
    file.write_text(f"5.png\n\n{keys['6.png']}\n5.png\n")
    assert resolve(options(source, exclude=file)).walk.unused["--exclude leave.txt"] == 2
    assert stored(build(build_here, source, exclude=file)) == [f"{number}.png" for number in (0, 1, 2, 3, 4, 7)]


def test_a_later_run_never_brings_them_in_unasked(source: Path, build_here: Callable[[BuildOptions], Path]) -> None:
    excluded: dict[str, Any] = {"exclude_licences": ("CC BY-NC 4.0",)}
    root = build(build_here, source, **excluded)
    before = content(root)
    again = resolve(options(source, **excluded))
    assert not again.is_new
    build(build_here, source, **excluded)
    assert content(root) == before
    with pytest.raises(
        PlanError, match=r"0\.png came in since the plan; 1\.png came in since the plan\. Take them in with"
    ):
        resolve(options(source))
    assert resolve(options(source, extend=True)).plan.rows.num_rows == 8
    with pytest.raises(PlanError, match=r"2\.png was planned and is gone, or is left out now"):
        resolve(options(source, exclude_licences=("CC0",)))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"exclude_licences": ("CC BY",)}, PlanError, "'CC BY': no source has it; found are 'CC BY-NC 4.0', 'CC0'"),
        ({"exclude_licences": ("CC BY-NC 4.0", "CC0")}, PlanError, "leave no source"),
        ({"exclude": "0.png\n9.png\n"}, SourceError, "leave.txt line 2: '9.png' is neither a source path nor a key"),
    ],
)
def test_what_matches_nothing_is_an_error(
    given: dict[str, Any], kind: type[Exception], message: str, source: Path
) -> None:
    if "exclude" in given:
        file = source.with_name("leave.txt")
        file.write_text(given["exclude"])
        given = {"exclude": file}
    with pytest.raises(kind) as error:
        resolve(options(source, **given))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_command(invoke: Callable[..., Result], source: Path) -> None:
    (source.with_name("leave.txt")).write_text("7.png\n")
    base = ("build", "--dataset", "manifest", "--root", source, "--out", source.with_name("out"), "--views", "image")
    result = invoke(
        main, *base, "--exclude", source.with_name("leave.txt"), "--exclude-licence", "CC BY-NC 4.0", "--dry-run"
    )
    assert result.exit_code == 0, result.output
    assert "left out: 1 files (--exclude leave.txt)" in result.stdout
    assert "left out: 2 files (--exclude-licence CC BY-NC 4.0)" in result.stdout
    assert invoke(main, *base, "--exclude-licence", "MIT", "--dry-run").exit_code == 2
    assert invoke(main, *base, "--exclude", source / "none.txt", "--dry-run").exit_code == 1
