"""Faults of the machine while a build runs: one sentence, the right exit code, and the same bytes after a second run."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import Mock

import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from support import content, mounted, run_command

from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.report import BuildError
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.build.work import ShardTask, SourceChangedError, build_with_tool
from bmrl.pipeline.shards.plan import PlanError, write_plan
from bmrl.pipeline.store import reading
from bmrl.pipeline.store.local import AtomicFile
from bmrl.pipeline.store.lock import RootBusyError, lock_root
from bmrl.pipeline.views.parsing import Labels
from bmrl.pipeline.views.view import Sample

Options = Callable[..., BuildOptions]


class _Unlabelled:
    """A tool that reads sources, and must not come to label them."""

    reads_source = True

    def label(self, samples: Sequence[Sample]) -> list[Labels]:
        return []


Build = Callable[[BuildOptions], Path]
COMMAND = [sys.executable, "-c", "from bmrl.cli.prep import main; main()"]


@pytest.fixture
def paused(
    small_source: Path, tmp_path: Path
) -> Iterator[Callable[[Path, str], tuple[subprocess.Popen[str], Callable[[], None]]]]:
    """Start a build of the small source into a folder; returns when it has come to a step, with a way to let it go on."""
    started: list[subprocess.Popen[str]] = []

    def start(out: Path, step: str) -> tuple[subprocess.Popen[str], Callable[[], None]]:
        marker = tmp_path / "marker"
        process = subprocess.Popen(
            [*COMMAND, *_build_arguments(small_source, out)],
            env={**os.environ, "BMRL_PAUSE_AT": f"{step}:{marker}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        _wait_for(lambda: (marker.exists() and marker.read_text() != "") or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        return process, lambda: marker.write_text("") and None

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _build_arguments(source: Path, out: Path) -> list[str]:
    maps = f"maps:bisenet:{source.with_name('maps')}"
    return ["build", "--dataset", "folder", "--root", str(source), "--out", str(out), "--shard-size", "8",
            "--parser", maps, "--workers", "2"]  # fmt: skip


def _wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _catches_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def _error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


@pytest.mark.slow
def test_a_disk_that_fills_up_during_the_build(
    small_source: Path, small_root: Path, paused: Any, tmp_path: Path
) -> None:
    with mounted(tmp_path / "disk", "size=64m") as disk:
        process, go_on = paused(disk / "out", "plan-written:plan.json")
        (disk / "other.bin").write_bytes(bytes(62 * 2**20))  # somebody else's
        go_on()
        _, stderr = process.communicate(timeout=200)
        assert process.returncode == 1
        assert "No space left on device" in _error(stderr)
        (disk / "other.bin").unlink()
        again = run_command("prep", *_build_arguments(small_source, disk / "out"))
        assert again.returncode == 0, again.stderr
        assert content(disk / "out") == content(small_root)


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(small_source: Path, small_root: Path, paused: Any, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64m") as disk:
        out = disk / "out"
        process, go_on = paused(out, "after-rename:image/000001.tar")
        # A read-only remount is refused while files are open for writing; a read-only bind mount over it is not.
        subprocess.run(["mount", "--bind", str(out / "edge"), str(out / "edge")], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(out / "edge")], check=True)
        go_on()
        _, stderr = process.communicate(timeout=200)
        subprocess.run(["umount", "-l", str(out / "edge")], check=True)
        assert process.returncode == 1
        assert "Read-only file system" in _error(stderr)
        again = run_command("prep", *_build_arguments(small_source, out))
        assert again.returncode == 0, again.stderr
        assert content(out) == content(small_root)


@pytest.mark.parametrize("step", ["write", "sync", "commit"])
def test_an_input_output_error_leaves_nothing_half(
    step: str,
    small_options: Options,
    small_root: Path,
    build_here: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    whole = getattr(AtomicFile, step)

    def fails(self: AtomicFile, *arguments: Any) -> Any:
        if self.path.name == "000001.tar" and self.path.parent.name == "noise":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self.path))
        return whole(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AtomicFile, step, fails)
        with pytest.raises(BuildError, match="Input/output error"):
            build_here(small_options(out))
    assert not (out / "dataset.json").exists()
    assert not list(out.rglob(".tmp-*"))
    assert not (out / "noise/000001.tar").exists()
    assert content(build_here(small_options(out))) == content(small_root)


def test_sources_that_cannot_be_read_are_dropped_with_their_reason(
    small_source: Path, small_options: Options, build_here: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(small_source, tmp_path / "source")
    shutil.copytree(small_source.with_name("maps"), tmp_path / "maps")
    files = sorted(source.rglob("*.png"))[:3]
    victims = dict(zip(files, (errno.EIO, errno.EACCES, errno.ENOENT), strict=True))
    open_regular = reading.open_regular

    def fails(path: Path) -> BinaryIO:
        if path in victims:
            raise OSError(victims[path], os.strerror(victims[path]), str(path))
        return open_regular(path)

    monkeypatch.setattr(reading, "open_regular", fails)
    out = build_here(small_options(tmp_path / "out", source_root=source, parser=f"maps:bisenet:{tmp_path / 'maps'}"))
    failures = pq.read_table(out / "failures.parquet").to_pylist()
    assert {(row["source_path"], row["reason"]) for row in failures} == {
        (path.relative_to(source).as_posix(), f"cannot be read: {os.strerror(code)}") for path, code in victims.items()
    }
    assert {(row["stage"], row["attempt"]) for row in failures} == {("image", 0)}
    assert pq.read_table(out / "index.parquet").num_rows == 50 - 3


def test_a_pipe_is_dropped_and_not_waited_for(
    invoke: Callable[..., Result], small_options: Options, build_here: Build, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "test/real").mkdir(parents=True)
    os.mkfifo(source / "test/real/pipe.png")
    options = {"source_root": source, "views": ("image",), "parser": None}
    out = build_here(small_options(tmp_path / "out", **options))
    (failure,) = pq.read_table(out / "failures.parquet").to_pylist()
    assert failure["reason"] == "cannot be read: not a regular file"
    dry = invoke(
        main, "build", "--dataset", "folder", "--root", source, "--out", tmp_path / "x", "--views", "image", "--dry-run"
    )
    assert dry.exit_code == 0 and "1 of 1 could not be read" in dry.stdout


@pytest.mark.slow
def test_permission_denied_on_one_file(small_source: Path, tmp_path: Path) -> None:
    source = shutil.copytree(small_source, tmp_path / "source")
    shutil.copytree(small_source.with_name("maps"), tmp_path / "maps")
    locked = sorted(source.rglob("*.png"))[0]
    locked.chmod(0)

    def obey_modes() -> None:  # root gives up the right to read everything
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    done = subprocess.run(
        [*COMMAND, *_build_arguments(source, tmp_path / "out")],
        capture_output=True, text=True, check=False, preexec_fn=obey_modes,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    (failure,) = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert failure["source_path"] == locked.relative_to(source).as_posix()
    assert failure["reason"] == "cannot be read: Permission denied"
    locked.chmod(0o644)
    retried = run_command("prep", *_build_arguments(source, tmp_path / "out"), "--retry-failed")
    assert retried.returncode == 0, retried.stderr
    assert pq.read_table(tmp_path / "out/index.parquet").num_rows == 50


@pytest.mark.parametrize("vanishes", [True, False])
def test_a_source_that_changes_after_its_image(
    vanishes: bool, small_source: Path, small_options: Options, build_here: Build, tmp_path: Path
) -> None:
    source = shutil.copytree(small_source, tmp_path / "source")
    out = build_here(small_options(tmp_path / "out", source_root=source, views=("image", "edge")))
    victim = sorted((source / "train/real").iterdir())[0]
    if vanishes:
        whole = victim.read_bytes()
        victim.unlink()
        with pytest.raises(PlanError, match=f"{victim.name} was planned and is gone"):
            build_here(small_options(out, source_root=source, views=("parsing",)))
        victim.write_bytes(whole)
        return
    victim.write_bytes(victim.read_bytes() + b"\0")
    plan = resolve(small_options(out, source_root=source, views=("parsing",))).plan
    write_plan(out, plan)
    row = next(row for row in plan.rows.to_pylist() if row["source_path"].endswith(f"real/{victim.name}"))
    shard = row["shard"]
    task = ShardTask(
        root=out, source_root=source, shard=shard, rows=plan.shard_rows(shard).to_pylist(), plans=plan.views,
        views=("parsing",), plan_id=plan.id,
    )  # fmt: skip
    with pytest.raises(SourceChangedError, match=victim.name):
        build_with_tool(task, _Unlabelled())


@pytest.mark.slow
def test_a_worker_that_dies_again_and_again_is_laid_to_a_file(small_source: Path, paused: Any, tmp_path: Path) -> None:
    victim = "train/real/Face train0.png"
    process, _ = paused(tmp_path / "out", f"reading:{victim}")
    stop = threading.Event()

    def kill_readers() -> None:  # whoever has come to the file
        marker = tmp_path / "marker"
        while not stop.is_set():
            text = marker.read_text() if marker.exists() else ""
            if text and psutil.pid_exists(int(text)):
                psutil.Process(int(text)).kill()
                marker.unlink()
            time.sleep(0.02)

    killer = threading.Thread(target=kill_readers)
    killer.start()
    _, stderr = process.communicate(timeout=200)
    stop.set()
    killer.join()
    assert process.returncode == 1
    assert "died 3 times" in _error(stderr)
    assert victim in _error(stderr)
    again = run_command("prep", *_build_arguments(small_source, tmp_path / "out"))
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_ray_that_is_killed_as_a_whole_is_one_sentence(small_source: Path, paused: Any, tmp_path: Path) -> None:
    """Its tables too: Ray would end the build after a minute, in words of its own. The same command then goes on."""
    out = tmp_path / "out"
    process, _ = paused(out, "temp-written:image/000002")
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    _, stderr = process.communicate(timeout=45)
    assert process.returncode == 1
    assert _error(stderr) == (
        "error: the Ray node died (out of memory, or killed); what is committed stays, the same command goes on"
    )
    assert "GCS" not in stderr
    again = subprocess.run(
        [*COMMAND, *_build_arguments(small_source, out)], capture_output=True, text=True, check=False, timeout=200
    )
    assert again.returncode == 0, again.stderr


def test_a_sidecar_of_another_shard_is_done_again(small_options: Options, small_copy: Path, build_here: Build) -> None:
    before = content(small_copy)
    for view in ("image", "edge"):
        shutil.copy(small_copy / view / "000001.json", small_copy / view / "000000.json")
    assert content(build_here(small_options(small_copy))) == before


def test_a_column_of_another_plan_is_named(small_options: Options, build_here: Build, tmp_path: Path) -> None:
    options = {"views": ("image", "edge"), "parser": None}
    out = build_here(small_options(tmp_path / "out", **options))
    other = build_here(small_options(tmp_path / "other", seed=1, **options))
    for view in ("image", "edge"):
        for suffix in ("tar", "json"):
            shutil.copy(other / f"{view}/000000.{suffix}", out / f"{view}/000000.{suffix}")
    (out / "dataset.json").unlink()  # of an interrupted build: a finished one is not gone through again
    with pytest.raises(ValueError, match=r"^image/000000\.json is of another plan; remove it"):
        build_here(small_options(out, **options))
    (out / "image/000000.json").unlink()
    assert (
        content(build_here(small_options(out, **options)))["image/000000.json"]
        != (other / "image/000000.json").read_bytes()
    )


def test_a_view_is_added_to_a_shard_of_which_nothing_was_kept(
    small_options: Options, build_here: Build, tmp_path: Path
) -> None:
    source = tmp_path / "source/test/real"
    source.mkdir(parents=True)
    (source / "broken.png").write_bytes(b"no image")
    options = {"source_root": source.parents[1], "parser": None}
    out = build_here(small_options(tmp_path / "out", views=("image",), **options))
    build_here(small_options(out, views=("edge", "noise", "text"), **options))
    whole = build_here(small_options(tmp_path / "whole", views=("image", "edge", "noise", "text"), **options))
    assert content(out) == content(whole)


def test_a_second_builder_is_told_who_holds_the_root(
    invoke: Callable[..., Result], small_source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with lock_root(out):
        result = invoke(main, *_build_arguments(small_source, out))
    assert result.exit_code == 1
    assert f"is being built by pid {os.getpid()} on " in _error(result.stderr)
    assert not (out / "plan.json").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOLCK and the like let the builder go on unlocked; what NFS says of a lock that is taken does not."""
    (tmp_path / ".log").mkdir()
    (tmp_path / ".log/lock").write_text("pid 7 on elsewhere")
    for number, expected in (
        (errno.EACCES, None),
        (errno.EAGAIN, None),
        (errno.ENOLCK, False),
        (errno.EOPNOTSUPP, False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", Mock(side_effect=OSError(number, "said the kernel")))
            if expected is None:
                with pytest.raises(RootBusyError, match="is being built by pid 7 on elsewhere"), lock_root(tmp_path):
                    pass
                continue
            with lock_root(tmp_path) as held:
                assert held is expected
    with lock_root(tmp_path) as held:
        assert held is True


def test_a_killed_builder_blocks_nobody(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bmrl.pipeline.store.lock import lock_root\n"
        "with lock_root(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with lock_root(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".log/lock").read_text()


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("swallowed", [True, False])
def test_a_sigterm_while_ray_starts_reaches_our_handler(
    swallowed: bool, small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's handler raises; where Python cannot pass an exception on (after a fork, in a finaliser) it is printed and lost."""
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)

    class Finaliser:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        if swallowed:
            Finaliser()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("ray.init", init)
    result = CliRunner().invoke(main, _build_arguments(small_source, tmp_path / "out"))
    assert len(lost) == swallowed
    assert result.exit_code == 130, result.output
    assert result.stderr.splitlines()[-1] == "interrupted: what is committed stays, the same command goes on"
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_build_at_any_moment(number: signal.Signals, small_source: Path, tmp_path: Path) -> None:
    """While it imports, while Ray starts (which takes SIGTERM over), and while tasks run."""
    for delay in (0.1, 1.0, 2.0, 3.0, 5.0):
        process = subprocess.Popen(
            [*COMMAND, *_build_arguments(small_source, tmp_path / f"out-{delay}")],
            # It never ends by itself before the signal, however fast the machine is.
            env={**os.environ, "BMRL_PAUSE_AT": f"after-rename:image/000001.tar:{tmp_path}/marker-{delay}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background shells ignore it
        )
        _wait_for(lambda pid=process.pid: _catches_sigterm(pid))  # from here on an interrupt is promised to end well
        time.sleep(delay)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=100)
        assert process.returncode == 130, stderr
        assert stderr.splitlines()[-1] == "interrupted: what is committed stays, the same command goes on"
