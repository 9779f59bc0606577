"""What most attributors are: an embedding, a head with cross-entropy, and the losses over centres that any of them can add.

A subclass builds its parts in `__init__`, ends it with `add_centers(dim)`, and gives `embed` and `classify`; one with more
losses overrides `losses` and starts from `label_terms`. Its settings are a ClassifierConfig with its own section `model`.

Legend: B batch, D embedding dimension, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from .attributor import Attributor, LabelSpace
from .config import RunConfig, TrainConfig, setting
from .inputs import Batch
from .losses import CenterLoss
from .published import HUB, SCRATCH


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of the terms, and the constants of DFACC and VCC (BMRL Tables 4, 9 and 10)."""

    ce: float = setting(1.0, at_least_zero=True)
    dfacc: float = setting(0.0, at_least_zero=True)
    vcc: float = setting(0.0, at_least_zero=True)
    margin: float = setting(0.7, at_least_zero=True)  # m, BMRL Eq. 7
    inter_weight: float = setting(0.5, at_least_zero=True)  # lambda
    vcc_delta: float = setting(1.0, positive=True)


@dataclass(frozen=True, kw_only=True)
class Equations:
    """Where `sound` and `strict` differ for every attributor."""

    # feature: unit-norm embeddings with unit-norm centres; prob: the softmax output
    dfacc_space: str = setting("feature", choices=("feature", "prob"))
    decay_all: bool = False  # weight decay on every parameter, 1-D ones and centres too


SEMANTICS: Mapping[str, Equations] = {
    "sound": Equations(),
    "strict": Equations(dfacc_space="prob", decay_all=True),
}


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """A section that is empty."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The sections of an attributor that reads the image alone; a subclass says what its `model` is, and more views."""

    model: Any = field(default_factory=NoSettings)
    losses: Weights = field(default_factory=Weights)
    equations: Equations = field(default_factory=Equations)

    @property
    def origin(self) -> str:
        """What the weights were before the training, as tables say it."""
        weights = getattr(self.model, "weights", SCRATCH)
        return {SCRATCH: "from scratch", HUB: "from published weights"}.get(weights, "from weights of a file")

    @property
    def inference_views(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def training_views(self) -> tuple[str, ...]:
        return self.inference_views

    def check(self, train: TrainConfig) -> None:
        """Raises ValueError with one sentence for the first rule that is broken."""
        check_centers(self.losses)


@dataclass(frozen=True, kw_only=True)
class FittedConfig:
    """The sections of an attributor that is fitted in one pass: it has no losses, and one reading."""

    model: Any = field(default_factory=NoSettings)
    losses: NoSettings = field(default_factory=NoSettings)
    equations: NoSettings = field(default_factory=NoSettings)

    @property
    def origin(self) -> str:
        return "fitted"

    @property
    def inference_views(self) -> tuple[str, ...]:
        return ("image",)

    @property
    def training_views(self) -> tuple[str, ...]:
        return self.inference_views

    def check(self, train: TrainConfig) -> None:
        """Raises ValueError with one sentence for the first rule that is broken."""


FITTED_SEMANTICS: Mapping[str, NoSettings] = {"sound": NoSettings(), "strict": NoSettings()}


def check_centers(losses: Any) -> None:
    """Raises ValueError where two losses would pull at the same centres."""
    if losses.vcc and losses.dfacc:
        raise ValueError(
            "losses.vcc and losses.dfacc are two losses on the same centres; set one to 0, such as losses.dfacc=0"
        )


def check_multiples(model: Any, *pairs: tuple[str, str]) -> None:
    """Raises ValueError where the first setting of a pair is no multiple of the second, such as (dim, heads)."""
    for whole, part in pairs:
        if getattr(model, whole) % getattr(model, part):
            raise ValueError(
                f"model.{whole} {getattr(model, whole)} is not a multiple of model.{part} {getattr(model, part)}"
            )


class Classifier(Attributor):
    """Cross-entropy over a head, with DFACC or VCC over the embedding where their weight is above 0."""

    label_term = "ce"  # what the paper calls its cross-entropy

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        self.own: Any = config.own
        self.center_loss: CenterLoss | None = None

    def add_centers(self, dim: int) -> None:
        """The centres of the embedding (B, dim), where a loss asks for them."""
        losses, equations = self.own.losses, self.own.equations
        if losses.dfacc or losses.vcc:
            self.center_loss = CenterLoss(
                self.num_classes,
                dim,
                kind="vcc" if losses.vcc else "dfacc",
                space=equations.dfacc_space,
                margin=losses.margin,
                inter_weight=losses.inter_weight,
                delta=losses.vcc_delta,
            )

    def loss_weights(self) -> Mapping[str, float]:
        """Every term is named as the setting of its weight."""
        settings = {one.name: getattr(self.own.losses, one.name) for one in fields(self.own.losses)}
        return {name: value for name, value in settings.items() if isinstance(value, float)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """ce, and dfacc or vcc where asked for; unweighted scalars."""
        features = self.embed(batch)
        return self.label_terms(features, self.classify(features), batch["label"])

    def label_terms(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """features (B, D), logits (B, K), labels int64 (B,) -> the terms that need no other view."""
        self.record = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        terms = {self.label_term: cross_entropy(logits, labels)}
        if self.center_loss is not None:
            terms |= self.center_loss(features, logits, labels)
            self.record |= self.center_loss.record
        return terms

    def end_epoch(self) -> None:
        """`sound`: once, after the first epoch, the centres become the unit-norm class means of that epoch."""
        if self.center_loss is not None:
            self.center_loss.end_epoch()

    def undecayed(self) -> set[str]:
        """Under `sound`: 1-D parameters (biases, norms, scales), centres, positions, class tokens and SPA's table."""
        if self.own.equations.decay_all:
            return set()
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or name.endswith(("centers", "positions", "class_token", "spa.table"))
        }
