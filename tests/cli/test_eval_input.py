"""bmrl-eval and bmrl-attribute on damaged, hand-edited and contradictory input: one sentence, the right exit code."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from support import fit, mounted

from bmrl.cli import attribute
from bmrl.cli import eval as evaluate
from bmrl.model.attributor import LabelSpace
from bmrl.model.report.html import Sample, render_page
from bmrl.model.resolve import from_config, resolve_config
from bmrl.model.runs import evaluate as evaluate_run
from bmrl.model.runs.folder import Run, write_run
from bmrl.model.training.checkpoint import save_weights
from bmrl.pipeline.protocols import load_protocol
from bmrl.pipeline.shardset import ShardSet

Invoke = Callable[..., Result]
TINY = {
    "model.dim": 16, "model.depth": 1, "model.heads": 2, "model.mlp": 16, "model.widths": "4,4,4,4,8",
    "noise_widths": "4,4,4", "text_depth": 1, "text_heads": 2, "text_mlp": 16,
}  # fmt: skip


def write_untrained(folder: Path, shards: Path, protocol: str | None, *, resize: str | None = None) -> Path:
    """A run whose weights are as they were at the start. resize: the kernel of the images that it claims to know."""
    shard_set = ShardSet.open(shards)
    rows = shard_set.select(split="train", protocol=protocol, part="seen" if protocol else None)
    config = resolve_config("bmrl", "demo", "sound", {name: str(value) for name, value in TINY.items()})
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    data: dict[str, Any] = {
        "name": "small",
        "root_digest": shard_set.root_digest,
        "views": {name: view["digest"] for name, view in shard_set.views.items()},
        "params": {name: view["params"] for name, view in shard_set.views.items()},
        "n_train": rows.counts,
    }
    if resize is not None:
        data["params"]["image"] = {**data["params"]["image"], "resize": resize}
    run = Run(config=config, labels=LabelSpace.of(rows.classes), protocol=protocol, data=data)
    write_run(folder, run, {})
    save_weights(from_config(config, rows.classes), folder / "best.safetensors", meaning=run.meaning)
    return folder


@pytest.fixture(scope="module")
def untrained(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("runs") / "run", small_root, small_protocol)


@pytest.fixture
def run(untrained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(untrained, tmp_path / "run")


@pytest.fixture(scope="module")
def face(small_source: Path) -> Path:
    return small_source / "test/real/Face test0.png"


@pytest.fixture
def judge(invoke: Invoke, small_root: Path) -> Callable[..., Result]:
    """bmrl-eval of a run on the small shard set."""

    def judge(run: Path, *options: Any, shards: Path = small_root) -> Result:
        return invoke(evaluate.main, run, "--shards", shards, "--device", "cpu", *options)

    return judge


def renamed_in(value: Any, old: str, new: str) -> Any:
    """A result, and all that it holds, with one text in place of another."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return type(value)(**{name: renamed_in(part, old, new) for name, part in fields.items()})
    if isinstance(value, tuple | list):
        return type(value)(renamed_in(part, old, new) for part in value)
    if isinstance(value, dict):
        return {renamed_in(key, old, new): renamed_in(part, old, new) for key, part in value.items()}
    return value.replace(old, new) if isinstance(value, str) else value


def last_line(result: Result) -> str:
    return result.stderr.splitlines()[-1]


def edit(run: Path, **changes: Any) -> None:
    """Set parts of config.json; `data__views=None` takes a part of `data` away."""
    document = json.loads((run / "config.json").read_text())
    for name, value in changes.items():
        *outer, key = name.split("__")
        place = document
        for part in outer:
            place = place[part]
        if value is None:
            del place[key]
        else:
            place[key] = value
    (run / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__n_train": None}, "Object missing required field n_train - at $.data"),
        ({"data__views": None}, "Object missing required field views - at $.data"),
        ({"data__root_digest": None}, "Object missing required field root_digest - at $.data"),
        ({"data": []}, "Expected object, got array - at $.data"),
        ({"data__params": []}, "Expected object, got array - at $.data.params"),
        ({"data__params": {"image": 3}}, "Expected object, got int - at $.data.params[...]"),
        ({"data__n_train": {"real": "9"}}, "Expected int, got str - at $.data.n_train[...]"),
        ({"data__n_train": {"real": 10**30}}, "at $.data.n_train[...]"),
        ({"schema_version": "1"}, "Expected int, got str - at $.schema_version"),
        ({"config": "x"}, "Expected object, got str - at $.config"),
        ({"config__losses": [1]}, "Expected object, got array - at $.config.losses"),
        ({"classes": "abc"}, "Expected array, got str - at $.classes"),
        ({"classes": [1, 2, 3]}, "Expected str, got int - at $.classes[0]"),
        ({"classes": ["real", "real", "real"]}, "classes names one source twice"),
        ({"classes": ["real"]}, "Expected array of length >= 2 - at $.classes"),
        ({"class_facts": {"kinds": ["real"], "families": ["real"]}}, "class_facts.kinds has not one entry for each"),
        ({"class_facts": {"names": ["real"]}}, "at $.class_facts"),
        ({"protocol": 3}, "Expected str | null, got int - at $.protocol"),
        ({"versions": {"bmrl": 1}}, "Expected str, got int - at $.versions[...]"),
        ({"config__model__depth": 0}, "setting model.depth: 0 is not a number of more than 0"),
        ({"config__train__lr": -1.0}, "setting train.lr: -1.0 is not a number of more than 0"),
        ({"config__model__heads": 3}, "model.dim 16 is not a multiple of model.heads 3"),
        ({"config__model__dim": "x"}, "cannot be used"),
        ({"config__model__dim": -16}, "setting model.dim: -16 is not a number of more than 0"),
        ({"config__attributor": "sjedd"}, "attributor 'sjedd' is planned and not in this version"),
    ],
)
def test_a_config_that_was_edited(
    invoke: Invoke, judge: Invoke, run: Path, face: Path, changes: dict[str, Any], words: str
) -> None:
    edit(run, **changes)
    for done in (judge(run), invoke(attribute.main, run, face, "--device", "cpu")):
        assert done.exit_code == 1
        assert last_line(done).startswith(f"error: {run / 'config.json'} cannot be used: ")
        assert words in last_line(done)


@pytest.mark.parametrize(
    "params", [{"siz": 3}, {"resize": "zzz"}, {"resize": []}, {"size": "x"}, {"size": 10**9}, {"max_pixels": 2**60}]
)
def test_image_parameters_of_no_such_version(invoke: Invoke, run: Path, face: Path, params: dict[str, Any]) -> None:
    edit(run, data__params={"image": params})
    done = invoke(attribute.main, run, face, "--device", "cpu")
    assert done.exit_code == 1
    assert last_line(done).startswith(f"error: {run / 'config.json'} cannot be used: data.params.image")


def test_the_run_s_own_protocol_file_is_gone(judge: Invoke, run: Path, small_protocol: str) -> None:
    edit(run, protocol="/nowhere/own.yaml")
    done = judge(run)
    assert done.exit_code == 1
    assert "the run's own protocol cannot be used: /nowhere/own.yaml cannot be read" in last_line(done)
    assert last_line(done).endswith("; name one with --protocol")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "Expected object, got array"),
        ("{}", "Object missing required field threshold_95"),
        ('{"threshold_95": null}', "Expected float, got null - at $.threshold_95"),
        ('{"threshold_95": 2}', "Expected float <= 1.0 - at $.threshold_95"),
        ('{"threshold_95": true}', "Expected float, got bool - at $.threshold_95"),
        ('{"threshold_95": 0.5, "accuracy": 0.5}', "Object missing required field threshold_95_acceptance"),
    ],
)
def test_a_calibration_that_was_edited(
    invoke: Invoke, judge: Invoke, run: Path, face: Path, text: str, words: str
) -> None:
    (run / "calibration.json").write_text(text)
    for done in (judge(run), invoke(attribute.main, run, face, "--device", "cpu")):
        assert done.exit_code == 1
        assert last_line(done) == f"error: {run / 'calibration.json'} is damaged: {words}"


@pytest.mark.parametrize("text", ["", "{", "nul", "[" * 100_000, '{"a":' * 100_000, '{"threshold_95": NaN}', "\xff"])
@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
def test_a_document_that_is_no_json(invoke: Invoke, judge: Invoke, run: Path, face: Path, name: str, text: str) -> None:
    (run / name).write_text(text, encoding="latin-1")
    for done in (judge(run), invoke(attribute.main, run, face, "--device", "cpu")):
        assert done.exit_code == 1
        assert last_line(done).startswith(f"error: {run / name} is damaged: it is n")


def test_weights_that_are_not_finite(invoke: Invoke, judge: Invoke, run: Path, face: Path) -> None:
    tensors = load_file(run / "best.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, run / "best.safetensors")
    for done in (judge(run, "--json"), invoke(attribute.main, run, face, "--json", "--device", "cpu")):
        assert done.exit_code == 1 and done.stdout == ""
        assert last_line(done) == (
            "error: the attributor's answers are not finite numbers: its weights are damaged or its training diverged"
        )


def test_a_threshold_that_is_no_number(invoke: Invoke, judge: Invoke, run: Path, face: Path) -> None:
    for done in (
        judge(run, "--threshold", "nan"),
        invoke(attribute.main, run, face, "--device", "cpu", "--threshold", "nan"),
    ):
        assert done.exit_code == 2 and "'nan' is no number from 0 to 1" in done.stderr


def test_out_that_cannot_be_a_folder(judge: Invoke, run: Path, small_root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = judge(run, "--out", tmp_path / "file")
    assert done.exit_code == 2 and last_line(done) == f"error: --out {tmp_path / 'file'} is a file"
    assert (tmp_path / "file").read_text() == "mine"


def test_out_in_the_shard_set_would_damage_it(judge: Invoke, run: Path, small_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(small_copy)
    for out in (small_copy, small_copy / "eval", tmp_path / "link/eval"):
        done = judge(run, "--out", out, shards=small_copy)
        assert done.exit_code == 2
        assert (
            last_line(done) == f"error: --out {out} lies in the shard set {small_copy}, which holds its own files alone"
        )
    assert ShardSet.open(small_copy).verify() == []


def test_out_that_may_not_be_written_is_said_before_the_work(judge: Invoke, run: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        for out in (disk, disk / "new"):
            done = judge(run, "--out", out)
            assert done.exit_code == 1
            assert done.stderr == f"error: --out {out} cannot be written: Read-only file system\n"


def test_a_protocol_that_contradicts_the_training(judge: Invoke, small_root: Path, tmp_path: Path) -> None:
    """Every detection run has the classes real and fake: what it was trained on decides who is seen."""
    files = {}
    for name, text in {
        "own": "seen: [real, sim-efs-gan-fir]\nunseen: [sim-efs-gan-vq]\n",
        "leaked": "seen: [real]\nunseen: [sim-efs-gan-fir]\n",
        "control": "seen: [real]\ncontrols: [sim-efs-gan-fir]\n",
        "untrained": "seen: [real, sim-efs-gan-vq]\n",
        "kindless": "seen: [real, mystery]\n",
    }.items():
        files[name] = f"{tmp_path / name}.yaml:detection"
        (tmp_path / f"{name}.yaml").write_text(text)
    run = write_untrained(tmp_path / "run", small_root, files["own"])
    for name, sentence in {
        "leaked": "protocol leaked:detection has sim-efs-gan-fir outside its seen sources; the run was trained on it",
        "control": "protocol control:detection has sim-efs-gan-fir outside its seen sources; the run was trained on it",
        "untrained": "protocol untrained:detection counts sim-efs-gan-vq as seen; the run was not trained on it",
        "kindless": "protocol kindless:detection counts mystery as seen; the run was not trained on it",
    }.items():
        done = judge(run, "--protocol", files[name])
        assert done.exit_code == 2 and last_line(done) == f"error: {sentence}", name


def test_published_sizes_that_json_cannot_hold(tmp_path: Path) -> None:
    for value in ("{released: 2024-01-01}", "{share: .nan}", "[1, 2]", "{sizes: [1]}"):
        (tmp_path / "own.yaml").write_text(f"seen: [real]\npublished: {value}\n")
        with pytest.raises(ValueError, match="`published` must map names to numbers or words"):
            load_protocol(str(tmp_path / "own.yaml"))


def test_images_with_names_that_are_no_text(invoke: Invoke, run: Path, face: Path, tmp_path: Path) -> None:
    odd = tmp_path / "bad\udcff.png"
    shutil.copy(face, odd)
    done = invoke(attribute.main, run, odd, tmp_path / "none\udcff.png", "--device", "cpu")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path}/bad\ufffd.png: ")
    assert lines[1] == f"{tmp_path}/none\ufffd.png: cannot be read: No such file or directory"
    assert last_line(done) == "error: 1 of 2 images cannot be read"


def test_both_files_are_of_one_evaluation(
    judge: Invoke, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that cannot be made leaves the earlier pair."""
    for name in ("result.json", "report.html"):
        (tmp_path / name).write_text("earlier")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bmrl.model.report.plots.plot_confusion", interrupt)
    done = judge(run, "--out", tmp_path)
    assert done.exit_code == 130 and done.stdout == ""
    assert [(tmp_path / name).read_text() for name in ("result.json", "report.html")] == ["earlier", "earlier"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_evaluation_beside_a_training_that_runs(
    judge: Invoke, small_protocol: str, small_root: Path, tmp_path: Path
) -> None:
    """The last line of metrics.jsonl may be torn; what is no record of the trainer is left out. Views with other
    parameters than those of the training are named."""
    run = write_untrained(tmp_path / "run", small_root, small_protocol, resize="area")
    step = '{"step": 1, "epoch": 0, "loss": 1.0, "accuracy": 0.5}\n'
    (run / "metrics.jsonl").write_text(
        step
        + '{"step": 2}\n{"epoch": 0}\n[]\n{"step": "2", "epoch": 0, "loss": 1}\n'
        + '{"step": 2, "epoch": 0, "loss": 1, "loss_x": []}\n'
        + '{"epoch": 0, "val_accuracy": "x"}\n{"step": 3, "lo'
    )
    done = judge(run, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert f"warning: views of {small_root} have other parameters than those of the training: image\n" in done.stderr
    assert document["data"]["other_views"] == ["image"]
    page = (tmp_path / "out/report.html").read_text()
    assert "training curves" in page and "views with other parameters than in the training: image\n" in page

    odd = '<b>"O\'H" & $x_{y^'  # a folder may be called so, and becomes a source
    renamed = renamed_in(evaluate_run(run, small_root, device="cpu"), "real", odd)
    sample = Sample(generator=odd, key=odd, views={"image": np.zeros((224, 224, 3), np.uint8)})
    page = render_page(renamed, metrics=[], samples=[sample]).decode()
    assert odd not in page
    assert page.count("&lt;b&gt;&#34;O&#39;H&#34; &amp; $x_{y^") >= 3


def test_a_source_that_is_neither_real_nor_fake_is_not_trained_on(small_root: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("seen: [real, mystery]\n")
    done = fit(small_root, tmp_path / "run", "--protocol", f"{tmp_path / 'own.yaml'}:detection")
    assert done.exit_code == 2 and not (tmp_path / "run").exists()
    assert last_line(done) == "error: protocol own:detection: mystery is of unknown kind, neither real nor fake"
