"""config.json is bound to the weights: what the answers of a run are called cannot be edited behind its back."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from safetensors.torch import load_file, save_file
from support import fit

from bmrl.cli import attribute
from bmrl.cli import eval as evaluate
from bmrl.model.runs import attribute as attribute_images
from bmrl.model.runs.folder import read_run

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def trained(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert fit(small_root, out, "--protocol", small_protocol).exit_code == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def face(small_source: Path) -> Path:
    return small_source / "test/real/Face test0.png"


def edited(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((run / "config.json").read_text())
    change(document)
    (run / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["classes"].reverse(),
        lambda document: document["classes"].__setitem__(0, "somebody"),
        lambda document: document["class_facts"]["kinds"].reverse(),
        lambda document: document["config"]["model"].update(text_levels=[1, 2]),
        lambda document: document["config"]["model"].update(heads=4),
        lambda document: document["config"]["equations"].update(text_padding=True),
        lambda document: document["data"]["params"]["image"].update(resize="area"),
        lambda document: document["data"]["params"].pop("noise"),
    ],
)
def test_a_config_of_another_meaning_is_refused(
    invoke: Invoke, run: Path, face: Path, small_root: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edited(run, change)
    sentence = (
        f"error: {run / 'best.safetensors'} was trained with another class list, settings or views than config.json beside it "
        "says, so its answers would get wrong names; restore that config.json, or train again into another --out"
    )
    for done in (
        invoke(attribute.main, run, face, "--device", "cpu"),
        invoke(evaluate.main, run, "--shards", small_root, "--device", "cpu"),
    ):
        assert done.exit_code == 1 and done.stdout == ""
        assert done.stderr.splitlines()[-1] == sentence


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["versions"].update(torch="0"),
        lambda document: document["config"]["train"].update(epochs=7),
        lambda document: document["data"].update(root_digest="0"),
        lambda document: document.update(protocol=None),
    ],
)
def test_what_decides_no_answer_is_free(
    invoke: Invoke, run: Path, face: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    before = read_run(run).meaning
    edited(run, change)
    assert read_run(run).meaning == before
    assert invoke(attribute.main, run, face, "--device", "cpu").exit_code == 0


def test_weights_of_version_01_load_with_a_warning(
    invoke: Invoke, run: Path, face: Path, small_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = run / "best.safetensors"
    save_file(load_file(weights), tmp_path / "plain")
    shutil.move(tmp_path / "plain", weights)
    warning = f"warning: {weights} does not say what it was trained as (a run of version 0.1)"
    for done in (
        invoke(attribute.main, run, face, "--device", "cpu"),
        invoke(evaluate.main, run, "--shards", small_root, "--out", tmp_path / "out", "--device", "cpu"),
    ):
        assert done.exit_code == 0
        assert [line.startswith(warning) for line in done.stderr.splitlines() if "version 0.1" in line] == [True]
    with caplog.at_level(logging.WARNING):
        assert len(list(attribute_images(run, [face], device="cpu"))) == 1
    assert [record.message.startswith(warning) for record in caplog.records] == [True]


def test_a_resume_compares_and_goes_on(run: Path, small_root: Path, small_protocol: str) -> None:
    """The last checkpoint is bound too; one of version 0.1 goes on, and its next weights are bound."""
    state = json.loads((run / "state.json").read_text())
    checkpoint = run / "checkpoint" / state["weights"]
    options = ("--protocol", small_protocol, "--resume")
    save_file(load_file(checkpoint), checkpoint, metadata={"bmrl_meaning": "0" * 64})
    done = fit(small_root, run, *options)
    assert done.exit_code == 1 and "was trained with another class list, settings or views" in done.stderr
    save_file(load_file(checkpoint), checkpoint)
    assert fit(small_root, run, *options).exit_code == 0
