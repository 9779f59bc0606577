"""--workers 0: the same bytes in this process, no Ray, the same sentences, and nothing of the process is left changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
from click.testing import Result
from support import content, run_command

from bmrl.cli.prep import main
from bmrl.pipeline.build.build import build
from bmrl.pipeline.build.options import BuildOptions, RunSettings
from bmrl.pipeline.build.report import BuildError, Progress
from bmrl.pipeline.shardset import ShardSet

Options = Callable[..., BuildOptions]


def arguments(source: Path, out: Path, *more: str) -> list[str]:
    maps = f"maps:bisenet:{source.with_name('maps')}"
    return ["build", "--dataset", "folder", "--root", str(source), "--out", str(out), "--shard-size", "8",
            "--parser", maps, "--workers", "0", *more]  # fmt: skip


def test_the_command_without_ray_gives_the_same_bytes(small_source: Path, small_root: Path, tmp_path: Path) -> None:
    done = run_command("prep", *arguments(small_source, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "50 samples, 0 dropped" in done.stdout and "seconds per stage" in done.stderr
    assert content(tmp_path / "out") == content(small_root)


def test_ray_is_not_imported(small_source: Path, tmp_path: Path) -> None:
    command = arguments(small_source, tmp_path / "out", "--limit", "1")
    code = f"""import sys
sys.argv[1:] = {command!r}
from bmrl.cli.prep import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert "ray" not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_network_too_is_run_here(shards: Path, faces: Path, tmp_path: Path) -> None:
    """`shards` was built by a Ray worker."""
    options = BuildOptions(
        dataset="folder", source_root=faces, out=tmp_path / "out", parser="bisenet-lite", shard_size=10
    )
    build(options, RunSettings(workers=0), on_progress=lambda p: None, on_message=lambda m: None)
    assert content(tmp_path / "out") == content(shards)


def test_threads_are_limited_during_the_work_only(small_options: Options, tmp_path: Path) -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(2)
    torch.set_num_threads(2)
    try:
        report = build(
            small_options(tmp_path / "out"),
            RunSettings(workers=0),
            on_progress=lambda p: None,
            on_message=lambda m: None,
        )
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (2, 2)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
    shard_set = ShardSet.open(tmp_path / "out")
    assert report.computed == 5 * len(shard_set.shard_names) and report.samples_built == 50


def test_progress_runs_to_the_end(small_options: Options, tmp_path: Path) -> None:
    seen: list[Progress] = []
    build(small_options(tmp_path / "out"), RunSettings(workers=0), on_progress=seen.append, on_message=lambda m: None)
    done = [progress.done for progress in seen]
    assert done == sorted(done) and done[0] == 0 and done[-1] == seen[-1].total == 50


def test_what_a_view_raises_ends_in_the_sentence_of_a_worker(
    small_source: Path, small_options: Options, tmp_path: Path
) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    options = small_options(tmp_path / "out", parser=f"maps:bisenet:{maps}")
    with pytest.raises(BuildError, match=r"^shard 000000, parsing: .*no label map for train/"):
        build(options, RunSettings(workers=0), on_progress=lambda p: None, on_message=lambda m: None)


def test_a_ray_address_says_the_opposite(invoke: Callable[..., Result], small_source: Path, tmp_path: Path) -> None:
    result = invoke(main, *arguments(small_source, tmp_path / "out", "--ray-address", "127.0.0.1:6379"))
    assert result.exit_code == 2
    assert result.stderr == "error: --workers 0 builds in this process; leave --ray-address out\n"


def test_a_dry_run_counts_this_process_as_one_core(
    invoke: Callable[..., Result], small_source: Path, tmp_path: Path
) -> None:
    result = invoke(main, *arguments(small_source, tmp_path / "out", "--dry-run"))
    assert result.exit_code == 0 and "s on 1 cores (measured" in result.stdout


def test_a_drawing_is_made_here_too(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def drawn(root: Path, *, num_workers: int, **_: object) -> None:
        given.append(num_workers)
        raise OSError(0, "drawn")

    monkeypatch.setattr("bmrl.pipeline.build.drawn.draw_demo", drawn)
    for more in ((), ("--workers", "3"), ("--workers", "0")):
        invoke(main, "build", "--dataset", "demo", "--out", tmp_path / "out", *more)
    assert given == [os.cpu_count(), 3, 0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_the_same_sentence(number: signal.Signals, small_source: Path, tmp_path: Path) -> None:
    marker, out = tmp_path / "marker", tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", "from bmrl.cli.prep import main; main()", *arguments(small_source, out)],
        env={**os.environ, "BMRL_PAUSE_AT": f"after-rename:image/000001.tar:{marker}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # background shells ignore it
    )
    end = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "interrupted: what is committed stays, the same command goes on"
    assert not (out / "dataset.json").exists() and (out / "text/000000.tar").exists()
    done = run_command("prep", *arguments(small_source, out))
    assert done.returncode == 0, done.stderr
    assert not list(out.rglob(".tmp-*"))
