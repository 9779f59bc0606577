"""What the processes of a training say of each other; the real ones meet in tests/cli/test_train_restart.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bmrl.model.training import distributed
from bmrl.model.training.distributed import World, WorldError, any_of, average, average_gradients, same_everywhere
from bmrl.model.training.trainer import Trainer, TrainingError

CPU, PAIR = torch.device("cpu"), World(rank=1, size=2)


def ignore(_: Any) -> None:
    return None


def test_the_others_wait_while_the_first_one_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than NCCL's 10 and gloo's 30 minutes, after which they would end the training."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda _, **options: given.update(options))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.join(CPU) == PAIR
    assert given["timeout"].total_seconds() == 6 * 3600


@pytest.mark.parametrize(
    "call",
    [
        lambda: any_of(False, PAIR, CPU),
        lambda: average([torch.ones(2)], PAIR),
        lambda: average_gradients([torch.nn.Parameter(torch.ones(2))], PAIR),
        lambda: same_everywhere(1, PAIR),
    ],
)
def test_a_process_that_is_gone_is_a_sentence(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise RuntimeError("[pair.cc:553] Connection closed by peer")

    monkeypatch.setattr(distributed.dist, "all_reduce", closed)
    monkeypatch.setattr(distributed.dist, "all_gather_object", closed)
    with pytest.raises(WorldError, match=r"another process of this training has ended, .*go on with --resume$"):
        call()


def test_the_other_processes_know_of_the_checkpoint_and_write_nothing(
    make: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say of a failure what the first one says; last.safetensors is the first one's, when they resume too."""

    def other(run: Path) -> Trainer:
        trainer = make(run)
        trainer.world = PAIR
        return trainer

    monkeypatch.setattr(distributed.dist, "all_reduce", ignore)
    monkeypatch.setattr(
        distributed.dist, "all_gather_object", lambda values, value: values.__setitem__(slice(2), [value] * 2)
    )
    trainer = other(tmp_path / "run")
    losses = trainer.model.losses

    def poisoned(batch: Any) -> Any:
        return {
            name: term * (float("nan") if trainer._saved_step == 2 else 1.0) for name, term in losses(batch).items()
        }

    monkeypatch.setattr(trainer.model, "losses", poisoned)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 3 .*the checkpoint of step 2 is whole"):
        trainer.fit(resume=False, on_step=ignore, on_epoch=ignore)
    assert list((tmp_path / "run").iterdir()) == []

    assert make(tmp_path / "run").fit(resume=False, on_step=ignore, on_epoch=ignore)
    (tmp_path / "run/last.safetensors").unlink()
    assert other(tmp_path / "run").fit(resume=True, on_step=ignore, on_epoch=ignore)
    assert not (tmp_path / "run/last.safetensors").exists()
    assert make(tmp_path / "run").fit(resume=True, on_step=ignore, on_epoch=ignore)
    assert (tmp_path / "run/last.safetensors").exists()
