"""A build leaves nothing of its Ray behind; what a killed one left goes with the next, and a live one is left alone."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support import build, write_faces

from bmrl.pipeline.build import ray_folder as module
from bmrl.pipeline.build.ray_folder import LONGEST, PREFIX, ray_folder, sweep


def test_a_build_leaves_no_session_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))  # short, as a socket's path must be
    monkeypatch.setenv("TMPDIR", str(base))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))  # where it would go by itself
    (base / f"{PREFIX}killed1").mkdir()
    (base / f"{PREFIX}killed1/lock").touch()
    faces = write_faces(tmp_path / "faces", {"real": 2, "DDPM": 2})
    done = build(faces, tmp_path / "out", "--views", "image", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert list(base.glob(f"{PREFIX}*")) == []
    assert not (tmp_path / "ray").exists()
    broken = build(faces, tmp_path / "maps", "--parser", f"maps:bisenet:{faces}", "--workers", "1")
    assert broken.returncode == 1 and "expected a palette" in broken.stderr
    assert list(base.glob(f"{PREFIX}*")) == []
    base.rmdir()


def test_an_interrupted_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(tempfile.mkdtemp(prefix="b-", dir="/tmp"))
    faces = write_faces(tmp_path / "faces", {"real": 2, "DDPM": 2})
    marker = tmp_path / "marker"
    process = subprocess.Popen(
        [sys.executable, "-c", "from bmrl.cli.prep import main; main()", "build", "--dataset", "folder", "--root", faces,
         "--out", tmp_path / "out", "--views", "image", "--workers", "1"],
        env={**os.environ, "TMPDIR": str(base), "BMRL_PAUSE_AT": f"before-rename:image/000000.tar:{marker}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 100
    while not (marker.exists() and marker.read_text()) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert len(list(base.glob(f"{PREFIX}*"))) == 1
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 130, stderr
    assert list(base.iterdir()) == []
    base.rmdir()


def test_only_the_dead_are_swept(tmp_path: Path) -> None:
    live, dead, young, old = (tmp_path / f"{PREFIX}{name}" for name in ("live", "dead", "young", "old"))
    for folder in (live, dead, young, old):
        (folder / "session").mkdir(parents=True)
    (dead / "lock").touch()
    os.utime(old, (0, 0))
    with (live / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [live, young]


def test_a_name_that_is_short_enough_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(deep))
    with ray_folder() as folder:
        assert len(os.fsencode(folder)) <= LONGEST and folder.parent == Path("/tmp")
    assert not folder.exists()
