"""The study: what is trained, on which batches, how often, and what the table makes of the log."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from bmrl.model.attributors.bmrl import PRESETS
from bmrl.model.training.checkpoint import save_weights
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.store.lock import lock_root

Study = Callable[..., None]
RATES = [1e-3 / 3, 1e-3, 3e-3]
# The package names functions as these modules are called.
training, evaluation = (import_module(f"bmrl.model.runs.{name}") for name in ("train", "evaluate"))


@pytest.fixture
def trained(ablations: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Instead of the trainer: notes what it is given, in order; the validation accuracy is that of `accuracy` by rate."""
    noted: list[Any] = []

    class Noted:
        accuracy: ClassVar[dict[float, float]] = dict(zip(RATES, (0.5, 0.7, 0.6), strict=True))

        def __init__(self, model: Any, *, train: Any, validation: Any, run: Path, **_: Any) -> None:
            self.model, self.run, self.config = model, run, model.config
            self.train, self.validation = list(train), list(validation())
            noted.append(self)

        def fit(self, *, resume: bool, on_step: Any, on_epoch: Any) -> bool:
            assert not resume
            line = {"step": 1, "loader_wait_s": 1.0, "samples_per_s": 1.0}
            (self.run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
            save_weights(self.model, self.run / "best.safetensors")
            accuracy = self.accuracy[self.config.train.lr]
            on_epoch({"epoch": 0, "val_accuracy": 0.9, "val_nll": 2.0, "val_n": 6})
            on_epoch({"epoch": 1, "val_accuracy": accuracy, "val_nll": 1.0, "val_n": 6})
            return True

    monkeypatch.setattr(training, "Trainer", Noted)
    return noted


@pytest.fixture
def study(
    ablations: ModuleType, ablation_rows: ModuleType, tiny_preset: str, small_root: Path, small_protocol: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Study:  # fmt: skip
    """`run` or `table` on two groups: x of the full model, y of the same model under another name and of a control."""
    row = ablation_rows.Row
    groups = {"x": [row(name="full")], "y": [row(name="full again"), row(name="thrice", inference="image thrice")]}
    monkeypatch.setattr(ablations, "GROUPS", groups)

    def run(command: str, *options: str) -> None:
        where = ["--shards", str(small_root), "--protocol", small_protocol, "--preset", tiny_preset, "--threads", "1"]
        arguments = [command, "--work", str(tmp_path / "work"), *(where if command == "run" else []), *options]
        monkeypatch.setattr(sys, "argv", ["ablations.py", *arguments])
        ablations.main()

    return run


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [json.loads(line) for line in (tmp_path / "work/log.jsonl").read_text().splitlines()]


def short(lines: list[dict[str, Any]], kind: str) -> list[tuple[str, int, float]]:
    return [(line["row"], line["seed"], line["lr"]) for line in lines if line["kind"] == kind]


def test_the_rate_of_the_best_seen_validation_accuracy_is_taken(study: Study, trained: list[Any], log: Any) -> None:
    """The accuracy of the epoch with the lowest NLL counts, not the highest one on the way."""
    study("run", "--groups", "x", "--seeds", "3", "--epochs", "2")
    assert [(one.config.train.seed, one.config.train.lr) for one in trained] == [
        *((0, rate) for rate in RATES), (1, 1e-3), (2, 1e-3),
    ]  # fmt: skip
    assert all(one.config.train.epochs == 2 and one.config.train.batch_size == 4 for one in trained)
    lines = log()
    assert [line["val_accuracy"] for line in lines if line["kind"] == "train"] == [0.5, 0.7, 0.6, 0.7, 0.7]
    assert short(lines, "test") == [("full", seed, 1e-3) for seed in range(3)]
    assert {line["loader_wait"] for line in lines if line["kind"] == "train"} == {0.25}  # 1 s of a step of 4 s
    first, second = trained[0].model.state_dict(), trained[3].model.state_dict()
    assert not torch.equal(first["predictor.weight"], second["predictor.weight"]), "the seed decides the weights too"


def test_some_rows_at_one_rate(study: Study, trained: list[Any], log: Any, capsys: Any) -> None:
    study("run", "--groups", "x,y", "--rows", "thrice;full again", "--factors", "1", "--seeds", "2")
    assert [(one.config.train.seed, one.config.train.lr) for one in trained] == [(0, 1e-3), (1, 1e-3)] * 2
    assert [name for name, *_ in short(log(), "test")] == ["full again", "full again", "thrice", "thrice"]
    with pytest.raises(SystemExit, match="2"):
        study("run", "--groups", "x,y", "--rows", "thrice;nope", "--seeds", "2")
    assert "no such row in x,y: nope" in capsys.readouterr().err and len(trained) == 4
    with pytest.raises(SystemExit, match="2"):
        study("run", "--groups", "x,nope")
    assert "no such group: nope; there are x" in capsys.readouterr().err and len(trained) == 4


def test_of_equal_rates_the_lowest_is_taken(study: Study, trained: list[Any], log: Any, ablations: ModuleType) -> None:
    training.Trainer.accuracy = dict.fromkeys(RATES, 0.7)
    study("run", "--groups", "x", "--seeds", "1")
    assert short(log(), "test") == [("full", 0, RATES[0])]


def test_a_finished_row_is_not_run_again_and_stands_under_each_name(
    study: Study, trained: list[Any], log: Any, tmp_path: Path
) -> None:
    study("run", "--groups", "x", "--seeds", "2")
    assert len(trained) == 4
    before = (tmp_path / "work/log.jsonl").read_bytes()
    study("run", "--groups", "x", "--seeds", "2")
    assert len(trained) == 4 and (tmp_path / "work/log.jsonl").read_bytes() == before
    study("run", "--groups", "x,y", "--seeds", "2", "--part", "1/2")  # full and thrice
    assert len(trained) == 8 and {line["row"] for line in log()} == {"full", "thrice"}
    for _ in range(2):
        study("run", "--groups", "x,y", "--seeds", "2")
        assert len(trained) == 8
        lines = log()
        for kind, count in (("train", 4), ("test", 2)):
            assert sorted(short(lines, kind)) == sorted(
                (name, *what[1:])
                for name in ("full", "full again", "thrice")
                for what in short(lines, kind)
                if what[0] == "full"
            )
            assert len(short(lines, kind)) == 3 * count
    full, again = (
        [line["figures"] for line in lines if line["kind"] == "test" and line["row"] == name]
        for name in ("full", "full again")
    )
    assert full == again
    study("run", "--groups", "x", "--seeds", "2", "--epochs", "5")
    assert len(trained) == 12, "another budget is another row"


def test_a_row_that_another_process_is_at_comes_last(
    study: Study, trained: list[Any], log: Any, ablations: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study("run", "--groups", "x", "--seeds", "1")
    full = next(line["settings"] for line in log() if line["lr"] == 1e-3)
    (tmp_path / "work/log.jsonl").unlink()
    trained.clear()
    waited: list[int] = []
    with contextlib.ExitStack() as other:
        other.enter_context(lock_root(tmp_path / "work/rows" / full))

        def sleep(_: float) -> None:
            waited.append(len(trained))
            if len(waited) == 4:
                other.close()

        monkeypatch.setattr(ablations.time, "sleep", sleep)
        study("run", "--groups", "x,y", "--seeds", "1")
    assert waited == [0, 0, 3, 3], "full, full again, and both once more behind the control"
    assert [line["row"] for line in log() if line["kind"] == "test"] == ["thrice", "full", "full again"]
    assert len(trained) == 6


@pytest.mark.parametrize("torn", ["{", '{"row": "full", "seed": 1, "kind": "test", "set', "\x00\x00\x00\n"])
def test_a_torn_log_is_read_and_goes_on(
    torn: str, study: Study, trained: list[Any], ablations: ModuleType, tmp_path: Path
) -> None:
    study("run", "--groups", "x", "--seeds", "2")
    path = tmp_path / "work/log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    whole = ablations.read_log(path)
    assert len(whole) == len(lines) == 6
    path.write_text("".join(lines[:5]) + torn)
    assert ablations.read_log(path) == whole[:5]
    study("run", "--groups", "x", "--seeds", "2")
    assert len(trained) == 4, "only the test whose line was torn is done again"
    assert ablations.read_log(path) == whole


def batches_of(rows: ShardSet) -> dict[str, int]:
    return {
        key: int(label)
        for batch in rows.loader(views=(), batch_size=9, shuffle=False)
        for key, label in zip(batch["key"], batch["label"], strict=True)
    }


def test_a_log_without_its_weights_goes_on(study: Study, trained: list[Any], log: Any, tmp_path: Path) -> None:
    study("run", "--groups", "x", "--seeds", "2")
    before = log()
    path, tested = tmp_path / "work/log.jsonl", [line for line in before if line["kind"] == "test"]
    path.write_text("".join(json.dumps(line) + "\n" for line in before if line != tested[1]))
    for line in before:
        shutil.rmtree(path.with_name(line["settings"]), ignore_errors=True)
    trained.clear()
    study("run", "--groups", "x", "--seeds", "2")
    assert [(one.config.train.seed, one.config.train.lr) for one in trained] == [(1, 1e-3)]
    assert short(log(), "test") == short(before, "test") and short(log(), "train") == short(before, "train")
    assert log()[-1]["figures"] == tested[1]["figures"]


def test_controls_of_training_leave_validation_and_test_alone(
    study: Study, trained: list[Any], ablations: ModuleType, ablation_rows: ModuleType, seen_rows: ShardSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tested: list[dict[str, Any]] = []
    collect = evaluation._collect

    def noted(asked: Any, rows: ShardSet, what: str) -> Any:
        if what in ("attributing seen", "attributing unseen"):
            tested.extend(rows.loader(views=asked.model.inference_views, batch_size=64, shuffle=False))
        return collect(asked, rows, what)

    monkeypatch.setattr(evaluation, "_collect", noted)
    rows = [
        ablation_rows.Row(name="shuffled", train="shuffled labels"),
        ablation_rows.Row(name="thrice", inference="image thrice"),
    ]
    monkeypatch.setattr(ablations, "GROUPS", {"x": rows})
    study("run", "--groups", "x", "--seeds", "1")
    true = batches_of(seen_rows)
    bank = ablation_rows.Bank(seen_rows.select(split="train"), 0)
    shuffled = dict(zip(bank.keys, bank.shuffled.tolist(), strict=True))
    for one in trained[:3]:
        given = {
            key: label for batch in one.train for key, label in zip(batch["key"], batch["label"].tolist(), strict=True)
        }
        assert len(given) == 20 and given == {key: shuffled[key] for key in given} != {key: true[key] for key in given}
        assert [true[key] for batch in one.validation for key in batch["key"]] == [
            label for batch in one.validation for label in batch["label"].tolist()
        ]
    plain, thrice = tested[:2], tested[2:]
    assert [len(batch["key"]) for batch in tested] == [9, 3, 9, 3]  # seen, unseen
    assert [true[key] for key in plain[0]["key"]] == plain[0]["label"].tolist() and plain[1]["label"].tolist() == [
        -1
    ] * 3
    for batch in [batch for one in trained[3:] for batch in (*one.train, *one.validation)] + thrice:
        middle = batch["image"][..., 56:168, 56:168].int()
        assert torch.equal(batch["noise"].int(), middle * torch.tensor([4, 12, 2])[:, None, None])
    assert all(
        torch.equal(a["image"], b["image"]) and not torch.equal(a["noise"], b["noise"])
        for a, b in zip(plain, thrice, strict=True)
    )


def test_the_table(
    ablations: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablation_rows: ModuleType
) -> None:
    row = ablation_rows.Row
    groups = {"x": "ABCD", "y": "CE", "z": "E"}
    monkeypatch.setattr(ablations, "GROUPS", {key: [row(name=name) for name in rows] for key, rows in groups.items()})
    names = list(ablations.FIGURES)

    def line(name: str, seed: int, value: float | None, lr: float = 1e-3, **other: Any) -> dict[str, Any]:
        about = {"row": name, "seed": seed, "lr": lr, "settings": f"{name}{seed}{lr}", "kind": "test", "data": "demo"}
        budget = {"protocol": "demo-1", "preset": "tiny", "epochs": 3, "n_train": 21}
        return {**about, **budget, "figures": dict.fromkeys(names, value), **other}

    def trained(name: str, lr: float, accuracy: float, seed: int = 0, **other: Any) -> dict[str, Any]:
        return {**line(name, seed, None, lr, **other), "kind": "train", "val_accuracy": accuracy, "loader_wait": 0.01}

    lines = [
        line("A", 2, 0.7), line("A", 0, 0.5), line("A", 1, 0.6), line("A", 1, 0.6),  # seed 1 in the logs of two machines
        line("B", 0, None, lr=1 / 3000),
        line("A", 0, 0.9, lr=3e-3), line("C", 0, 0.5),  # of a rate that was beaten, and of one that no training stands for
        line("A", 0, 0.25, data="folder", protocol=None),
        *(trained("A", rate, accuracy) for rate, accuracy in ((3e-3, 0.6), (1e-3, 0.7), (3e-4, 0.1))),
        trained("A", 1e-2, 0.9, seed=1), trained("B", 1e-3, 0.3), trained("B", 1 / 3000, 0.3), trained("D", 1e-3, 0.5),
        trained("A", 1e-3, 0.5, data="folder", protocol=None),
    ]  # fmt: skip
    lines[1]["figures"][names[1]] = float("nan")
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    head = "| row | seeds | lr | validation accuracy by lr, seed 0 | " + " | ".join(names) + " |"
    rule = "|---|---|---|---|" + "---|" * len(names)
    rates = "0.0003: 10.0, 0.001: 70.0, 0.003: 60.0"
    three, two, one = "60.0 ± 10.0 (50.0, 60.0, 70.0)", "65.0 ± 7.1 (60.0, 70.0)", "25.0 (25.0)"
    assert ablations.table(path, ["x", "y", "z"]).splitlines() == [
        "## demo, demo-1, preset tiny: 3 epochs of 21 samples; the sources are SIMULATED",
        "", "7 trainings waited for the loader 1.00 % of their time, at most 1.00 %.", "", "### (x)", "", head, rule,
        f"| A | 3 | 0.001 | {rates} | " + " | ".join([three, two, *[three] * (len(names) - 2)]) + " |",
        "| B | 1 | 0.00033 | 0.00033: 30.0, 0.001: 30.0 | " + " | ".join(["-"] * len(names)) + " |",
        "", "Not run: C; D.", "", "### (y)", "", head, rule, "", "Not run: C; E.", "",
        "Nothing of (z) was run with this budget.", "",
        "## folder, None, preset tiny: 3 epochs of 21 samples",
        "", "1 trainings waited for the loader 1.00 % of their time, at most 1.00 %.", "", "### (x)", "", head, rule,
        "| A | 1 | 0.001 | 0.001: 50.0 | " + " | ".join([one] * len(names)) + " |",
        "", "Not run: B; C; D.", "", "Nothing of (y), (z) was run with this budget.",
    ]  # fmt: skip


def test_a_study_from_the_first_step_to_the_table(study: Study, log: Any, tmp_path: Path, capsys: Any) -> None:
    """The real trainer; the preset's learning rate times a third, one and three."""
    study("run", "--groups", "x", "--seeds", "1", "--epochs", "1")
    lines = log()
    assert [line["lr"] for line in lines[:3]] == [PRESETS["demo"].train.lr * factor for factor in (1 / 3, 1.0, 3.0)]
    best = max(lines[:3], key=lambda line: line["val_accuracy"])
    assert (lines[3]["kind"], lines[3]["lr"], lines[3]["settings"]) == ("test", best["lr"], best["settings"])
    assert (lines[3]["n_seen"], lines[3]["n_unseen"], lines[3]["n_train"]) == (9, 3, 21)
    folder = tmp_path / "work" / best["settings"]
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        "best.safetensors",
        "calibration.json",
        "calibration.parquet",
        "config.json",
        "metrics.jsonl",
        "state.json",
        "statistics.safetensors",
    ]
    capsys.readouterr()
    study("table", "--groups", "x,y", "--out", str(tmp_path / "table.md"))
    page = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.strip() in page and "Nothing of (y) was run with this budget." in page
    accuracy = 100 * lines[3]["figures"]["seen accuracy"]
    tried = ", ".join(f"{line['lr']:.2g}: {100 * line['val_accuracy']:.1f}" for line in lines[:3])
    assert f"| full | 1 | {best['lr']:.2g} | {tried} | {accuracy:.1f} ({accuracy:.1f}) |" in page
