"""Files from outside: regular ones alone are opened, and none beyond its limit is read."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmrl.pipeline.store import reading
from bmrl.pipeline.store.reading import (
    NotRegularError,
    check_no_link,
    check_safetensors,
    open_regular,
    read_file,
    read_within,
)
from bmrl.pipeline.store.yaml_file import read_yaml


def test_an_interrupt_stays_one_whenever_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after the file took the descriptor over: closed twice, it would be an error of the file instead."""
    (tmp_path / "file").write_bytes(b"x")

    def interrupted(*arguments: object, **options: object) -> None:
        open(*arguments, **options)  # type: ignore[call-overload]  # noqa: PTH123, SIM115
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "open", interrupted, raising=False)
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone
    with pytest.warns(ResourceWarning), pytest.raises(KeyboardInterrupt):
        open_regular(tmp_path / "file")
    assert len(os.listdir("/proc/self/fd")) <= len(before)  # noqa: PTH208


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    signal.alarm(20)
    yield
    signal.alarm(0)


def put_socket(path: Path) -> None:
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(path))
    held.close()


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "terminal": (lambda path: path.symlink_to("/dev/tty"), "not a regular file"),
    "socket": (put_socket, "not a regular file"),
    "folder": (Path.mkdir, "Is a directory"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make, reason = SPECIAL[kind]
    path = Path("x")
    make(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError) as caught:
        read_file(path)
    assert caught.value.strerror == reason
    with pytest.raises(ValueError, match=f"x cannot be read: {reason}"):
        read_yaml(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    os.truncate(path, 2**42)  # a hole: no byte of it is on the disk
    with pytest.raises(OSError, match=f"has {2**42} bytes, more than the 1000 that are read"):
        read_file(path, limit=1000)
    os.truncate(path, 1000)
    assert read_file(path, limit=1000) == bytes(1000)
    os.truncate(path, 1001)
    with pytest.raises(OSError, match="has 1001 bytes"):
        read_file(path, limit=1000)


def test_files_whose_size_is_not_said_are_bounded_too() -> None:
    whole = Path("/proc/self/maps").read_bytes()
    assert len(read_file(Path("/proc/self/maps"))) > len(whole) // 2
    with pytest.raises(OSError, match="more than the 100"):
        read_file(Path("/proc/self/maps"), limit=100)


def test_links_below_a_shard_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_bytes(b"x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "image").symlink_to(tmp_path / "other")
    (root / "plan.json").symlink_to(tmp_path / "other/file")
    for name in ("image/file", "plan.json"):
        with pytest.raises(NotRegularError, match="is a link"):
            read_within(root, name)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "other")
    assert read_within(link, "file") == b"x"  # ROOT itself may be one
    check_no_link(link, "absent")


def test_a_header_of_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length, size in ((2**40, 100), (2**63, 2**40), (200_000_000, 2**40), (93, 100)):
        path.write_bytes(length.to_bytes(8, "little"))
        os.truncate(path, size)
        with pytest.raises(OSError, match="announces a header"):
            check_safetensors(path)


def test_opened_files_are_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with open_regular(tmp_path / "x") as file:
        assert not os.get_inheritable(file.fileno())


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "is not valid YAML: it is nested too deeply"),
        (LAUGHS, "is not valid YAML: its aliases stand for too much"),
        ("&a [*a]", "is not valid YAML: an alias stands in what it names"),
        ("seen: 2026-13-45", "is not valid YAML: "),
        ("? [a]\n: b", "is not valid YAML: "),
        ("a: !!python/object:os.system x", "is not valid YAML: "),
    ],
)
def test_yaml_that_lies(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        read_yaml(path)
    assert len(str(caught.value).splitlines()) == 1


def test_yaml_as_it_should_be(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &x [1, 2]\nb: *x\n")
    assert read_yaml(path) == {"a": [1, 2], "b": [1, 2]}
    path.write_text("")
    assert read_yaml(path) is None
