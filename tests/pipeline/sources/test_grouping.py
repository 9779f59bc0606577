"""Who is on an image of a folder: nobody is taken for two people, and look-alikes do not cross splits unsaid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from support import content, picture, write_faces

from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.shards.plan import read_plan
from bmrl.pipeline.sources import SourceError, Walk
from bmrl.pipeline.sources.folder import PAIRS, walk_folder
from bmrl.pipeline.sources.grouping import Grouping
from bmrl.pipeline.sources.rows import group_split, hash_split
from bmrl.pipeline.taxonomy import Taxonomy

Invoke = Callable[..., Result]
TAXONOMY = Taxonomy.load()
PERSON = r"([^/_]+)_[^/]*$"


def write(root: Path, *names: str) -> Path:
    """Every file a copy of one picture but for a pixel, so that they look alike and none is another's copy."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rgb = picture(1)
        rgb[0, 0] = number
        Image.fromarray(rgb).save(root / name)
    return root


def groups(walk: Walk) -> dict[str, tuple[str, str]]:
    return {row.path: (row.group, row.split) for row in walk.rows}


def apart() -> tuple[str, str]:
    """Two stems of one person that the hash sends into different splits."""
    stems = [f"anna_{number}" for number in range(40)]
    return stems[0], next(stem for stem in stems if hash_split(stem) != hash_split(stems[0]))


def test_a_plus_in_a_name_is_no_swap_unless_it_is_asked_for(tmp_path: Path) -> None:
    names = ("FSLSD/a+.png", "FSLSD/a+b.png", "real/a.png", "real/b.png")
    root = write(tmp_path / "faces", *names)
    found = walk_folder(root, TAXONOMY)
    assert groups(found) == {
        name: (group, hash_split(group)) for name, group in zip(names, ("a%2B", "a%2Bb", "a", "b"), strict=True)
    }
    (warning,) = found.warnings
    assert warning.startswith("2 file names hold a '+' and are taken for one identity each; where a+b is a swap")
    assert warning.endswith(f"--group-regex '{PAIRS}'")
    asked = walk_folder(root, TAXONOMY, Grouping.of(PAIRS, ""))
    kept = {"FSLSD/a+.png": "a", "FSLSD/a+b.png": "a+b", "real/a.png": "a", "real/b.png": "b"}
    split = group_split("a+b")
    if split is None:
        del kept["FSLSD/a+b.png"]
        assert asked.unused["its identities fall into different splits"] == 1
    assert {path: group for path, (group, _) in groups(asked).items()} == kept
    assert not asked.warnings


@pytest.mark.parametrize(
    ("regex", "path", "group"),
    [
        (PERSON, "real/anna_1.png", "anna"),
        (r"id\d+", "real/x-id7-y.png", "id7"),  # no group: the whole match
        (r"/(\w+)/[^/]+$", "train/real/anna/1.png", "anna"),
        (r"([a-z]+)-([a-z]+)\.", "FSLSD/a-b.png", "a+b"),
        (r"([a-z]+)-([a-z]+)\.", "FSLSD/a-a.png", "a"),
        (r"([^/]+)\.png", "real/a+b.png", "a%2Bb"),  # a plus within one identity stays its own
        (r"(nothing)?", "real/a.png", None),
        (r"nothing", "real/a.png", None),
    ],
)
def test_what_a_pattern_finds(regex: str, path: str, group: str | None) -> None:
    assert Grouping.of(regex, "").group_of(path, Path(path).stem) == group


def test_one_person_stays_in_one_split(tmp_path: Path) -> None:
    one, other = apart()
    root = write(tmp_path / "faces", f"real/{one}.png", f"DDPM/{other}.png", "real/bert_1.png")
    found = walk_folder(root, TAXONOMY, Grouping.of(PERSON, ""))
    assert {path: group for path, (group, _) in groups(found).items()} == {
        f"DDPM/{other}.png": "anna", f"real/{one}.png": "anna", "real/bert_1.png": "bert",
    }  # fmt: skip
    assert len({row.split for row in found.rows if row.group == "anna"}) == 1 and not found.warnings
    by_stem = walk_folder(root, TAXONOMY, Grouping.of(PERSON, "stem"))
    assert {row.path: row.split for row in by_stem.rows} == {
        row.path: row.split for row in walk_folder(root, TAXONOMY).rows
    }
    assert by_stem.warnings == ["1 identities that --group-regex finds stand in more than one split"]


def test_paths_without_an_identity_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "faces", "real/anna_1.png", "real/bert.png")
    with pytest.raises(SourceError, match=r"finds no identity in 1 paths, such as real/bert\.png; it must find one"):
        walk_folder(root, TAXONOMY, Grouping.of(PERSON, ""))


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("folder", ("--group-regex", "("), "--group-regex '(' is no regular expression: "),
        ("manifest", ("--group-regex", "a"), "--group-regex and --split-by are of --dataset folder"),
    ],
)
def test_wrong_use(invoke: Invoke, tmp_path: Path, dataset: str, options: tuple[str, ...], words: str) -> None:
    root = write(tmp_path / "faces", "real/a.png")
    base = ("build", "--dataset", dataset, "--root", root, "--out", tmp_path / "out", "--views", "image")
    done = invoke(main, *base, *options)
    assert done.exit_code == 2 and words in done.stderr


def test_the_pattern_stands_in_the_plan_only_where_it_was_given(
    tmp_path: Path, build_here: Any, invoke: Invoke
) -> None:
    root = write_faces(tmp_path / "faces", {"real": 9, "DDPM": 9})
    given: dict[str, Any] = {"dataset": "folder", "source_root": root, "views": ("image",)}
    plain = build_here(BuildOptions(out=tmp_path / "plain", **given))
    assert set(json.loads((plain / "plan.json").read_text())["settings"]) == {
        "dataset", "limit", "seed", "shard_size", "splits",
    }  # fmt: skip
    before = content(plain)
    assert content(build_here(BuildOptions(out=plain, **given))) == before
    grouped = build_here(BuildOptions(out=tmp_path / "grouped", group_regex=r"(\d)\.png$", **given))
    assert json.loads((grouped / "plan.json").read_text())["settings"]["group_regex"] == r"(\d)\.png$"
    before = content(grouped)
    assert content(build_here(BuildOptions(out=grouped, **given))) == before  # on resume it comes from the plan
    base = ("build", "--dataset", "folder", "--root", root, "--views", "image", "--out")
    done = invoke(main, *base, plain, "--group-regex", "x")
    assert done.exit_code == 2 and "group_regex: the plan has none, asked for x" in done.stderr
    done = invoke(main, *base, grouped, "--split-by", "stem")
    assert done.exit_code == 2 and "split_by: the plan has none, asked for stem" in done.stderr


def test_a_plan_of_version_01_goes_on(tmp_path: Path, build_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has groups `a+b` of stems, which no plan without a pattern has any more."""
    together = next(f"0+{n}" for n in range(1, 99) if group_split(f"0+{n}") is not None)
    root = write(tmp_path / "faces", f"FSLSD/{together}.png", *(f"real/{n}.png" for n in range(4)))
    options = BuildOptions(dataset="folder", source_root=root, out=tmp_path / "out", views=("image",))
    with monkeypatch.context() as old:
        old.setattr("bmrl.pipeline.build.resolve.Grouping.of", lambda *_, **__: Grouping(has_pairs=True))
        out = build_here(options)
    plan = read_plan(out)
    assert plan is not None and together in plan.rows["group"].to_pylist()
    before = content(out)
    assert not resolve(options).is_new and content(build_here(options)) == before


def test_look_alikes_across_splits_are_named(invoke: Invoke, tmp_path: Path) -> None:
    one, other = apart()
    root = write(tmp_path / "faces", f"real/{one}.png", f"real/{other}.png")
    base = ("build", "--dataset", "folder", "--root", root, "--views", "image", "--workers", 0)
    tried = invoke(main, *base, "--out", tmp_path / "out", "--dry-run")
    built = invoke(main, *base, "--out", tmp_path / "out")
    for text in (tried.stdout, built.stderr):
        (warning,) = [line for line in text.splitlines() if "look alike" in line]
        assert warning.startswith("warning: 1 pairs of images in different splits look alike")
        assert f"real/{one}.png" in warning and f"real/{other}.png" in warning
        assert warning.endswith("name the person by --group-regex, or sort them into split folders")
    assert tried.exit_code == built.exit_code == 0
    again = invoke(main, *base, "--out", tmp_path / "out")
    assert "look alike" not in again.stderr and "0 columns of shards written" in again.stdout
    grouped = invoke(main, *base, "--out", tmp_path / "grouped", "--group-regex", PERSON, "--dry-run")
    assert grouped.exit_code == 0 and "look alike" not in grouped.stdout
