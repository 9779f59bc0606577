"""Every setting of a run, with the papers' values as the defaults of preset `paper`; sizes go by preset, equations by
semantics, and `--set key=value` overrides one field.

BMRL: arXiv 2504.14129, section IV-A; equation numbers are those of that paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .rules import check_config


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of BMRL."""

    dim: int = 512  # d
    depth: int = 6  # Q, transformer blocks of each visual and parsing encoder
    heads: int = 8
    mlp: int = 1024  # hidden size of the visual blocks
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    convs: tuple[int, ...] = (3, 3, 3, 4, 4)
    strided_stem: bool = (
        False  # the backbones' first convolution halves the map, its stage has no pool (not the paper's)
    )
    highpass_stem: bool = False  # start the first filters over colours (image, parsing) at zero mean (not the paper's)
    noise_widths: tuple[int, ...] = (32, 64)
    noise_convs: tuple[int, ...] = (3, 3)
    tokens: int = 1  # of a 7x7 map: 1 as in the papers, or 49
    noise_tokens: int = 1
    patch_size: int = 112  # p
    text_depth: int = 6  # L
    text_heads: int = 8
    text_mlp: int = 2048
    views: tuple[str, ...] = ("image", "edge", "noise")  # visual encoders that are on: AE, EE, NE
    parsing: bool = True  # PE, training only
    text: bool = True  # LE, training only
    text_levels: tuple[int, ...] = (1, 2, 3, 4)  # of the prompts; the others are left empty
    text_readout: str = (
        "last"  # last: one feature, at the last end of text; levels: one a level, each aligned by itself
    )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of Eq. 12 (all 1 in the paper) and the constants of its terms."""

    dfa: float = 1.0
    dfacc: float = 1.0
    vcc: float = 0.0  # contrastive centre loss (Qi & Su 2017) instead of DFACC, Table 4
    cmc: float = 1.0
    cpc: float = 1.0
    kl: float = 1.0
    margin: float = 0.7  # m, Eq. 7
    inter_weight: float = 0.5  # lambda
    vcc_delta: float = 1.0
    spa: str = "off"  # sample pair attention on CMC (MFCLIP): off, batch (as released) or class
    temperature: float = 0.07  # initial tau, learnable
    kl_temperature: float = 0.5


@dataclass(frozen=True, kw_only=True)
class SemanticsConfig:
    """Which reading of the equations: `strict` is what the paper's text decides, `sound` the default for users."""

    cmc_targets: str = "multi"  # multi: uniform over equal prompts; onehot
    kl_detach: bool = True
    max_logit_scale: float = 100.0  # inf: not clamped
    head: str = "layernorm-unit"  # LayerNorm + Linear on unit-norm I_v; linear: one Linear on raw I_v
    dfacc_space: str = "feature"  # unit-norm I_v with unit-norm centres; prob: the softmax output
    text_padding: bool = False  # whether padding is attended to
    decay_all: bool = False  # weight decay on every parameter, 1-D ones and centres too


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    epochs: int = 45  # not in the paper: three StepLR periods
    batch_size: int = 32  # b
    lr: float = 1e-4
    weight_decay: float = 1e-3  # Adam's L2, not AdamW
    optimizer: str = "adam"  # or adamw
    schedule: str = "step"  # step: x0.1 every step_epochs; cosine: to 0 over the run, after one warm-up epoch; constant
    step_epochs: int = 15
    flip: bool = False  # random horizontal flip of all views alike; the paper augments nothing
    clip_norm: float = 0.0  # gradient clipping; 0: off
    checkpoint_every: int = 200  # steps
    precision: str = "float32"  # or bfloat16 (autocast)
    accumulate: int = 1  # parts that a batch is split into, for memory; contrastive terms and batch norm see one part
    compile: bool = False  # torch.compile of the backbones and transformers
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    attributor: str = "bmrl"
    preset: str = "paper"
    semantics: str = "sound"
    model: ModelConfig = field(default_factory=ModelConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    equations: SemanticsConfig = field(default_factory=SemanticsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


PRESETS: dict[str, RunConfig] = {
    "paper": RunConfig(),
    # One consumer GPU: half the width and depth.
    "small": RunConfig(
        preset="small",
        model=ModelConfig(
            dim=256, depth=3, heads=4, mlp=512, widths=(16, 32, 64, 128, 256), convs=(2, 2, 2, 3, 3),
            noise_widths=(32, 64, 128), noise_convs=(3, 3, 3), text_depth=3, text_heads=4, text_mlp=1024,
        ),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, step_epochs=10),
    ),
    # Minutes on two CPU cores.
    "demo": RunConfig(
        preset="demo",
        model=ModelConfig(
            dim=128, depth=2, heads=4, mlp=256, widths=(16, 24, 32, 64, 128), convs=(1, 1, 1, 1, 1),
            strided_stem=True, highpass_stem=True,
            noise_widths=(16, 32, 64), noise_convs=(1, 1, 1), text_depth=2, text_heads=4, text_mlp=256,
        ),
        train=TrainConfig(
            epochs=12, batch_size=32, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True, precision="bfloat16",
        ),
    ),
}  # fmt: skip

SEMANTICS: dict[str, SemanticsConfig] = {
    "sound": SemanticsConfig(),
    "strict": SemanticsConfig(
        cmc_targets="onehot",
        kl_detach=False,
        max_logit_scale=float("inf"),
        head="linear",
        dfacc_space="prob",
        text_padding=True,
        decay_all=True,
    ),
}


def resolve_config(
    attributor: str, preset: str, semantics: str, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """A preset with a semantics and overrides such as {"losses.dfacc": 0, "epochs": 3}. Raises ValueError naming the key
    that is unknown or the settings that do not go together."""
    for name, value, known in (("preset", preset, PRESETS), ("semantics", semantics, SEMANTICS)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known are {', '.join(known)}")
    config = dataclasses.replace(
        PRESETS[preset], attributor=attributor, semantics=semantics, equations=SEMANTICS[semantics]
    )
    for key, value in (overrides or {}).items():
        config = _override(config, key, value)
    check_config(config)
    return config


def config_from_json(document: Mapping[str, Any]) -> RunConfig:
    """The inverse of dataclasses.asdict. Raises ValueError where a field is unknown or missing."""
    sections = {"model": ModelConfig, "losses": LossConfig, "equations": SemanticsConfig, "train": TrainConfig}
    try:
        values: dict[str, Any] = {name: document[name] for name in ("attributor", "preset", "semantics")}
        for name, section in sections.items():
            fields = {f.name: f for f in dataclasses.fields(section)}
            values[name] = section(
                **{
                    k: tuple(v) if isinstance(v, list) else _from_json_float(v)
                    for k, v in document[name].items()
                    if k in fields
                }
            )
            if unknown := set(document[name]) - set(fields):
                raise ValueError(f"unknown setting {name}.{sorted(unknown)[0]}")
    except KeyError as error:
        raise ValueError(f"setting {error.args[0]!r} is missing") from None
    return RunConfig(**values)


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """JSON has no infinity: it is written as the string "inf"."""
    document = dataclasses.asdict(config)
    for section in ("model", "losses", "equations", "train"):
        document[section] = {k: "inf" if v == float("inf") else v for k, v in document[section].items()}
    return document


def _from_json_float(value: Any) -> Any:
    return float("inf") if value == "inf" else value


def _override(config: RunConfig, key: str, value: Any) -> RunConfig:
    sections = ("model", "losses", "equations", "train")
    section, _, name = key.rpartition(".")
    candidates = [
        s
        for s in sections
        if s == (section or s) and any(f.name == name for f in dataclasses.fields(getattr(config, s)))
    ]
    if len(candidates) != 1:
        known = ", ".join(f"{s}.{f.name}" for s in sections for f in dataclasses.fields(getattr(config, s)))
        problem = "is in several sections" if candidates else "is unknown"
        raise ValueError(f"setting {key!r} {problem}; known are {known}")
    target = candidates[0]
    current = getattr(getattr(config, target), name)
    changed = dataclasses.replace(getattr(config, target), **{name: _parse(key, value, current)})
    return dataclasses.replace(config, **{target: changed})


def _parse(key: str, value: Any, current: Any) -> Any:
    """A value of the field's type, from a string of the command line or a Python value."""
    try:
        if isinstance(current, bool):
            if isinstance(value, str):
                return {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}[value.lower()]
            return bool(value)
        if isinstance(current, tuple):
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(type(current[0])(part) for part in parts if part != "")
        return type(current)(value)
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"setting {key}: {value!r} is not a {type(current).__name__}, such as {current!r}") from None
