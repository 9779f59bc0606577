"""Each control changes what it says, and nothing else."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from bmrl.model.config import config_to_json
from bmrl.model.inputs import INPUTS
from bmrl.model.layers.encoders import END, START
from bmrl.model.resolve import resolve_config
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.views.edge import SCALE

VIEWS = ("image", "edge", "noise", "parsing", "text")


@pytest.fixture(scope="module")
def train(seen_rows: ShardSet) -> ShardSet:
    return seen_rows.select(split="train")


@pytest.fixture
def bank(ablation_rows: ModuleType, train: ShardSet) -> Any:
    return ablation_rows.Bank(train, 3)


@pytest.fixture
def batches(train: ShardSet) -> list[dict[str, Any]]:
    return list(train.loader(views=VIEWS, batch_size=7, seed=1))


def kept(before: dict[str, Any], after: dict[str, Any], *changed: str) -> bool:
    """The same names, and everything but `changed` is the very same object."""
    return list(before) == list(after) and all(after[name] is before[name] for name in before if name not in changed)


def plain_maps(train: ShardSet) -> dict[str, tuple[int, torch.Tensor]]:
    """key -> label and parsing map, one row a batch."""
    rows = train.loader(views=("parsing",), batch_size=1, shuffle=False)
    return {row["key"][0]: (int(row["label"][0]), row["parsing"][0].clone()) for row in rows}


def others(maps: dict[str, tuple[int, torch.Tensor]], key: str, found: torch.Tensor) -> list[str]:
    return [name for name, (_, one) in maps.items() if name != key and torch.equal(one, found)]


@pytest.mark.parametrize(("name", "same_class"), [("wrong image", True), ("shuffled parsing", False)])
def test_the_parsing_of_another_image(
    name: str, same_class: bool, ablation_rows: ModuleType, bank: Any, batches: list[dict[str, Any]], train: ShardSet
) -> None:
    change, maps = ablation_rows.TRAIN[name](bank), plain_maps(train)
    classes = set()
    for batch in batches:
        changed = change(batch)
        assert kept(batch, changed, "parsing") and changed["parsing"].dtype == torch.uint8
        for key, label, own, found in zip(
            batch["key"], batch["label"].tolist(), batch["parsing"], changed["parsing"], strict=True
        ):
            assert torch.equal(own, maps[key][1]), "the batch itself is left alone"
            labels = {maps[other][0] for other in others(maps, key, found)}
            assert label in labels if same_class else labels
            classes.add(label in labels)
    assert classes == ({True} if same_class else {True, False})


def test_every_other_row_is_drawn_and_never_the_own(bank: Any, train: ShardSet) -> None:
    label, key = 1, bank.keys[bank.labels.tolist().index(1)]
    for same_class, expected in (
        (True, {k for k, v in zip(bank.keys, bank.labels, strict=True) if v == label}),
        (False, {*bank.keys}),
    ):
        drawn = bank.draw(torch.full((600,), label), [key] * 600, same_class=same_class)
        assert {bank.keys[row] for row in drawn.tolist()} == expected - {key}
    assert len(bank.keys) == 21 == len(train)


def test_draws_follow_the_seed(ablation_rows: ModuleType, bank: Any, train: ShardSet) -> None:
    keys = bank.keys
    first = bank.draw(bank.labels, keys, same_class=True)
    assert torch.equal(ablation_rows.Bank(train, 3).draw(bank.labels, keys, same_class=True), first)
    assert not torch.equal(ablation_rows.Bank(train, 4).draw(bank.labels, keys, same_class=True), first)


def test_one_map_for_all(ablation_rows: ModuleType, bank: Any, batches: list[dict[str, Any]], train: ShardSet) -> None:
    change = ablation_rows.TRAIN["constant parsing"](bank)
    first = next(iter(plain_maps(train).values()))[1]
    for batch in batches:
        changed = change(batch)
        assert kept(batch, changed, "parsing") and changed["parsing"].shape == batch["parsing"].shape
        assert all(torch.equal(one, first) for one in changed["parsing"])


def test_labels_are_permuted_and_prompts_follow(
    ablation_rows: ModuleType, bank: Any, batches: list[dict[str, Any]], train: ShardSet
) -> None:
    change = ablation_rows.TRAIN["shuffled labels"](bank)
    prompts = {int(label): text for batch in batches for label, text in zip(batch["label"], batch["text"], strict=True)}
    given: dict[str, int] = {}
    true: dict[str, int] = {}
    for batch in [*batches, *batches]:
        changed = change(batch)
        assert kept(batch, changed, "label", "text") and changed["label"].dtype == torch.int64
        for key, own, label, text in zip(batch["key"], batch["label"], changed["label"], changed["text"], strict=True):
            assert given.setdefault(key, int(label)) == int(label), "once and for all"
            assert torch.equal(text, prompts[int(label)])
            true[key] = int(own)
    assert len(given) == 21 and sorted(given.values()) == sorted(true.values()) == [0] * 7 + [1] * 7 + [2] * 7
    assert given != true
    other = ablation_rows.Bank(train, 4)
    assert dict(zip(other.keys, other.shuffled.tolist(), strict=True)) != given, "the seed decides"


def test_random_sentences_keep_the_label_and_the_length(
    ablation_rows: ModuleType, bank: Any, batches: list[dict[str, Any]]
) -> None:
    change = ablation_rows.TRAIN["random sentences"](bank)
    sentences: dict[int, torch.Tensor] = {}
    for batch in batches:
        changed = change(batch)
        assert kept(batch, changed, "text") and changed["text"].dtype == torch.int32
        assert torch.equal(changed["text"] == 0, batch["text"] == 0)
        assert torch.equal(changed["text"] == END, batch["text"] == END)
        assert bool((changed["text"][..., 0] == START).all())
        words = (changed["text"] > 0) & (changed["text"] < START)
        assert torch.equal(words, (batch["text"] > 0) & (batch["text"] < START))
        assert float((changed["text"] == batch["text"])[words].float().mean()) < 0.01
        for label, text in zip(batch["label"].tolist(), changed["text"], strict=True):
            assert torch.equal(sentences.setdefault(label, text), text), "equal within a class"
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for level in range(4):
            assert not torch.equal(sentences[a][level], sentences[b][level])


def test_unknown_levels_stay_unknown(ablation_rows: ModuleType, small_set: ShardSet) -> None:
    rows = small_set.select(split="train")
    bank = ablation_rows.Bank(rows, 0)
    number = rows.classes.index("mystery")
    assert torch.equal(bank.random_prompts[number, 1], bank.prompts[number, 1])
    assert bank.random_prompts[number, 1].tolist() == [START, END, *[0] * 75]
    assert not torch.equal(bank.random_prompts[number, 3], bank.prompts[number, 3])


def test_the_image_where_edge_and_noise_were(ablation_rows: ModuleType, batches: list[dict[str, Any]]) -> None:
    for batch in batches:
        changed = ablation_rows.INFERENCE["image thrice"](batch)
        assert kept(batch, changed, "edge", "noise")
        for name in ("edge", "noise"):
            assert changed[name].dtype == batch[name].dtype and changed[name].shape == batch[name].shape
        image = batch["image"].numpy()
        middle = image[:, :, 56:168, 56:168].astype(np.float32) / np.float32(255)
        assert np.array_equal(INPUTS["noise"](changed).numpy(), middle), "to the bit"
        gray = image.astype(np.float64).mean(axis=1, keepdims=True) / 255
        received = INPUTS["edge"](changed).numpy()
        assert np.array_equal(received, (np.rint(gray * SCALE) / SCALE).astype(np.float32)), "to the step of the column"
        assert np.abs(received - gray).max() <= 0.5 / SCALE + 1e-7


def test_the_rows_are_what_their_names_say(ablation_rows: ModuleType) -> None:
    def resolved(row: Any) -> dict[str, Any]:
        assert row.train in (None, *ablation_rows.TRAIN) and row.inference in (None, *ablation_rows.INFERENCE)
        return config_to_json(resolve_config("bmrl", "demo", row.semantics, row.settings))

    groups = {
        group: {row.name: (resolved(row), row.train, row.inference) for row in rows}
        for group, rows in ablation_rows.GROUPS.items()
    }
    assert [len(rows) for rows in groups.values()] == [9, 5, 3, 20, 2, 7, 8]  # no name stands twice in a group
    full = groups["a"]["BMRL"]
    same = [(group, name) for group, rows in groups.items() for name, found in rows.items() if found == full]
    assert same == [
        ("a", "BMRL"), ("b", "+ L_kl = BMRL"), ("c", "DFACC"), ("d", "AE NE EE PE LE with DFACC"), ("e", "sound"),
        ("f", "m = 0.7"), ("f", "lambda = 0.5"), ("g", "sound"),
    ]  # fmt: skip
    assert groups["d"]["AE NE EE LE with DFACC"] == groups["a"]["without parsing"]
    assert groups["d"]["AE NE EE PE LE without DFACC"] == groups["c"]["without a centre loss"]
    for name, (config, _, _) in groups["d"].items():
        parts, model = name.split(), config["model"]
        expected = {view for part, view in (("AE", "image"), ("EE", "edge"), ("NE", "noise")) if part in parts}
        assert set(model["views"]) == expected, name
        assert (model["parsing"], model["text"]) == ("PE" in parts, "LE" in parts), name
        assert config["losses"]["dfacc"] == float("without" not in parts), name
    sound, strict = (groups["e"][name][0]["equations"] for name in ("sound", "strict"))
    turned = [
        {key: value for key, value in config["equations"].items() if value != sound[key]}
        for config, _, _ in list(groups["g"].values())[1:]
    ]
    assert [len(one) for one in turned] == [1] * len(strict)
    assert {key: value for one in turned for key, value in one.items()} == strict
