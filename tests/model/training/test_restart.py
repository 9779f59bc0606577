"""SIGKILL at any moment, and what cannot be trained on: the run goes on, or one sentence says what to do."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bmrl.model.errors import RunError
from bmrl.model.training.metrics import MetricsLog
from bmrl.model.training.trainer import Step, Trainer, TrainingError
from bmrl.pipeline.store import local

Make = Callable[..., Trainer]
Read = Callable[[Path], list[dict[str, Any]]]
KILLS = 20


def ignore(_: Any) -> None:
    return None


def fit_in_child(make: Make, run: Path, *, halt: int = 0, **settings: Any) -> int:
    """A process that trains on; its exit status is 0 once the run is finished. After step `halt` it waits to be killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if make(run, **settings).fit(resume=True, on_step=at(halt, signal.pause), on_epoch=ignore) else 2
        finally:
            os._exit(status)
    return pid


def last_step(run: Path) -> int:
    """Of the metrics, a torn line left out."""
    lines = (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1] if (run / "metrics.jsonl").exists() else []
    return max((json.loads(line).get("step", 0) for line in lines), default=0)


@pytest.mark.slow
def test_twenty_kills_leave_the_run_that_was_never_stopped(make: Make, read_steps: Read, tmp_path: Path) -> None:
    """SIGKILL from outside at random moments of 20 random steps, writing of checkpoints included."""
    settings = {"epochs": 8, "flip": True, "checkpoint_every": 2}
    assert make(tmp_path / "whole", **settings).fit(resume=False, on_step=ignore, on_epoch=ignore)
    run, rng = tmp_path / "run", random.Random(7)
    run.mkdir()
    stood: list[int] = []
    for _ in range(KILLS):
        saved = json.loads((run / "state.json").read_text())["step"] if (run / "state.json").exists() else 0
        before = (run / "metrics.jsonl").read_bytes().splitlines() if saved else []
        target = saved + rng.randint(1, 4)
        pid = fit_in_child(make, run, halt=target + 1, **settings)  # a fast machine would be through after a few kills
        for _ in range(6000):
            if saved < target <= last_step(run) or target > 40:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.08))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (-signal.SIGKILL, 0)
        stood.append(last_step(run))
        kept = [line for line in before if json.loads(line).get("step", 0) <= saved and b'"step"' in line]
        after = [line for line in (run / "metrics.jsonl").read_bytes().splitlines() if b'"step"' in line]
        assert after[: len(kept)] == kept, "the lines up to the checkpoint are the old ones, times and all"
    assert len(set(stood)) > 5
    assert os.waitstatus_to_exitcode(os.waitpid(fit_in_child(make, run, **settings), 0)[1]) == 0
    assert read_steps(run) == read_steps(tmp_path / "whole")
    assert [line["step"] for line in read_steps(run) if "step" in line] == list(range(1, 41))
    for name in ("last", "best"):
        found, expected = (load_file(folder / f"{name}.safetensors") for folder in (run, tmp_path / "whole"))
        assert set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    assert [path.name for path in run.rglob(".tmp-*")] == []


@pytest.mark.slow
def test_a_kill_between_any_two_renames_of_an_epochs_end(
    make: Make, read_steps: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """best, weights, moments, state.json, the link: SIGKILL right after each; the run goes on to the same bytes."""
    settings = {"checkpoint_every": 3}
    assert make(tmp_path / "whole", **settings).fit(resume=False, on_step=ignore, on_epoch=ignore)
    replace, renamed = Path.replace, list[str]()

    def record(path: Path, target: Path) -> Path:
        renamed.append(Path(target).name)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    assert make(tmp_path / "again", **settings).fit(resume=True, on_step=ignore, on_epoch=ignore)
    end = ["00000005.safetensors", "00000005-optimizer.safetensors", "state.json", "last.safetensors"]
    best = renamed.index("best.safetensors")
    assert renamed[best + 1 : best + 5] == end
    for number in range(best, best + 5):
        run, left = tmp_path / f"killed-{number}", [number]

        def kill(path: Path, target: Path, left: list[int] = left) -> Path:
            done = replace(path, target)
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        run.mkdir()
        monkeypatch.setattr(Path, "replace", kill)
        pid = fit_in_child(make, run, **settings)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        monkeypatch.setattr(Path, "replace", replace)
        at_end = number - best >= 3  # state.json is there
        assert json.loads((run / "state.json").read_text())["step"] == (5 if at_end else 3)
        assert make(run, **settings).fit(resume=True, on_step=ignore, on_epoch=ignore)
        assert read_steps(run) == read_steps(tmp_path / "whole")
        for name in ("last", "best"):
            expected = (tmp_path / f"whole/{name}.safetensors").read_bytes()
            assert (run / f"{name}.safetensors").read_bytes() == expected, (number, name)
        assert sorted(path.name for path in (run / "checkpoint").iterdir()) == [
            "00000010-optimizer.safetensors",
            "00000010.safetensors",
        ]
        assert [path.name for path in run.rglob(".tmp-*")] == []


def at(step: int, act: Callable[[], None]) -> Callable[[Step], None]:
    """on_step that acts once after a step."""

    def on_step(done: Step) -> None:
        if done.step == step:
            act()

    return on_step


def sentence(trainer: Trainer, on_step: Callable[[Step], None] = ignore) -> str:
    """What ends a training, one line."""
    with pytest.raises(TrainingError) as error:
        trainer.fit(resume=False, on_step=on_step, on_epoch=ignore)
    assert "\n" not in str(error.value)
    return str(error.value)


def goes_on(make: Make, run: Path) -> bool:
    return make(run).fit(resume=True, on_step=ignore, on_epoch=ignore)


def test_an_exploding_gradient(make: Make, tmp_path: Path) -> None:
    """A finite loss with a gradient that is not: the weights stay those of the last step."""
    trainer = make(tmp_path / "run")
    parameter = trainer.model.get_parameter("head.1.weight")  # type: ignore[attr-defined]
    kept: list[torch.Tensor] = []

    def explode() -> None:
        parameter.register_hook(lambda gradient: gradient * math.inf)
        kept.append(parameter.detach().clone())

    said = sentence(trainer, at(3, explode))
    assert said.startswith("the gradient exploded: its norm is inf at step 4 (loss ")
    assert said.endswith(
        "the checkpoint of step 2 is whole; train into another --out with a smaller --set lr=... or with --set clip_norm=1"
    )
    assert torch.equal(parameter, kept[0])


def test_weights_that_are_not_finite_are_never_saved(make: Make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")

    def poison() -> None:
        with torch.no_grad():
            trainer.model.get_parameter("predictor.bias")[0] = math.inf  # type: ignore[attr-defined]

    said = sentence(trainer, at(4, poison))  # after the optimizer's step, before the checkpoint of step 4
    assert (
        "weight tensors are not finite after step 4, such as predictor.bias; the checkpoint of step 2 is whole" in said
    )
    assert goes_on(make, tmp_path / "run")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_out_of_memory(error: Exception, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path / "run")

    def fail(_: Any) -> Any:
        raise error

    monkeypatch.setattr(trainer.model, "losses", fail)
    assert sentence(trainer) == (
        "out of memory on cpu at step 1 with batches of 4; train into another --out with --set accumulate=2, a smaller "
        "--batch-size or a smaller --preset"
    )


def test_out_of_memory_outside_the_steps(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation keeps whole batches on the device, and a loader may run out as well."""

    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    trainer = make(tmp_path / "run")
    monkeypatch.setattr(trainer.model, "logits", fail)
    assert sentence(trainer).startswith(
        "out of memory on cpu in the validation after step 5 with batches of 4; train into"
    )
    trainer = make(tmp_path / "run")
    monkeypatch.setattr(trainer._train, "_gather", fail)
    assert sentence(trainer).startswith("out of memory on cpu while batches are read with batches of 4; train into")


@pytest.mark.parametrize("logit", [math.nan, math.inf])
def test_a_validation_that_is_not_finite(
    logit: float, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path / "run")
    monkeypatch.setattr(trainer.model, "logits", lambda batch: torch.full((len(batch["key"]), 3), logit))
    assert sentence(trainer) == (
        "the validation NLL is nan after step 5; the checkpoint of step 4 is whole; train into another --out with a smaller "
        "--set lr=... or with --set clip_norm=1"
    )
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_a_file_system_without_links_holds_a_copy(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(local.os, "link", link)
    run = tmp_path / "run"
    assert make(run, epochs=1).fit(resume=False, on_step=ignore, on_epoch=ignore)
    assert (run / "last.safetensors").read_bytes() == (run / "checkpoint/00000005.safetensors").read_bytes()
    assert (run / "last.safetensors").stat().st_nlink == 1


def test_a_power_cut_never_keeps_state_json_without_what_it_names(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename lasts once its folder is written: before state.json comes, both files lie in theirs."""
    original, written = os.fsync, []

    def record(descriptor: int) -> None:
        written.append(re.sub(r"^\.tmp-[0-9a-f]+-", "", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        original(descriptor)

    monkeypatch.setattr(local.os, "fsync", record)
    assert make(tmp_path / "run", epochs=1, checkpoint_every=9).fit(resume=False, on_step=ignore, on_epoch=ignore)
    assert written[-7:] == [
        *("00000005.safetensors", "checkpoint", "00000005-optimizer.safetensors", "checkpoint"),
        *("state.json", "run"),
        "run",  # the link last.safetensors
    ]


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        local.write_readable_json(tmp_path / "calibration.json", {})
    assert list(tmp_path.iterdir()) == []


STATE = {
    "step": 5, "best_val_nll": 1.0, "loader": {"seed": 0, "epoch": 1, "selection": "x", "consumed": 0},
    "weights": "00000005.safetensors", "optimizer": "00000005-optimizer.safetensors",
}  # fmt: skip


@pytest.mark.parametrize(
    "state",
    [
        "", "[]", '{"step": 5}', "[" * 100_000,
        json.dumps({**STATE, "step": "5"}), json.dumps({**STATE, "step": -1}), json.dumps({**STATE, "best_val_nll": "x"}),
        json.dumps({**STATE, "loader": []}), json.dumps({**STATE, "loader": {**STATE["loader"], "consumed": 0.5}}),  # type: ignore[dict-item]
        json.dumps({**STATE, "weights": "../../../etc/passwd"}), json.dumps({**STATE, "optimizer": "00000005.safetensors"}),
    ],
)  # fmt: skip
def test_a_damaged_state_is_a_sentence(state: str, make: Make, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(
        RunError, match=r"state\.json is damaged: [^\n]*; (restore it, or )?train again into another --out$"
    ):
        make(tmp_path).fit(resume=True, on_step=ignore, on_epoch=ignore)


def test_other_runtime_errors_are_ours_and_keep_their_traceback(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path / "run")

    def fail(_: Any) -> Any:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(trainer.model, "losses", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        trainer.fit(resume=False, on_step=ignore, on_epoch=ignore)


def test_a_real_allocation_failure_of_a_cpu_is_recognised(make: Make, tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")
    trainer.model.losses = lambda _: {"dfa": torch.empty(2**60)}  # type: ignore[method-assign]
    assert sentence(trainer).startswith("out of memory on cpu at step 1")


@pytest.mark.parametrize("part", ["-optimizer.safetensors", "4.safetensors", "state.json"])
def test_a_full_disk_while_a_checkpoint_is_written(
    part: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file it hits, the checkpoint before it stays whole, and the run goes on once there is room."""
    run = tmp_path / "run"
    original, files = os.fsync, []

    def full(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        files.append(name)
        if name.endswith(part) and (run / "state.json").exists() and len(files) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(local.os, "fsync", full)
    trainer = make(run)
    said = sentence(trainer)
    assert (
        "cannot be written: No space left on device; the checkpoint of step 2 is whole; make room, then go on with --resume"
        in said
    )
    assert part.split("-")[-1] in said.split(" cannot")[0]
    assert [path.name for path in run.rglob(".tmp-*")] == []
    assert json.loads((run / "state.json").read_text())["step"] == 2
    monkeypatch.undo()
    assert goes_on(make, run)


def test_a_full_disk_while_metrics_are_written(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full is a disk without room."""

    def on_a_full_disk(log: MetricsLog, _: Path) -> None:
        log._lines, log._events = (Path("/dev/full").open("ab", buffering=0) for _ in range(2))  # noqa: SIM115

    monkeypatch.setattr(MetricsLog, "__init__", on_a_full_disk)
    said = sentence(make(tmp_path / "run"))
    assert said == (
        f"{tmp_path / 'run'} cannot be written: No space left on device; there is no checkpoint yet; "
        "make room, then go on with --resume"
    )


def test_a_line_torn_by_a_crash_is_dropped(make: Make, read_steps: Read, tmp_path: Path) -> None:
    run = tmp_path / "run"

    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    with pytest.raises(Crash):
        make(run).fit(resume=False, on_step=at(3, crash), on_epoch=ignore)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'[]\n{"epoch": "x"}\n{"step": {}}\n3\n{"step": 4, "lo')  # nor does what is no record stay
    assert goes_on(make, run)
    assert [line["step"] for line in read_steps(run) if "step" in line] == list(range(1, 11))
