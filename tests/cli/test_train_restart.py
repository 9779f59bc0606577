"""bmrl-train as processes: SIGTERM, two ranks, settings that are refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from bmrl.cli import train
from bmrl.pipeline.store.lock import lock_root

training = import_module("bmrl.model.runs.train")  # the package names a function so
calibration = import_module("bmrl.model.runs.calibrate")
TINY = (
    *("--preset", "demo", "--device", "cpu", "--batch-size", "4"),
    *("--set", "model.dim=16", "--set", "model.depth=1", "--set", "model.heads=2", "--set", "model.mlp=16"),
    *("--set", "model.widths=4,4,4,4,8", "--set", "noise_widths=4,4,4", "--set", "precision=float32"),
    *("--set", "text_depth=1", "--set", "text_heads=2", "--set", "text_mlp=16"),
)
CODE = "import torch; torch.set_num_threads(1); from bmrl.cli.train import main; main()"
# Pieces of code to run before the command, CALL and RANK filled in.
SIGNAL_WHILE_THEY_AGREE = """
import os, signal
from bmrl.model.training import trainer
agree, calls = trainer.any_of, []
def any_of(flag, *world):
    calls.append(flag)
    if os.environ["RANK"] == "1" and len(calls) == CALL:
        os.kill(os.getpid(), signal.SIGTERM)
    return agree(flag, *world)
trainer.any_of = any_of
"""
HALT_AFTER = """
import os, signal
from bmrl.model.training import trainer
step = trainer.Trainer._step
def halting(self, batch, number):
    if number == STEP:
        os.kill(os.getpid(), signal.SIGSTOP)
    return step(self, batch, number)
trainer.Trainer._step = halting
"""
FAIL_IN_STEP_4 = """
import errno, os, signal, torch
from bmrl.model.training import metrics, trainer
step = trainer.Trainer._step
def fail(error):
    raise error
def failing(self, batch, number):
    if os.environ["RANK"] == "RANK_OF_IT" and number == 3:
        ACT
    return step(self, batch, number)
trainer.Trainer._step = failing
"""

THREADS_AT_THE_END = """
import atexit, os, sys
from pathlib import Path
def show():
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    print("threads:", *sorted(name for name in names if "gloo" in name), file=sys.stderr)
atexit.register(show)
"""


def start(shards: Path, run: Path, *options: str, before: str = "", **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", before + CODE, "--shards", str(shards), "--out", str(run), *TINY, *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def lines(run: Path) -> list[dict[str, Any]]:
    """Metrics without what a clock decides."""
    path = run / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
    return [{k: v for k, v in line.items() if k not in ("samples_per_s", "loader_wait_s")} for line in found]


def start_and_halt(step: int, shards: Path, run: Path, *options: str) -> subprocess.Popen[str]:
    """A training that stands still in the middle of step + 1, however fast the machine is."""
    process = start(shards, run, *options, before=HALT_AFTER.replace("STEP", str(step)))
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    return process


def together(
    shards: Path, run: Path, *options: str, before: str = "", others: Path | None = None
) -> list[subprocess.Popen[str]]:
    """What torchrun does, for two processes; `others`: the run that the second one sees, where it sees another."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        start(shards, folder, *options, before=before, RANK=str(rank), LOCAL_RANK=str(rank), **world)
        for rank, folder in enumerate((run, others or run))
    ]


def free_port() -> int:
    """Under the ports that a system hands out by itself, else somebody may be given it before it is used."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def codes(processes: list[subprocess.Popen[str]]) -> list[int]:
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert "Traceback" not in "".join(said), said
    return [process.returncode for process in processes]


@pytest.mark.slow
def test_sigterm_finishes_the_step_saves_and_exits_130(small_root: Path, small_protocol: str, tmp_path: Path) -> None:
    run, options = tmp_path / "run", ("--protocol", small_protocol, "--epochs", "40")
    process = start_and_halt(7, small_root, run, *options)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"stopped: {run} holds the state, the same command with --resume goes on" in said and "Traceback" not in said
    before = lines(run)
    steps = [line["step"] for line in before if "step" in line]
    assert steps == list(range(1, 9))
    assert json.loads((run / "state.json").read_text())["step"] == 8
    process = start_and_halt(11, small_root, run, *options, "--resume")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert codes([process]) == [130]
    after = lines(run)
    assert after[: len(before)] == before and [line["step"] for line in after if "step" in line] == list(range(1, 13))


@pytest.mark.slow
def test_two_processes_train_one_model(small_root: Path, small_protocol: str, tmp_path: Path) -> None:
    """Rank 0 alone writes; a signal to one stops both after the same step; resumed, they reach the same bits.

    The signals come where they are missed most easily: after one has said that it goes on, before it knows of the other.
    """
    options = ("--protocol", small_protocol, "--epochs", "4")
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    assert codes(together(small_root, whole, *options)) == [0, 0]
    found = lines(whole)
    assert [line.get("step") for line in found] == [
        step for epoch in range(4) for step in (*range(5 * epoch + 1, 5 * epoch + 6), None)
    ]
    assert (whole / "calibration.json").is_file()

    expected = load_file(whole / "last.safetensors")
    for call, stopped in ((3, 4), (6, 6)):  # after step 3; at the end of the first epoch, while rank 0 validates
        cut = tmp_path / f"cut-{call}"
        signalled = SIGNAL_WHILE_THEY_AGREE.replace("CALL", str(call))
        assert codes(together(small_root, cut, *options, before=signalled)) == [130, 130]
        assert [line["step"] for line in lines(cut) if "step" in line][-1] == stopped
        assert json.loads((cut / "state.json").read_text())["step"] == stopped
        assert codes(together(small_root, cut, *options, "--resume")) == [0, 0]
        assert lines(cut) == found
        again = load_file(cut / "last.safetensors")
        assert all(torch.equal(expected[name], again[name]) for name in expected)

    # One process sees the same global batches; in two parts its first step is the same sum.
    assert codes([start(small_root, alone, *options, "--epochs", "1", "--set", "accumulate=2")]) == [0]
    for name in ("loss", "loss_dfa", "loss_cmc", "loss_cpc", "loss_kl", "accuracy", "grad_norm"):
        assert lines(alone)[0][name] == pytest.approx(found[0][name], rel=1e-4), name


@pytest.mark.slow
def test_no_thread_of_the_group_outlives_the_training(small_root: Path, small_protocol: str, tmp_path: Path) -> None:
    """Else it may give tensors back while Python ends, which aborts the process (in one of 15 runs on a busy machine)."""
    pair = together(
        small_root, tmp_path / "run", "--protocol", small_protocol, "--epochs", "1", before=THREADS_AT_THE_END
    )
    errors = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert [error.splitlines()[-1] for error in errors] == ["threads:", "threads:"]


@pytest.mark.slow
def test_processes_that_train_together_all_end_where_the_run_is_held(small_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with lock_root(run, doing="trained"):
        said = [process.communicate(timeout=120)[1] for process in together(small_root, run, "--epochs", "1")]
    assert f"error: {run} is being trained by pid {os.getpid()} on {socket.gethostname()}" in said[0]
    assert "error: the first process cannot train; its own sentence says why" in said[1]
    assert "Traceback" not in "".join(said)
    assert [path.name for path in run.rglob("*") if path.is_file()] == ["lock"]


GONE = "error: another process of this training has ended, what it said last says why; once that is mended, go on with --resume"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "act", "code", "said"),
    [
        (1, "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        (1, "self._backward = lambda _: fail(torch.OutOfMemoryError())", 1, "error: out of memory on cpu at step 4"),
        (
            0,
            "metrics.MetricsLog.write = lambda *_: fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))",
            1,
            "No space left on device; there is no checkpoint yet; make room",
        ),
    ],
)
def test_where_one_process_ends_the_others_end_with_a_sentence(
    rank: int, act: str, code: int, said: str, small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    before = FAIL_IN_STEP_4.replace("RANK_OF_IT", str(rank)).replace("ACT", act)
    options = ("--protocol", small_protocol, "--epochs", "2")
    pair = together(small_root, tmp_path / "run", *options, before=before)
    errors = [process.communicate(timeout=120)[1] for process in pair]
    assert pair[rank].returncode == code and said in errors[rank]
    assert pair[1 - rank].returncode == 1 and errors[1 - rank].splitlines()[-1] == GONE
    assert "Traceback" not in "".join(errors)


@pytest.mark.slow
def test_processes_that_stand_at_different_steps_do_not_train(
    small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    """As where --out is on a disk of each machine's own: the others find no checkpoint."""
    run, options = tmp_path / "run", ("--protocol", small_protocol, "--epochs", "1", "--resume")
    assert fit(small_root, run, *options).exit_code == 0
    before = stored(run)
    pair = together(small_root, run, *options, others=tmp_path / "other")
    errors = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [1, 1]
    for step, error in zip((5, 0), errors, strict=True):
        assert error.splitlines()[-1] == (
            f"error: the processes do not start alike (this one after step {step}): they need the same options, and --out "
            "and --shards on a file system that all of them see"
        )
    after = stored(run)
    assert {name: data for name, (_, data) in after.items() if not name.endswith("/lock")} == {
        name: data for name, (_, data) in before.items() if not name.endswith("/lock")
    }


def test_a_world_without_a_meeting_place_is_a_sentence(
    small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    result = fit(small_root, tmp_path / "run")
    assert result.exit_code == 1, result.output
    assert result.stderr == (
        "error: RANK and WORLD_SIZE name processes that train together, but they do not meet (Error initializing "
        "torch.distributed using env:// rendezvous: environment variable MASTER_ADDR expected, but not set); start them with "
        "torchrun, or unset both\n"
    )
    assert not (tmp_path / "run").exists()


def fit(shards: Path, run: Path, *options: str) -> Result:
    return CliRunner().invoke(train.main, ["--shards", str(shards), "--out", str(run), *TINY, *options])


def stored(run: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a run: when it was changed, and what is in it."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}


def test_a_second_trainer_is_told_who_trains_and_touches_nothing(
    small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    run, options = tmp_path / "run", ("--protocol", small_protocol, "--epochs", "200", "--set", "checkpoint_every=3")
    first = start_and_halt(4, small_root, run, *options)  # it holds the lock, and changes nothing while the others try
    try:
        before = stored(run)
        for more in (("--resume",), (), ("--resume", "--set", "lr=1")):
            second = fit(small_root, run, *options, *more)
            assert second.exit_code == 1, second.output
            assert second.stderr == (
                f"error: {run} is being trained by pid {first.pid} on {socket.gethostname()}; wait for it to end, or stop it\n"
            )
        assert stored(run) == before
    finally:
        first.kill()
        first.communicate()
    found = lines(run)
    assert len(found) == 4 and json.loads((run / "state.json").read_text())["step"] == 3
    going_on = start_and_halt(6, small_root, run, *options, "--resume")  # the lock went with the process
    going_on.kill()
    going_on.communicate()
    assert lines(run)[: len(found)] == found


def test_without_locks_a_run_is_trained_with_a_warning(
    small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = tmp_path / "run"
    (run / ".log").mkdir(parents=True)  # as left by trainers that were killed at once
    (run / ".log/lock").write_text("pid 1 on nowhere")
    (run / ".tmp-1-config.json").write_text("{")
    result = fit(small_root, run, "--epochs", "1")
    assert result.exit_code == 0, result.output
    warning = f"warning: {run} is on a file system without locks; nothing keeps a second process from writing there"
    assert result.stderr.splitlines().count(warning) == 1
    assert (run / "best.safetensors").is_file() and not list(run.rglob(".tmp-*"))


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("moment", ["swallowed before the first step", "while it calibrates, twice"])
def test_a_signal_outside_the_steps_ends_it_too(
    moment: str, small_root: Path, small_protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    from_config, echo = training.from_config, click.echo

    def terminate(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    class Finaliser:
        def __del__(self) -> None:  # Python prints an exception from here, and goes on
            terminate()

    def build(*settings: Any) -> Any:
        Finaliser()
        return from_config(*settings)

    def again(*text: Any, **options: Any) -> None:
        terminate()
        echo(*text, **options)

    with monkeypatch.context() as patch:
        if moment.startswith("swallowed"):
            patch.setattr(training, "from_config", build)
        else:
            patch.setattr(calibration, "fit_temperature", terminate)
            patch.setattr("bmrl.cli.exits.click.echo", again)
        result = fit(small_root, tmp_path / "run", "--protocol", small_protocol, "--epochs", "1")
    assert len(lost) == moment.startswith("swallowed")
    assert result.exit_code == 130, result.output
    assert result.stderr.splitlines()[-1] == (
        f"interrupted: what {tmp_path / 'run'} holds stays, the same command with --resume goes on"
    )
    assert (tmp_path / "run/state.json").exists() != moment.startswith("swallowed")
    result = fit(small_root, tmp_path / "run", "--protocol", small_protocol, "--epochs", "1", "--resume")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run/calibration.json").is_file()


def test_a_folder_of_something_else_is_refused_untouched(small_root: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/letter.txt").write_text("dear")
    result = fit(small_root, tmp_path / "run", "--resume")
    assert result.exit_code == 2 and f"--out {tmp_path / 'run'} is not empty and holds no run" in result.stderr
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["letter.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "losses.vcc=1"), "losses.vcc and losses.dfacc are two losses on the same centres"),
        (("--set", "losses.spa=class", "--set", "model.text=0"), "losses.spa weighs the pairs of CMC"),
        (("--set", "model.tokens=5"), "model.tokens 5 does not divide a map of 7x7"),
        (("--set", "patch_size=56"), "holds noise patches of 112 pixels"),
        (("--set", "accumulate=3"), "train.accumulate 3 does not divide a batch of 4"),
    ],
)
def test_settings_that_do_not_go_together_exit_2(
    options: tuple[str, ...], words: str, small_root: Path, tmp_path: Path
) -> None:
    result = fit(small_root, tmp_path / "run", *options)
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained_leaves_no_run_behind(small_root: Path, tmp_path: Path) -> None:
    """The same command with what the sentence asks for is not refused."""
    result = fit(small_root, tmp_path / "run", "--batch-size", "64")
    assert result.exit_code == 1 and "use a smaller --batch-size" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_view_that_was_replaced_is_not_trained_on(small_root: Path, small_protocol: str, tmp_path: Path) -> None:
    run, options = tmp_path / "run", ("--protocol", small_protocol, "--epochs", "1")
    assert fit(small_root, run, *options).exit_code == 0
    document = json.loads((run / "config.json").read_text())
    document["data"]["views"] |= {"parsing": "that of another parser", "added later": "and read by nobody"}
    (run / "config.json").write_text(json.dumps(document))
    before = stored(run)
    result = fit(small_root, run, *options, "--resume")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {run} was trained on other views than the shards hold now (parsing); give another --out\n"
    )
    assert {name for name, data in stored(run).items() if data != before[name]} <= {str(run / ".log/lock")}


@pytest.mark.parametrize(("file", "rest"), [("config.json", []), ("calibration.json", None)])
def test_a_full_disk_before_and_after_the_steps(
    file: str, rest: list[str] | None, small_root: Path, small_protocol: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run, options = tmp_path / "run", ("--protocol", small_protocol, "--epochs", "1")

    def full(descriptor: int) -> None:
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()).endswith(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("bmrl.pipeline.store.local.os.fsync", full)
        result = fit(small_root, run, *options)
    assert result.exit_code == 1, result.output
    assert result.stderr.splitlines()[-1] == (
        f"error: {run / file} cannot be written: No space left on device; make room, then go on with --resume"
    )
    names = [path.name for path in run.rglob("*") if path.is_file()]
    assert file not in names and rest in (None, names) and not [name for name in names if name.startswith(".tmp-")]
    assert fit(small_root, run, *options, "--resume").exit_code == 0
    assert (run / file).is_file()


@pytest.mark.parametrize(
    ("device", "rank", "said"), [("cuda:x", None, "x, 2"), ("cuda:2", None, "2, 2"), ("cuda", "3", "3, 2")]
)
def test_a_cuda_device_that_is_not_there(
    device: str, rank: str | None, said: str, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    result = fit(small_root, tmp_path / "run", "--device", device)
    assert result.exit_code == 2, result.output
    assert result.stderr == (
        f"error: --device {device}: there is no CUDA device {said} in all; every process needs its own\n"
    )


def test_a_class_without_training_rows_is_said(small_root: Path, tmp_path: Path) -> None:
    protocol = tmp_path / "p.yaml"
    protocol.write_text("name: p\nsimulated: true\nseen: [real]\n")
    result = fit(small_root, tmp_path / "run", "--protocol", f"{protocol}:detection", "--epochs", "1")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == "warning: classes without training rows, never attributed to: fake"


def test_without_a_checkpoint_resume_takes_other_settings(small_root: Path, tmp_path: Path) -> None:
    """After out of memory in the first step nothing is lost, so nothing has to be kept."""
    run = tmp_path / "run"
    run.mkdir()
    for options in (("--epochs", "1"), ("--epochs", "1", "--set", "accumulate=2")):
        result = fit(small_root, run, *options, "--resume")
        assert result.exit_code == 0, result.output
        assert json.loads((run / "config.json").read_text())["config"]["train"]["accumulate"] == (
            2 if options[2:] else 1
        )
        (run / "state.json").unlink()
