"""Files come whole or not at all; an error names the file that was to be."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bmrl.pipeline.store import local
from bmrl.pipeline.store.local import (
    AtomicFile,
    file_sha256,
    link_or_copy,
    remove_temporaries,
    write_bytes,
    write_json,
    write_readable_json,
)


@pytest.mark.parametrize("durable", [True, False])
def test_nothing_is_there_before_the_commit(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with AtomicFile(path, durable=durable) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        (temporary,) = tmp_path.glob(".tmp-*-file")
        written = file.commit()
    assert path.read_bytes() == b"new" and not temporary.exists()
    assert (written.num_bytes, written.sha256) == (3, file_sha256(path))
    with AtomicFile(path) as file:
        file.write(b"never committed")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"new"


def test_only_a_durable_file_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_bytes(tmp_path / "file", b"x", durable=False)
    assert synced == []
    write_bytes(tmp_path / "file", b"x")
    assert len(synced) == 2  # the file, then its folder


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_an_error_names_the_file_that_was_to_be(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out" / "file"
    if call == "fsync":
        path.parent.mkdir()

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_bytes(path, b"x")
    assert caught.value.filename == str(path)
    assert caught.value.errno == (errno.ENOSPC if call == "fsync" else errno.ENOENT)
    assert not list(tmp_path.rglob(".tmp-*"))


def test_two_forms_of_json(tmp_path: Path) -> None:
    document = {"b": [1, 2], "a": "ä"}
    write_json(tmp_path / "canonical.json", document)
    write_readable_json(tmp_path / "readable.json", document)
    assert (tmp_path / "canonical.json").read_text() == '{"a":"ä","b":[1,2]}\n'
    assert (tmp_path / "readable.json").read_text() == json.dumps(document, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_name_or_a_copy(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = tmp_path / "source", tmp_path / "last"
    source.write_bytes(b"weights")
    path.write_bytes(b"older")
    if not has_links:

        def refuses(*_: Any) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(local.os, "link", refuses)
    for _ in range(2):  # onto a name of the same file too
        link_or_copy(source, path)
        assert path.read_bytes() == b"weights" and path.samefile(source) == has_links
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last", "source"]


def test_a_link_that_fails_otherwise_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        link_or_copy(tmp_path / "nothing", tmp_path / "last")
    assert caught.value.filename == str(tmp_path / "last")


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    for name in (".tmp-1-a", "image/.tmp-2-b", "image/000000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["000000.tar"]
