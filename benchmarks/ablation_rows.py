"""The rows of benchmarks/ablations.py: settings alone where the paper ablates, changes of the data for the controls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bmrl.model.layers.encoders import END
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.views.edge import SCALE
from bmrl.pipeline.views.noise import DIVISORS

Batch = dict[str, Any]
Change = Callable[[Batch], Batch]
WORDS = (1000, 40000)  # ids of CLIP's vocabulary that stand for words


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    train: str | None = None  # a key of TRAIN: what is changed in training batches
    inference: str | None = None  # a key of INFERENCE: what is changed in every batch
    semantics: str = "sound"


class Bank:
    """Parsing maps and prompts of the training rows, for the controls that mix them up."""

    def __init__(self, rows: ShardSet, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        loader = rows.loader(views=("parsing", "text"), batch_size=64, shuffle=False)
        batches = [{**batch, "parsing": batch["parsing"].clone()} for batch in loader]
        self.keys = [key for batch in batches for key in batch["key"]]
        self.parsing = torch.cat([batch["parsing"] for batch in batches])
        self.labels = torch.cat([batch["label"] for batch in batches])
        text = torch.cat([batch["text"] for batch in batches])
        self.prompts = torch.stack([text[self.labels == k][0] for k in range(len(rows.classes))])
        self.place = {key: i for i, key in enumerate(self.keys)}
        self.shuffled = self.labels[torch.randperm(len(self.labels), generator=self.generator)]
        self.random_prompts = self.prompts.clone()
        words = torch.randint(*WORDS, self.prompts.shape, generator=self.generator, dtype=self.prompts.dtype)
        ends = (self.prompts == END).cumsum(dim=-1) > 0
        inside = ~ends & (
            torch.arange(self.prompts.shape[-1]) > 0
        )  # between start and end: as many words as the prompt
        self.random_prompts[inside] = words[inside]

    def draw(self, labels: Tensor, keys: list[str], *, same_class: bool) -> Tensor:
        """For each sample another training row, of the same class or of any; int64 (B,)."""
        drawn = []
        for label, key in zip(labels.tolist(), keys, strict=True):
            allowed = (self.labels == label) if same_class else torch.ones_like(self.labels, dtype=torch.bool)
            allowed[self.place[key]] = False
            rows = allowed.nonzero()[:, 0]
            drawn.append(rows[torch.randint(len(rows), (1,), generator=self.generator)])
        return torch.cat(drawn)


def wrong_image(bank: Bank) -> Change:
    """The parsing of another image of the same source: what the class says is kept, the pairing is broken."""
    return lambda batch: {**batch, "parsing": bank.parsing[bank.draw(batch["label"], batch["key"], same_class=True)]}


def shuffled_parsing(bank: Bank) -> Change:
    """The parsing of any image: nothing is kept."""
    return lambda batch: {**batch, "parsing": bank.parsing[bank.draw(batch["label"], batch["key"], same_class=False)]}


def constant_parsing(bank: Bank) -> Change:
    """One map for all: that of the first training row."""
    return lambda batch: {**batch, "parsing": bank.parsing[:1].expand(len(batch["key"]), -1, -1)}


def random_sentences(bank: Bank) -> Change:
    """A fixed random sentence a class and level, of the prompt's length: the label is kept, the words mean nothing."""
    return lambda batch: {**batch, "text": bank.random_prompts[batch["label"]]}


def shuffled_labels(bank: Bank) -> Change:
    """Every training image gets another image's label, once and for all, and the prompt of that label."""

    def change(batch: Batch) -> Batch:
        labels = bank.shuffled[torch.tensor([bank.place[key] for key in batch["key"]])]
        return {**batch, "label": labels, "text": bank.prompts[labels]}

    return change


def image_thrice(batch: Batch) -> Batch:
    """The image where edge (its gray values) and noise (its middle 112 pixels) were: the same parameters, one view."""
    gray = batch["image"].float().mean(dim=1, keepdim=True) / 255.0
    middle = batch["image"][..., 56:168, 56:168].contiguous().to(torch.int16)
    scaled = middle * torch.tensor(DIVISORS, dtype=torch.int16)[:, None, None]  # noise_input divides it again: exact
    return {**batch, "edge": (gray * SCALE).round().to(torch.int32).to(torch.uint16), "noise": scaled}


TRAIN: dict[str, Callable[[Bank], Change]] = {
    "wrong image": wrong_image,
    "shuffled parsing": shuffled_parsing,
    "constant parsing": constant_parsing,
    "random sentences": random_sentences,
    "shuffled labels": shuffled_labels,
}
INFERENCE: dict[str, Change] = {"image thrice": image_thrice}

FULL = Row(name="BMRL")
PE, LE = {"model.parsing": 0}, {"model.text": 0}


def _losses(*kept: str) -> dict[str, Any]:
    return {f"losses.{name}": float(name in kept) for name in ("dfacc", "cmc", "cpc", "kl")}


def _modules(dfacc: int) -> list[Row]:
    """Table 6; published row differences mix training recipes (N14), so once with DFACC in every row and once in none."""
    visual = {"AE": "image", "EE": "edge", "NE": "noise"}  # the default's order, so that the full row is that of (a)
    rows = ("AE", "EE", "NE", "AE NE", "AE NE LE", "AE NE PE LE", "AE EE", "AE NE EE", "AE NE EE LE", "AE NE EE PE LE")
    suffix = " with DFACC" if dfacc else " without DFACC"
    return [
        Row(
            name=name + suffix,
            settings={
                "model.views": ",".join(view for part, view in visual.items() if part in name.split()),
                "model.parsing": int("PE" in name.split()),
                "model.text": int("LE" in name.split()),
                "losses.dfacc": dfacc,
            },
        )
        for name in rows
    ]


GROUPS: dict[str, list[Row]] = {
    "a": [
        FULL,
        Row(name="parsing of a wrong image of the same source", train="wrong image"),
        Row(name="shuffled labels", train="shuffled labels"),
        Row(name="image to all three encoders", inference="image thrice"),
        Row(name="random sentences per class", train="random sentences"),
        Row(name="without parsing", settings=PE),
        Row(name="without text", settings=LE),
        Row(name="shuffled parsing", train="shuffled parsing"),
        Row(name="constant parsing", train="constant parsing"),
    ],
    "b": [
        Row(name="L_dfa", settings=_losses()),
        Row(name="+ L_dfacc", settings=_losses("dfacc")),
        Row(name="+ L_cmc", settings=_losses("dfacc", "cmc")),
        Row(name="+ L_cpc", settings=_losses("dfacc", "cmc", "cpc")),
        Row(name="+ L_kl = BMRL"),
    ],
    "c": [
        Row(name="without a centre loss", settings={"losses.dfacc": 0}),
        Row(name="VCC", settings={"losses.dfacc": 0, "losses.vcc": 1}),
        Row(name="DFACC"),
    ],
    "d": [*_modules(1), *_modules(0)],
    "e": [Row(name="sound"), Row(name="strict", semantics="strict")],
    "f": [
        *(Row(name=f"m = {m}", settings={"losses.margin": m}) for m in (0.5, 0.7, 0.9)),
        *(Row(name=f"lambda = {value}", settings={"losses.inter_weight": value}) for value in (0.0, 0.3, 0.5, 0.7)),
    ],
    # Each choice of `sound` turned back to that of `strict`, one at a time.
    "g": [
        Row(name="sound"),
        Row(name="one-hot targets of L_cmc", settings={"equations.cmc_targets": "onehot"}),
        Row(name="L_kl not detached", settings={"equations.kl_detach": 0}),
        Row(name="one Linear on raw I_v", settings={"equations.head": "linear"}),
        Row(name="DFACC on the softmax output", settings={"equations.dfacc_space": "prob"}),
        Row(name="padding attended to", settings={"equations.text_padding": 1}),
        Row(name="decay of every parameter", settings={"equations.decay_all": 1}),
        Row(name="scales not bounded", settings={"equations.max_logit_scale": math.inf}),
    ],
}
