"""Counts of any size, from options and from files: one sentence before anything is allocated."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from support import fit, write_faces

from bmrl.cli import attribute, train
from bmrl.cli import eval as evaluate
from bmrl.cli.prep import main as prep
from bmrl.pipeline.shardset import ShardSet

Invoke = Callable[..., Result]
HUGE = 10**30
MANY_DIGITS = "1" + "0" * 5000


def sentence(done: Result) -> str:
    assert isinstance(done.exception, SystemExit), done.exception
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ("model.dim=1000000", 1, " parameters on 4 samples at a time would take "),
        ("model.dim=1000000000000", 1, "would take more than 9223372036.9 GB of memory, "),
        (f"model.dim={HUGE}", 2, "setting model.dim: its number is more than 1099511627776"),
        (f"model.dim={MANY_DIGITS}", 2, "0... is not a whole number such as 128"),
        ("depth=100000", 2, "setting model.depth: 100000 is more than 256"),
        ("convs=1,1,1,1,100000", 2, "setting model.convs: 100000 is more than 256"),
        (f"widths={','.join('1' * 1000)}", 2, "setting model.widths has 1000 values, 64 at most are taken"),
        ("model.widths=100000000,1,1,1,1", 1, "would take "),
        ("text_mlp=1000000000000", 1, "would take "),
        ("model.tokens=1000000000", 2, "does not divide a map of 7x7"),
        (f"accumulate={HUGE}", 2, "setting train.accumulate: its number is more than"),
        (f"seed={HUGE}", 2, "setting train.seed: its number is more than"),
        (f"checkpoint_every={HUGE}", 2, "setting train.checkpoint_every: its number is more than"),
        ("--batch-size=1000000000", 1, "the training split has fewer samples than one batch of 1000000000"),
        ("--batch-size=1000000000 losses.spa=batch", 1, "would take "),
    ],
)
def test_settings(option: str, code: int, words: str, small_root: Path, tmp_path: Path) -> None:
    settings = [part for item in option.split() for part in ([item] if item[0] == "-" else ["--set", item])]
    done = fit(small_root, tmp_path / "run", *settings)
    assert done.exit_code == code, done.output
    assert words in sentence(done)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_fit(
    small_root: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activations of one part of a batch count."""
    monkeypatch.setattr("bmrl.pipeline.store.memory.free_bytes", lambda: 1_500_000_000)
    options = ("--shards", small_root, "--out", tmp_path / "run", "--preset", "paper", "--device", "cpu")
    done = invoke(train.main, *options, "--batch-size", 8)
    assert done.exit_code == 1 and "on 8 samples at a time would take 4." in sentence(done)
    assert "1.5 GB are free; use a smaller --preset, --batch-size or --set, or --set accumulate" in sentence(done)
    less = invoke(train.main, *options, "--batch-size", 8, "--set", "accumulate=4")
    assert "on 2 samples at a time would take 3." in sentence(less)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def run(small_root: Path, small_protocol: str, tmp_path: Path) -> Path:
    assert fit(small_root, tmp_path / "run", "--protocol", small_protocol).exit_code == 0
    return tmp_path / "run"


def test_a_run_that_says_so(run: Path, small_root: Path, small_source: Path, invoke: Invoke) -> None:
    face = small_source / "test/real/Face test0.png"
    document = json.loads((run / "config.json").read_text())

    def refused(words: str) -> None:
        for done in (
            invoke(evaluate.main, run, "--shards", small_root, "--device", "cpu"),
            invoke(attribute.main, run, face, "--device", "cpu"),
        ):
            assert done.exit_code == 1 and done.stdout == "" and words in sentence(done)

    def edit(**changes: Any) -> None:
        settings = document["config"]
        changed = {**document, "config": {**settings, "model": {**settings["model"], **changes}}}
        (run / "config.json").write_text(json.dumps(changed))

    edit(dim=10**9)
    refused(
        f"{run / 'config.json'} cannot be used: an attributor of these settings would take more than 9223372036.9 GB"
    )
    edit(dim=10**6)
    refused("cannot be used: an attributor of ")
    edit(dim=10**400)
    refused("cannot be used: setting model.dim: its number is more than 1099511627776")
    edit(text_depth=10**6)
    refused("cannot be used: setting model.text_depth: 1000000 is more than 256")
    (run / "config.json").write_text(json.dumps(document))
    size = 2**40  # with a hole: it takes no room on the disk
    header = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (run / "best.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    refused(f"{run / 'best.safetensors'} cannot be read: its tensors would take 1099.5 GB of memory, ")


def test_a_loader_takes_no_more_than_there_are_rows(small_root: Path) -> None:
    rows = ShardSet.open(small_root).select(split="val")
    (batch,) = rows.loader(views=("image",), batch_size=10**12, shuffle=False)
    assert len(batch["key"]) == len(rows)
    with pytest.raises(ValueError, match=r"num_threads 1000000000 .* out of range"):
        rows.loader(views=("image",), batch_size=2, num_threads=10**9)


def test_batches_that_do_not_fit(small_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmrl.pipeline.store.memory.free_bytes", lambda: 1_000_000)
    with pytest.raises(ValueError, match=r"4 batches of 4 samples would take 2\.4 MB of memory, 1\.0 MB are free"):
        ShardSet.open(small_root).loader(views=("image",), batch_size=4)


@pytest.mark.parametrize("option", ["--workers", "--shard-size", "--limit", "--seed"])
def test_options_of_a_build(option: str, invoke: Invoke, tmp_path: Path) -> None:
    source = write_faces(tmp_path / "faces", {"real": 2, "DDPM": 2})
    build = ("build", "--dataset", "folder", "--root", source, "--out", tmp_path / "out", "--views", "image")
    for value in (HUGE, MANY_DIGITS):
        done = invoke(prep, *build, option, value)
        assert done.exit_code == 2 and f"Invalid value for '{option}'" in done.stderr
    assert not (tmp_path / "out").exists()
