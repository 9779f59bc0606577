"""A Ray of our own is nobody else's, and a cluster that cannot be joined is said at once and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import write_faces

COMMAND = [sys.executable, "-c", "from bmrl.cli.prep import main; main()"]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
LISTENERS = """
import os, psutil
from bmrl.pipeline.build.options import RunSettings
from bmrl.pipeline.build.ray_session import ray_session
before = dict(os.environ)
with ray_session(RunSettings(workers=1)) as ray:
    ray.get(ray.remote(lambda: 7).remote())
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        for found in process.net_connections(kind="inet"):
            if found.status == "LISTEN":
                print("listens", found.laddr.ip)
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    assert all(token not in " ".join(p.cmdline()) for p in own.children(recursive=True)), "others may read those"
names = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
assert not names & set(os.environ), "what was set for it is taken back"
with ray_session(RunSettings(workers=1)) as ray:
    print("again", ray.get(ray.remote(lambda: 7).remote()))
"""


def test_a_head_of_our_own_listens_on_loopback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        capture_output=True, text=True, timeout=120, check=False, env={**CLEAN, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 4 and lines[-1] == "again 7"
    assert {line.removeprefix("listens ").removeprefix("::ffff:") for line in lines[:-1]} == {"127.0.0.1"}
    assert list(tmp_path.iterdir()) == [], "no token is written below the home"


def build(tmp_path: Path, address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    source = tmp_path / "faces"
    if not source.exists():
        write_faces(source, {"real": 2, "DDPM": 2})
    options = ("--root", source, "--out", tmp_path / "new/root", "--views", "image", "--ray-address", address)
    done = subprocess.run(
        [*COMMAND, "build", "--dataset", "folder", *map(str, options)],
        capture_output=True, text=True, timeout=60, check=False, env={**CLEAN, "HOME": str(tmp_path), **environment},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line


@pytest.fixture
def unused() -> str:
    """An address where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{held.getsockname()[1]}"


def test_where_nobody_listens(tmp_path: Path, unused: str) -> None:
    for address in (unused, "127.0.0.1:99999"):
        done = build(tmp_path, address)
        assert done.returncode == 1
        assert sentence(done).startswith(f"error: no Ray cluster can be reached at {address}: ")
        assert not (tmp_path / "new").exists(), "neither a plan nor a lock is left"


def test_what_was_there_stays(tmp_path: Path, unused: str) -> None:
    (tmp_path / "new").mkdir()
    assert build(tmp_path, unused).returncode == 1
    assert list((tmp_path / "new").iterdir()) == []


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray with the token aaa...; its processes have its folder in their command lines."""
    folder = tmp_path_factory.getbasetemp() / "r"
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    start = ("start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", f"--temp-dir={folder}")
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *start, "--node-ip-address=127.0.0.1"],
        env={**CLEAN, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_USAGE_STATS_ENABLED": "0"},
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    yield f"127.0.0.1:{port}"
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or []):
            process.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token(tmp_path: Path, cluster: str) -> None:
    help_text = (
        "; the cluster asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file"
    )
    wrong = f"the token for the Ray cluster at {cluster} is missing or wrong"
    none = f"RAY_AUTH_MODE is token, and there is no token for {cluster}"
    mode = {"RAY_AUTH_MODE": "token"}
    cases: list[tuple[dict[str, str], str]] = [
        ({}, wrong),
        ({**mode, "RAY_AUTH_TOKEN": "b" * 64}, wrong),
        (mode, none),
        ({**mode, "RAY_AUTH_TOKEN_PATH": "/none"}, none),
    ]
    for environment, words in cases:
        done = build(tmp_path, cluster, **environment)
        assert done.returncode == 1 and sentence(done).startswith(f"error: {words}{help_text}"), done.stderr
        assert not (tmp_path / "new").exists()
    right = build(tmp_path, cluster, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64)
    assert right.returncode == 0, right.stderr
