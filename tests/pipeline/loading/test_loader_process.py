"""The loader as a process: memory, file descriptors, shared memory, SIGKILL, and two trainers on one ROOT."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bmrl.pipeline import ShardSet

VIEWS = ("image", "edge", "noise", "parsing", "text")
LOAD = """\
import sys
from pathlib import Path
from bmrl.pipeline import ShardSet
loader = ShardSet.open(sys.argv[1]).loader(views=["image", "edge", "noise", "parsing", "text"], batch_size=8, num_threads=2)
for epoch in range(int(sys.argv[2])):
    count = sum(len(batch["key"]) for batch in loader)
    anonymous = Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]
    print(epoch, count, anonymous, flush=True)
"""


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_no_file_descriptor_is_kept(small_set: ShardSet) -> None:
    """A set may have more shards than a process files: all columns are open at once under a limit that fits few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loader = small_set.loader(views=VIEWS, batch_size=4, num_threads=0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 3, hard))
    try:
        keys = [key for batch in loader for key in batch["key"]]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(keys) == 48 and len(small_set.shard_names) * 4 > 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_sigkill_leaves_nothing(small_root: Path) -> None:
    before = files(small_root)
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(small_root), "1000000"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[:2] == ["0", "48"]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        assert children == "", "threads, not processes"
        used = Path(f"/proc/{process.pid}/maps").read_text()
        assert "/image/000000.tar" in used and "/dev/shm" not in used and "SYSV" not in used
        process.send_signal(signal.SIGKILL)
    assert files(small_root) == before


@pytest.mark.slow
def test_memory_is_flat_over_30_epochs(small_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(small_root), "30"], capture_output=True, text=True, check=True, timeout=300
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [(int(epoch), int(count)) for epoch, count, _ in lines] == [(epoch, 48) for epoch in range(30)]
    anonymous = [int(kib) / 1024 for *_, kib in lines]
    assert max(anonymous[10:]) - anonymous[9] < 8, anonymous  # MiB; a kept batch of 8 samples would be 3 an epoch


@pytest.mark.slow
def test_two_trainers_on_one_root(small_root: Path, small_protocol: str, tmp_path: Path) -> None:
    """At the same time, and each as if it were alone: equal losses, step by step."""

    def command(out: Path) -> list[str]:
        code = "from bmrl.cli.train import main; main()"
        options = [
            "--preset",
            "demo",
            "--epochs",
            "1",
            "--batch-size",
            "4",
            "--device",
            "cpu",
            "--protocol",
            small_protocol,
        ]
        return [sys.executable, "-c", code, "--shards", str(small_root), "--out", str(out), *options]

    pair = [
        subprocess.Popen(command(tmp_path / name), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    outputs = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    alone = subprocess.run(command(tmp_path / "alone"), capture_output=True, text=True, check=False, timeout=300)
    assert alone.returncode == 0, alone.stderr
    losses = []
    for name in ("one", "two", "alone"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "step" in line])
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) == 21 // 4
    assert torch.tensor(losses[0]).isfinite().all()
