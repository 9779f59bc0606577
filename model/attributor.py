"""What an attributor is: a module that turns batches of views into losses, logits and embeddings.

The trainer, the evaluation and the commands know attributors by this class alone. Losses that any attributor can add are
modules: losses.CenterLoss (DFACC, VCC) over its features, logits and labels, and losses.SamplePairAttention on a
vision-text similarity matrix.

Legend: B batch, D embedding dimension, K classes, U distinct prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .config import Preset, RunConfig, settings_of
from .inputs import Batch


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """What label k means: the source's name, its kind and its family (`unknown` where nobody said)."""

    names: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for column in ("kinds", "families"):
            values = getattr(self, column) or ("unknown",) * len(self.names)
            if len(values) != len(self.names):
                raise ValueError(f"{len(self.names)} classes and {len(values)} {column}: expected one a class")
            object.__setattr__(self, column, tuple(values))

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(
        cls, classes: LabelSpace | Sequence[str] | int, facts: Mapping[str, Mapping[str, Any]] = {}
    ) -> LabelSpace:  # read only
        """From names (or their number), with `facts`: name -> its kind and family."""
        if isinstance(classes, LabelSpace):
            return classes
        names = tuple(f"class {k}" for k in range(classes)) if isinstance(classes, int) else tuple(classes)
        return cls(
            names=names,
            kinds=tuple(str(facts.get(name, {}).get("kind", "unknown")) for name in names),
            families=tuple(str(facts.get(name, {}).get("family", "unknown")) for name in names),
        )


@dataclass(frozen=True, kw_only=True)
class AlignedText:
    """Prompts in the space of the embedding, level by level."""

    features: Tensor  # float (U, 4, D), of length 1; rows of unknown sentences mean nothing
    levels: tuple[int, ...]  # of 1-4, those that were trained


class Attributor(nn.Module):
    """Base class of all attributors. A subclass gives `losses`, `embed` and `classify`; the rest has defaults."""

    steps = True  # False: trained by `fit` in one pass, without an optimizer
    tunes = False  # True: the trainer calls `tune` before each step
    # What the kept checkpoint is the lowest of on validation rows: nll, or loss, the weighted sum of `losses`
    picks_by = "nll"

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.record: dict[str, Tensor] = {}  # detached scalars of the last `losses` call that are no losses

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def inference_views(self) -> tuple[str, ...]:
        """The columns that `embed` reads."""
        views: tuple[str, ...] = self.config.own.inference_views
        return views

    @property
    def training_views(self) -> tuple[str, ...]:
        """The columns that `losses` reads, the inference views among them."""
        views: tuple[str, ...] = self.config.own.training_views
        return views

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """name -> unweighted scalar, float32; `loss_weights` holds the weights."""
        raise NotImplementedError

    def embed(self, batch: Batch) -> Tensor:
        """float (B, D). Needs the inference views alone."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """embed's output (B, D) -> logits, float (B, K)."""
        raise NotImplementedError

    def logits(self, batch: Batch) -> Tensor:
        """float (B, K). Needs the inference views alone."""
        return self.classify(self.embed(batch))

    def loss_weights(self) -> Mapping[str, float]:
        """Term of `losses` -> its weight in the sum."""
        return {}

    def view_params(self) -> dict[str, dict[str, Any]]:
        """view -> the parameters that its shards must have been built with, as far as the settings name them."""
        params: dict[str, dict[str, Any]] = {}
        for one in settings_of(self.config):
            if (source := one.from_view) and source.view in self.inference_views:
                params.setdefault(source.view, {})[source.param] = one.value
        return params

    def aligned_text(self, tokens: Tensor) -> AlignedText | None:
        """Prompts int (U, 4, 77) -> what `embed` is aligned with level by level; None without such an alignment."""
        return None

    def activations(self) -> dict[str, nn.Module]:
        """Name -> the module whose output (B, C, H, W) is a feature map worth looking at, for heat maps."""
        return {}

    def undecayed(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return set()

    def begin(self) -> None:
        """Called once before a training that does not go on from a checkpoint: published weights are read here. Raises
        ValueError of one sentence where they cannot be had."""

    def end_epoch(self) -> None:
        """Called once after each epoch, before its validation."""

    def fit(self, batches: Iterable[Batch]) -> None:
        """One pass over the training rows, for attributors with `steps = False` (nearest neighbours, linear probes)."""
        raise NotImplementedError

    def tune(self, batch: Batch, other: Batch, rate: float) -> None:
        """Before a step on `batch`: adjust loss weights by another batch of the training rows; rate is the step's own."""

    def upgrade(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights that an older version saved, as this one names them."""
        return state


@dataclass(frozen=True, kw_only=True)
class Spec:
    """All that a name stands for; each attributor's file ends with one."""

    config: type  # its AttributorConfig
    presets: Mapping[str, Preset]
    semantics: Mapping[str, Any]  # name -> the section `equations`
    attributor: type[Attributor]
    # Of the attributor's own config: settings that stand in files which others name, read once. Raises ValueError.
    complete: Callable[[Any], Any] | None = None
