"""The trainer on the small shard set: exact resume, honest failures, the lines of metrics.jsonl."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bmrl.model import build
from bmrl.model.config import TrainConfig
from bmrl.model.training.checkpoint import RunError, load_weights, save_weights
from bmrl.model.training.optimizer import learning_rate, make_optimizer
from bmrl.model.training.trainer import Step, Trainer, TrainingError
from bmrl.pipeline.shardset import ShardSet

CPU = torch.device("cpu")
CLOCKS = ("samples_per_s", "loader_wait_s")


def ignore(_: Any) -> None:
    return None


def steps(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics without what a clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


class Crash(Exception):
    pass


def crash_at(step: int) -> Callable[[Step], None]:
    def on_step(done: Step) -> None:
        if done.step == step:
            raise Crash

    return on_step


def signal_at(step: int) -> Callable[[Step], None]:
    def on_step(done: Step) -> None:
        if done.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


STOPS = {
    "crash": crash_at(3),
    "SIGTERM at the end of an epoch": signal_at(5),
    "crash at the end of an epoch": crash_at(5),
    "SIGTERM": signal_at(4),
    "SIGTERM at the end": signal_at(10),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize(
    "name", [*list(STOPS)[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in list(STOPS)[2:])]
)
def test_a_stopped_run_goes_on_bit_for_bit(
    name: str, make: Callable[..., Trainer], whole: Path, tmp_path: Path
) -> None:
    """Crashes and SIGTERMs in the middle and at the ends of epochs: the same weights and the same lines."""
    if not (whole / "last.safetensors").exists():
        assert make(whole).fit(resume=False, on_step=ignore, on_epoch=ignore)
    expected = load_file(whole / "last.safetensors")
    assert len(steps(whole)) == 12  # 2 epochs of 5 steps and a validation
    run = tmp_path / "run"
    try:
        assert not make(run).fit(resume=False, on_step=STOPS[name], on_epoch=ignore)
    except Crash:
        assert name.startswith("crash")
    assert make(run).fit(resume=True, on_step=ignore, on_epoch=ignore)
    assert steps(run) == steps(whole)
    found = load_file(run / "last.safetensors")
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert (run / "best.safetensors").read_bytes() == (whole / "best.safetensors").read_bytes()


def signal_while_they_agree(number: int, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A SIGTERM comes during that agreement; what this process said in each."""
    said: list[bool] = []

    def agree(flag: bool, *_: Any) -> bool:
        said.append(flag)
        if len(said) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return flag

    monkeypatch.setattr("bmrl.model.training.trainer.any_of", agree)
    return said


def test_a_signal_while_the_processes_agree_is_kept(
    make: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one has said that it goes on, before it knows of the others: it stops one step later."""
    said = signal_while_they_agree(2, monkeypatch)
    assert not make(tmp_path).fit(resume=False, on_step=ignore, on_epoch=ignore)
    assert said == [False, False, True]
    assert [line["step"] for line in steps(tmp_path)] == [1, 2, 3]


def test_a_signal_after_the_last_agreement_is_kept(
    make: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = signal_while_they_agree(6, monkeypatch)  # five steps and the validation
    assert not make(tmp_path, epochs=1).fit(resume=False, on_step=ignore, on_epoch=ignore)
    assert said == [False] * 6
    assert make(tmp_path, epochs=1).fit(resume=True, on_step=ignore, on_epoch=ignore)


def test_an_ignored_ctrl_c_stays_ignored(make: Callable[..., Trainer], tmp_path: Path) -> None:
    """What a shell sets for a command in the background; the terminal's Ctrl-C reaches that one too."""

    def interrupt(_: Step) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert make(tmp_path, epochs=1).fit(resume=False, on_step=interrupt, on_epoch=ignore)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)
    assert len(steps(tmp_path)) == 6


def test_a_crash_before_the_first_checkpoint_starts_anew(make: Callable[..., Trainer], tmp_path: Path) -> None:
    with pytest.raises(Crash):
        make(tmp_path / "a").fit(resume=False, on_step=crash_at(1), on_epoch=ignore)
    assert not (tmp_path / "a/state.json").exists()
    assert make(tmp_path / "a", epochs=1).fit(resume=True, on_step=ignore, on_epoch=ignore)
    assert [line["step"] for line in steps(tmp_path / "a") if "step" in line] == [1, 2, 3, 4, 5]


def test_a_finished_run_stays_as_it_is(make: Callable[..., Trainer], tmp_path: Path) -> None:
    assert make(tmp_path / "a", epochs=1).fit(resume=False, on_step=ignore, on_epoch=ignore)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert make(tmp_path / "a", epochs=1).fit(resume=True, on_step=ignore, on_epoch=ignore)
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before


def test_metrics_lines_and_learning(make: Callable[..., Trainer], tmp_path: Path) -> None:
    run = tmp_path / "run"
    seen: list[Step] = []
    flushed: list[int] = []

    def on_step(step: Step) -> None:
        seen.append(step)
        flushed.append(sum('"step"' in line for line in (run / "metrics.jsonl").read_text().splitlines()))

    assert make(run, epochs=3, **{"train.lr": 3e-3}).fit(resume=False, on_step=on_step, on_epoch=ignore)
    lines = steps(run)
    training = [line for line in lines if "step" in line]
    validation = [line for line in lines if "step" not in line]
    assert [line["step"] for line in training] == list(range(1, 16)) == flushed
    assert all(isinstance(line["step"], int) for line in training)
    terms = {"loss_dfa", "loss_dfacc", "loss_cmc", "loss_cpc", "loss_kl"}
    for line in training:
        assert {"loss", "lr", "grad_norm", "epoch", "accuracy"} | terms <= set(line)
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-4)
    assert [line["epoch"] for line in validation] == [0, 1, 2]
    assert all(line["val_n"] == 6 and 0 <= line["val_accuracy"] <= 1 for line in validation)
    assert seen[-1].total == 15
    dfa = [line["loss_dfa"] for line in training]
    assert sum(dfa[-5:]) < sum(dfa[:5]), "it learns"


def test_best_is_the_epoch_of_lowest_validation_nll(make: Callable[..., Trainer], tmp_path: Path) -> None:
    run, kept = tmp_path / "run", []

    def on_epoch(summary: dict[str, Any]) -> None:
        kept.append((summary["val_nll"], (run / "last.safetensors").read_bytes()))

    assert make(run, epochs=3).fit(resume=False, on_step=ignore, on_epoch=on_epoch)
    assert (run / "best.safetensors").read_bytes() == min(kept)[1]


def test_without_validation_rows_the_last_epoch_is_the_best(
    make: Callable[..., Trainer], small_set: ShardSet, tmp_path: Path
) -> None:
    none = small_set.select(split="train").select(split="val")
    assert make(tmp_path / "run", rows=none).fit(resume=False, on_step=ignore, on_epoch=ignore)
    best, last = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "last"))
    assert all(torch.equal(best[key], last[key]) for key in best)


def test_a_loss_that_is_not_finite_ends_in_a_sentence(make: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = make(tmp_path / "run")

    def poison(step: Step) -> None:
        if step.step == 3:  # after the checkpoint of step 2
            with torch.no_grad():
                trainer.model.get_parameter("head.1.weight").fill_(math.nan)

    words = r"the loss is nan at step 4 \(dfa nan, .*the checkpoint of step 2 is whole; .*another --out with a smaller --set lr"
    with pytest.raises(TrainingError, match=words):
        trainer.fit(resume=False, on_step=poison, on_epoch=ignore)
    saved = load_file(tmp_path / "run/last.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.values()), "the last checkpoint is sound"


def test_fewer_samples_than_a_batch_is_a_sentence(tiny: dict[str, Any], small_set: ShardSet, tmp_path: Path) -> None:
    rows = small_set.select(split="val", generators=["real", "sim-efs-gan-vq"])
    model = build("bmrl", rows.classes, preset="demo", **tiny)
    with pytest.raises(TrainingError, match="fewer samples than one batch of 32; use a smaller --batch-size"):
        Trainer(
            model,
            train=rows.loader(views=model.training_views, batch_size=32),
            validation=list,
            run=tmp_path,
            device=CPU,
        )


def test_weights_of_another_class_list_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    three, four = (build("bmrl", count, preset="demo", **tiny) for count in (3, 4))
    save_weights(three, tmp_path / "w.safetensors")
    before = {name: tensor.clone() for name, tensor in four.state_dict().items()}
    with pytest.raises(RunError, match=r"another architecture or class list .* config\.json beside it"):
        load_weights(four, tmp_path / "w.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in four.state_dict().items())
    with pytest.raises(RunError, match="does not exist"):
        load_weights(three, tmp_path / "none.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match="is damaged"):
        load_weights(three, tmp_path / "w.safetensors")


def test_resuming_under_another_class_list_is_refused(
    make: Callable[..., Trainer], tiny: dict[str, Any], small_set: ShardSet, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    make(run, epochs=1).fit(resume=False, on_step=ignore, on_epoch=ignore)
    rows = small_set.select(split="train")  # all five classes
    model = build("bmrl", rows.classes, preset="demo", **{**tiny, "batch_size": 4})
    other = Trainer(
        model, train=rows.loader(views=model.training_views, batch_size=4), validation=list, run=run, device=CPU
    )
    with pytest.raises(RunError, match="class list"):
        other.fit(resume=True, on_step=ignore, on_epoch=ignore)


def test_learning_rates() -> None:
    paper = TrainConfig()
    assert [learning_rate(paper, 10 * epoch, 10) for epoch in (0, 14, 15, 30)] == pytest.approx(
        [1e-4, 1e-4, 1e-5, 1e-6]
    )
    cosine = TrainConfig(schedule="cosine", epochs=4, lr=1.0)
    rates = [learning_rate(cosine, step, 10) for step in range(40)]
    warm = rates.index(max(rates))
    assert rates[0] < rates[warm] == 1.0 and rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True) and 0 < rates[-1] < 0.01
    assert learning_rate(TrainConfig(schedule="constant"), 999, 10) == 1e-4


def test_weight_decay_spares_what_the_model_names(tiny: dict[str, Any]) -> None:
    for semantics in ("sound", "strict"):
        model = build("bmrl", 3, preset="demo", semantics=semantics, **tiny)
        names, optimizer = make_optimizer(model, model.config.train)
        decayed, free = optimizer.param_groups
        assert len(names) == len(set(names)) == len(list(model.parameters()))
        assert decayed["weight_decay"] > 0 and free["weight_decay"] == 0
        assert {id(p) for p in free["params"]} == {
            id(p) for name, p in model.named_parameters() if name in model.undecayed()
        }
        assert bool(free["params"]) == (semantics == "sound")


def test_the_fused_optimizer_computes_what_the_plain_one_does(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On channels-last weights, resumed moments included: fused kernels walk memory, not indices."""
    assert not make(tmp_path / "a").fit(resume=False, on_step=signal_at(3), on_epoch=ignore)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    adamw = torch.optim.AdamW
    assert make(tmp_path / "a").fit(resume=True, on_step=ignore, on_epoch=ignore)
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, lr, fused: adamw(groups, lr=lr, foreach=False))
    assert make(tmp_path / "b").fit(resume=True, on_step=ignore, on_epoch=ignore)
    for one, other in zip(steps(tmp_path / "a"), steps(tmp_path / "b"), strict=True):
        name = "loss" if "step" in one else "val_nll"
        assert one[name] == pytest.approx(other[name], rel=1e-4)
