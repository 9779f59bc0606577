"""Frozen features with a fitted head: kNN, nearest mean, Mahalanobis or linear (2408.09153 does so with CLIP and DINOv2).

Expected on the embedded dataset: 64.0 % of 150 seen validation images with the head knn.
Command: bmrl-train --attributor knn --shards demo/shards --out demo/knn --protocol demo-1 --preset demo
         (the embedding of a run: --set model.features=run --set model.weights=RUN)

Legend: B batch, N rows, D feature dimension, K classes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...pipeline.views.noise import NoiseParams
from ..attributor import Attributor, LabelSpace, Spec
from ..classifier import FITTED_SEMANTICS, FittedConfig
from ..config import Preset, RunConfig, TrainConfig, setting
from ..documents import read_config
from ..errors import RunError
from ..inputs import Batch
from ..layers.fitted import HEADS, Principal
from ..layers.frozen import BACKBONES, FEATURES, Frozen
from ..published import HUB, SCRATCH, read_weights, take_published

SIDE = 224  # pixels a side of a face


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Which features, and which head."""

    features: str = setting("dinov2", choices=("run", *FEATURES))
    weights: str = HUB  # of clip and dinov2: hub, none or a file; of run: its folder
    width: float = setting(1.0, positive=True)  # of clip and dinov2
    depth: float = setting(1.0, positive=True)
    head: str = setting("knn", choices=tuple(HEADS))
    components: int = setting(256, positive=True, most=4096)  # principal ones that are kept
    neighbours: int = setting(10, positive=True, most=1000)  # k
    rows: int = setting(10_000, positive=True, most=1_000_000)  # kept for their distances
    run: str = ""  # what the run's config.json says, as JSON; filled in from model.weights


@dataclass(frozen=True, kw_only=True)
class Config(FittedConfig):
    """The settings of fitted heads over frozen features."""

    model: Sizes = field(default_factory=Sizes)

    @property
    def origin(self) -> str:
        if self.model.features in BACKBONES:
            how = {HUB: "published weights", SCRATCH: "random weights"}.get(self.model.weights, "weights of a file")
            return f"fitted on {how}"
        return "fitted"

    @property
    def inference_views(self) -> tuple[str, ...]:
        return _inner_config(self.model.run).own.inference_views if self.model.run else ("image",)

    def check(self, train: TrainConfig) -> None:
        if (self.model.features == "run") != bool(self.model.run):
            raise ValueError("model.features=run needs model.weights=RUN, the folder of a finished run")


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(epochs=1)),
    "small": Preset(config=Config(model=Sizes(features="srm")), train=TrainConfig(epochs=1)),
    "demo": Preset(config=Config(model=Sizes(features="srm")), train=TrainConfig(epochs=1)),
}


class Knn(Attributor):
    """Features that nothing is trained of, their principal components, and a head."""

    steps = False

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        self.own: Config = config.own
        model = self.own.model
        self.inner: Any = None
        if model.features == "run":
            self.inner = _make_inner(model.run)
            dim = _width_of(self.inner)
        else:
            self.inner = Frozen(model.features, width=model.width, depth=model.depth)
            dim = self.inner.dim
        self.principal = Principal(dim, model.components)
        self.head = HEADS[model.head](self.principal.components, self.num_classes, model.rows, model.neighbours)

    def begin(self) -> None:
        model = self.own.model
        if model.features == "run":
            _load_inner(self.inner, Path(model.weights))
        elif model.features in BACKBONES:
            take_published(self.inner.backbone.network, BACKBONES[model.features], model.weights)

    def view_params(self) -> dict[str, dict[str, Any]]:
        return self.inner.view_params() if self.own.model.features == "run" else {}

    @torch.no_grad()
    def fit(self, batches: Iterable[Batch]) -> None:
        """One pass over the training rows."""
        found = [(self._frozen(batch).cpu(), batch["label"].cpu()) for batch in batches]
        features, labels = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        self.head.fit(self.principal.fit(features), labels)

    def embed(self, batch: Batch) -> Tensor:
        """The principal components of the standardised features, float (B, C)."""
        return self.principal(self._frozen(batch))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)

    @torch.no_grad()
    def _frozen(self, batch: Batch) -> Tensor:
        found: Tensor = self.inner.embed(batch) if self.own.model.features == "run" else self.inner(batch["image"])
        return found.float()


def complete(config: Config) -> Config:
    """What the run says, read once, so that the new run stands without it. Raises ValueError of one sentence."""
    model = config.model
    if model.features != "run" or model.run or model.weights in (HUB, SCRATCH):
        return config
    try:
        document = read_config(Path(model.weights) / "config.json")
    except RunError as error:
        raise ValueError(f"model.weights={model.weights}: {error}") from error
    kept = {name: document.get(name) for name in ("config", "classes", "class_facts")}
    said = json.dumps(kept, separators=(",", ":"))
    return dataclasses.replace(config, model=dataclasses.replace(model, run=said))


def _inner_config(said: str) -> RunConfig:
    from ..resolve import config_from_json

    try:
        return config_from_json(json.loads(said)["config"])
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("setting model.run is not what a run's config.json says") from error


def _make_inner(said: str) -> Attributor:
    from ..resolve import from_config

    document = json.loads(said)
    facts = document.get("class_facts") or {}
    labels = LabelSpace(names=tuple(document["classes"]), **{name: tuple(part) for name, part in facts.items()})
    return from_config(_inner_config(said), labels)


def _width_of(model: Attributor) -> int:
    """Numbers of an embedding, by asking for that of a black face."""
    patch = int(model.view_params().get("noise", {}).get("patch_size", NoiseParams().patch_size))
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "image": ((1, 3, SIDE, SIDE), torch.uint8),
        "edge": ((1, 1, SIDE, SIDE), torch.int32),
        "noise": ((1, 3, patch, patch), torch.int16),
        "parsing": ((1, SIDE, SIDE), torch.uint8),
    }
    black = {name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in shapes.items()}
    with torch.no_grad():
        return int(model.eval().embed(black).shape[1])


def _load_inner(model: Attributor, run: Path) -> None:
    state = model.upgrade(read_weights(run / "best.safetensors"))
    own = model.state_dict()
    if set(own) != set(state) or any(own[name].shape != state[name].shape for name in own):
        raise ValueError(f"{run / 'best.safetensors'} is not of the config.json beside it; use another run")
    model.load_state_dict(state)


SPEC = Spec(config=Config, presets=PRESETS, semantics=FITTED_SEMANTICS, attributor=Knn, complete=complete)
