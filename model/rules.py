"""What the settings of a run must satisfy, each with its sentence; size limits of the encoders included."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import RunConfig

CHOICES = {
    "model.text_readout": ("last", "levels"),
    "losses.spa": ("off", "batch", "class"),
    "equations.cmc_targets": ("multi", "onehot"),
    "equations.head": ("layernorm-unit", "linear"),
    "equations.dfacc_space": ("feature", "prob"),
    "train.optimizer": ("adam", "adamw"),
    "train.schedule": ("step", "cosine", "constant"),
    "train.precision": ("float32", "bfloat16"),
}
AT_LEAST_ZERO = (
    *(f"losses.{name}" for name in ("dfa", "dfacc", "vcc", "cmc", "cpc", "kl", "inter_weight", "margin")),
    *("train.weight_decay", "train.clip_norm"),
)
POSITIVE = (
    *("losses.temperature", "losses.kl_temperature", "losses.vcc_delta", "train.lr", "train.step_epochs"),
    *("train.epochs", "train.accumulate", "train.checkpoint_every", "model.dim", "model.depth", "model.heads"),
    *("model.mlp", "model.text_depth", "model.text_heads", "model.text_mlp"),
)


def check_config(config: RunConfig) -> None:
    """Raises ValueError with one sentence for the first rule that is broken."""
    for key, known in CHOICES.items():
        if (value := _get(config, key)) not in known:
            raise ValueError(f"setting {key}: unknown {value!r}; known are {', '.join(known)}")
    for keys, holds, what in (
        (AT_LEAST_ZERO, lambda value: value >= 0, "0 or more"),
        (POSITIVE, lambda value: value > 0, "more than 0"),
    ):
        for key in keys:
            if not (holds(value := _get(config, key)) and math.isfinite(value)):
                raise ValueError(f"setting {key}: {value} is not a number of {what}")
    if not config.equations.max_logit_scale > 0:  # inf: not clamped
        raise ValueError(
            f"setting equations.max_logit_scale: {config.equations.max_logit_scale} is not a number of more than 0"
        )
    _check_model(config)
    _check_losses(config)
    train = config.train
    if abs(train.seed) >= 2**32:  # times a million it seeds the flips, as 64 bits
        raise ValueError(f"setting train.seed: {train.seed} is out of range; between -2^32 and 2^32 is fine")
    if train.batch_size < 2 * train.accumulate or train.batch_size % train.accumulate:
        raise ValueError(
            f"train.accumulate {train.accumulate} does not divide a batch of {train.batch_size} into parts of 2 or more"
        )


def _check_model(config: RunConfig) -> None:
    model = config.model
    if (
        not model.views
        or len(set(model.views)) < len(model.views)
        or not set(model.views) <= {"image", "edge", "noise"}
    ):
        raise ValueError(f"model.views {model.views}: expected one or more of image, edge, noise")
    for heads in ("heads", "text_heads"):
        if model.dim % getattr(model, heads):
            raise ValueError(f"model.dim {model.dim} is not a multiple of model.{heads} {getattr(model, heads)}")
    for name, widths, convs, tokens, side in (
        ("", model.widths, model.convs, model.tokens, 224),
        ("noise_", model.noise_widths, model.noise_convs, model.noise_tokens, model.patch_size),
    ):
        if not widths or len(widths) != len(convs) or min((*widths, *convs)) < 1:
            raise ValueError(
                f"model.{name}widths {widths} and model.{name}convs {convs}: expected as many of each, all 1 or more"
            )
        reduced = side // 2 ** len(widths)
        if reduced < 1:
            raise ValueError(
                f"model.{name}widths {widths} halve {side} pixels to nothing; {2 ** len(widths)} or more are needed"
            )
        grid = math.isqrt(max(tokens, 0))
        if grid < 1 or grid**2 != tokens or reduced % grid:
            raise ValueError(
                f"model.{name}tokens {tokens} does not divide a map of {reduced}x{reduced} (1 always does)"
            )
    if model.text and (not model.text_levels or not set(model.text_levels) <= {1, 2, 3, 4}):
        raise ValueError(f"model.text_levels {model.text_levels}: expected one or more of 1, 2, 3, 4")


def _check_losses(config: RunConfig) -> None:
    losses, model = config.losses, config.model
    if losses.vcc and losses.dfacc:
        raise ValueError(
            "losses.vcc and losses.dfacc are two losses on the same centres; set one to 0, such as losses.dfacc=0"
        )
    if losses.spa != "off" and not (model.text and losses.cmc):
        raise ValueError("losses.spa weighs the pairs of CMC, which needs model.text=1 and losses.cmc above 0")
    if model.text_readout == "levels" and not (model.text and (losses.cmc or losses.kl)):
        raise ValueError("model.text_readout=levels needs model.text=1 and losses.cmc or losses.kl above 0")


def _get(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
