"""Folders as people have them: nothing that lies below --root goes missing without a word."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import write_faces

from bmrl.pipeline.sources import DATASETS, SourceError, Walk
from bmrl.pipeline.sources.folder import walk_folder
from bmrl.pipeline.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
ROOM = "00000"  # as FFHQ has folders of a thousand


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_faces(tmp_path / "faces", {"real": 2, "DDPM": 1})


def paths(walk: Walk) -> list[str]:
    return [row.path for row in walk.rows]


WHOLE = ["DDPM/000.png", "real/000.png", "real/001.png"]


def walk_ffhq(root: Path) -> Walk:
    return DATASETS["ffhq"].walk(root, TAXONOMY)


@pytest.mark.parametrize("walk", [lambda root: walk_folder(root, TAXONOMY), walk_ffhq])
def test_a_folder_that_cannot_be_listed_is_an_error(
    walk: Callable[[Path], Walk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.walk passes over one, and the build was complete without its images."""
    locked = write_faces(tmp_path / "faces", {"real": 2}) / "real" / ROOM
    locked.mkdir()
    scandir = os.scandir

    def refuses(folder: str) -> Iterator[os.DirEntry[str]]:
        if os.fspath(folder).rstrip("/") == str(locked):
            raise PermissionError(13, os.strerror(13), str(locked))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(SourceError, match=f"/real/{ROOM} cannot be read: Permission denied$"):
        walk(tmp_path / "faces")


@pytest.mark.parametrize("place", ["", "train"])
def test_a_root_that_cannot_be_listed(place: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "train").mkdir()
    iterdir = Path.iterdir

    def refuses(folder: Path) -> Iterator[Path]:
        if folder == root / place:
            raise PermissionError(13, os.strerror(13), str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuses)
    with pytest.raises(SourceError, match=r"cannot be read: Permission denied$"):
        walk_folder(root, TAXONOMY)


def test_linked_folders_are_not_followed_but_counted(root: Path, tmp_path: Path) -> None:
    """A generator's own link was followed out of the root, or round in a circle; one below was left out unsaid."""
    outside = write_faces(tmp_path / "outside", {"mine": 2})
    (root / "mine").symlink_to(outside / "mine")
    (root / "real/more").symlink_to(outside / "mine")
    (root / "train").mkdir()
    (root / "train/round").symlink_to(root)
    found = walk_folder(root, TAXONOMY)
    assert paths(found) == WHOLE
    assert found.unused == {"a link to a folder": 3}
    assert found.warnings == []


def test_hidden_folders_are_not_entered_but_counted(root: Path) -> None:
    """Thumbnails and checkpoints of notebooks were samples."""
    for name in (".cache/a", "real/.thumbnails", "real/deep/.ipynb_checkpoints"):
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(b"x")
    found = walk_folder(root, TAXONOMY)
    assert paths(found) == WHOLE
    assert found.unused == {"a hidden folder": 3}


def test_images_beside_the_generators_are_counted(root: Path) -> None:
    (root / "val").mkdir()
    for place in ("", "val/"):
        (root / f"{place}face.PNG").write_bytes(b"x")
    found = walk_folder(root, TAXONOMY)
    assert paths(found) == WHOLE
    assert found.unused == {"stands in no generator's folder": 2}


def test_a_link_to_itself_is_named(root: Path) -> None:
    (root / "real/loop.png").symlink_to("loop.png")
    (root / "real/far.png").symlink_to("/etc/hostname")
    found = walk_folder(root, TAXONOMY)
    assert paths(found) == WHOLE and found.unused == {"a link that leads nowhere or out of the root": 2}
    with pytest.raises(SourceError, match=r"2 links .*real/loop\.png: 'loop\.png' leads nowhere") as error:
        found.check_links()
    assert "real/far.png: far.png is a link that leads out of the root" in str(error.value)
    assert str(error.value).endswith("; take them away, or leave them out with --skip-links")


def test_paths_that_are_not_utf8_are_counted(root: Path) -> None:
    for name in (b"real/\xff.png", b"caf\xe9"):
        if name.endswith(b".png"):
            Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"x")
        else:
            folder = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
            folder.mkdir()
            (folder / "1.png").write_bytes(b"x")
    found = walk_folder(root, TAXONOMY)
    assert paths(found) == WHOLE
    assert found.unused == {"its path is not UTF-8": 2}
    assert found.warnings == []
    (root / "00001.png").write_bytes(b"x")
    assert walk_ffhq(root).unused["its path is not UTF-8"] == 2


def test_a_name_of_two_lines_is_refused(root: Path) -> None:
    """A sentence of the text view is a line."""
    (root / "DDPM").rename(root / "my\ngan")
    with pytest.raises(SourceError, match=r"generator 'my\\ngan': a name is one line"):
        walk_folder(root, TAXONOMY)


def test_splits_below_a_generator_are_said_to_be_none(root: Path) -> None:
    """Their images went into the hash's splits without a word; masks beside the images became a source."""
    for name in ("real/train", "masks/val", "masks/test"):
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(b"x")
    found = [warning for warning in walk_folder(root, TAXONOMY).warnings if "no splits" in warning]
    assert [warning.split(";")[0] for warning in found] == [
        "folder 'masks' is taken for a generator, and its folders val, test for no splits",
        "folder 'real' is taken for a generator, and its folders train for no splits",
    ]


def test_one_warning_for_a_generator_that_nobody_knows(root: Path) -> None:
    for split in ("train", "val", "test"):
        (root / split).mkdir()
        for name in ("mystery", "real"):
            (root / split / name).mkdir()
            (root / split / name / f"{split}.png").write_bytes(b"x")
    (root / "empty").mkdir()
    assert [warning.split(" is ")[0] for warning in walk_folder(root, TAXONOMY).warnings] == ["folder 'mystery'"]
