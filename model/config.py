"""What a run's settings are made of: fields that carry their rule, sections, presets, and their way to JSON and back.

The settings of one attributor stand in its own file (model/attributors). Those of every training stand here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MOST_SHOWN = 80  # characters of a value that is refused
INFINITE = "inf"  # JSON has no infinity
OWN_SECTIONS = ("model", "losses", "equations")  # of an attributor's Config
SECTIONS = (*OWN_SECTIONS, "train")


@dataclass(frozen=True, kw_only=True)
class FromView:
    """A setting that must be what a view of the shards was built with: training takes it from them.

    phrase and short say it in sentences, with a place for the value; option is the one of `bmrl-prep build`.
    """

    view: str
    param: str
    phrase: str
    short: str
    option: str


def setting(
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    at_least_zero: bool = False,
    positive: bool = False,
    most: int | None = None,
    may_be_infinite: bool = False,
    from_view: FromView | None = None,
) -> Any:
    """A dataclass field whose rule stands on it; `rules.check_config` holds values against it."""
    rule = {
        "choices": choices,
        "at_least_zero": at_least_zero,
        "positive": positive,
        "most": most,
        "may_be_infinite": may_be_infinite,
        "from_view": from_view,
    }
    return dataclasses.field(default=default, metadata=rule)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How any attributor is trained; the defaults are BMRL's (section IV-A)."""

    epochs: int = setting(45, positive=True)  # not in the paper: three StepLR periods
    batch_size: int = 32  # b
    lr: float = setting(1e-4, positive=True)
    weight_decay: float = setting(1e-3, at_least_zero=True)  # Adam's L2, not AdamW
    optimizer: str = setting("adam", choices=("adam", "adamw"))
    # step: x0.1 every step_epochs; cosine: to 0 over the run, after one warm-up epoch; constant
    schedule: str = setting("step", choices=("step", "cosine", "constant"))
    step_epochs: int = setting(15, positive=True)
    flip: bool = False  # random horizontal flip of all views alike; the paper augments nothing
    clip_norm: float = setting(0.0, at_least_zero=True)  # gradient clipping; 0: off
    checkpoint_every: int = setting(200, positive=True)  # steps
    precision: str = setting("float32", choices=("float32", "bfloat16"))  # bfloat16: autocast
    # Parts that a batch is split into, for memory; contrastive terms and batch norm see one part.
    accumulate: int = setting(1, positive=True)
    compile: bool = False  # torch.compile of the backbones and transformers
    patience: int = setting(0, at_least_zero=True)  # epochs without a better validation, after which it ends; 0: none
    seed: int = 0

    def check(self) -> None:
        """The rules that join several fields. Raises ValueError with one sentence."""
        if abs(self.seed) >= 2**32:  # times a million it seeds the flips, as 64 bits
            raise ValueError(f"setting train.seed: {self.seed} is out of range; between -2^32 and 2^32 is fine")
        if self.batch_size < 2 * self.accumulate or self.batch_size % self.accumulate:
            raise ValueError(
                f"train.accumulate {self.accumulate} does not divide a batch of {self.batch_size} into parts of 2 or more"
            )


class AttributorConfig(Protocol):
    """The settings of one attributor: three sections (frozen dataclasses), which views they need, and their rules."""

    @property
    def model(self) -> Any: ...

    @property
    def losses(self) -> Any: ...

    @property
    def equations(self) -> Any: ...

    @property
    def inference_views(self) -> tuple[str, ...]: ...

    @property
    def training_views(self) -> tuple[str, ...]: ...

    @property
    def origin(self) -> str:
        """What the weights were before the training, as tables say it: `from scratch`, `published weights`, ..."""
        ...

    def check(self, train: TrainConfig) -> None:
        """The rules that join several fields. Raises ValueError with one sentence."""
        ...


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes and optimiser that go together."""

    config: Any  # AttributorConfig, with the equations of `sound`
    train: TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting of a run, as config.json holds it."""

    attributor: str
    preset: str
    semantics: str
    own: Any  # AttributorConfig of this attributor
    train: TrainConfig

    @property
    def model(self) -> Any:
        return self.own.model

    @property
    def losses(self) -> Any:
        return self.own.losses

    @property
    def equations(self) -> Any:
        return self.own.equations


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a run's settings."""

    section: str
    name: str
    value: Any
    rule: Mapping[str, Any]  # empty where any value of the type will do

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def from_view(self) -> FromView | None:
        found: FromView | None = self.rule.get("from_view")
        return found


def settings_of(config: RunConfig) -> Iterator[Setting]:
    """All fields, section by section."""
    for section in SECTIONS:
        part = getattr(config, section)
        for field in dataclasses.fields(part):
            yield Setting(section=section, name=field.name, value=getattr(part, field.name), rule=field.metadata)


def replace_setting(config: RunConfig, key: str, value: Any) -> RunConfig:
    """The config with one field (section.name) changed; nothing is checked."""
    section, name = key.split(".")
    part = dataclasses.replace(getattr(config, section), **{name: value})
    if section == "train":
        return dataclasses.replace(config, train=part)
    return dataclasses.replace(config, own=dataclasses.replace(config.own, **{section: part}))


def override(config: RunConfig, key: str, value: Any) -> RunConfig:
    """As the command line's --set: `key` with or without its section, `value` a string or of the field's type.

    Raises ValueError naming the key that is unknown or the value that is none of its type.
    """
    section, _, name = key.rpartition(".")
    found = [one for one in settings_of(config) if one.name == name and section in ("", one.section)]
    if len(found) != 1:
        known = ", ".join(one.key for one in settings_of(config))
        problem = "is in several sections" if found else "is unknown"
        raise ValueError(f"setting {key!r} {problem}; known are {known}")
    return replace_setting(config, found[0].key, _parse(key, value, found[0].value))


def full_key(config: RunConfig, key: str) -> str:
    """section.name of a key that may lack its section; as it is where it is unknown."""
    return next((one.key for one in settings_of(config) if key in (one.name, one.key)), key)


def config_to_json(config: RunConfig) -> dict[str, Any]:
    """JSON has no infinity: it is written as the string "inf"."""
    document: dict[str, Any] = {name: getattr(config, name) for name in ("attributor", "preset", "semantics")}
    for section in SECTIONS:
        values = dataclasses.asdict(getattr(config, section))
        document[section] = {key: INFINITE if value == math.inf else value for key, value in values.items()}
    return document


def section_from_json(name: str, kind: type, document: Mapping[str, Any]) -> Any:
    """One section of config.json. Raises ValueError where a field is unknown or a value of another type."""
    if not isinstance(document[name], Mapping):
        raise ValueError(f"setting {name} is no mapping of settings")
    known = {field.name for field in dataclasses.fields(kind)}
    values = {key: _from_json(value) for key, value in document[name].items() if key in known}
    if unknown := set(document[name]) - known:
        raise ValueError(f"unknown setting {name}.{sorted(unknown)[0]}")
    for field in dataclasses.fields(kind):
        if field.name in values and not _fits(values[field.name], field.default):  # every setting has a default
            found = json.dumps(document[name][field.name])
            raise ValueError(f"setting {name}.{field.name}: {found} is not {_describe(field.default)}")
    return kind(**values)


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of a setting's type; a whole number is a number, true is none."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_fits(part, default[0]) for part in value if default)
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def _describe(value: Any) -> str:
    """A setting's type in words, with its default as the example."""
    if isinstance(value, tuple):
        return f"a list such as {','.join(map(str, value))}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    what = words.get(type(value), "a value")
    return what if isinstance(value, bool) else f"{what} such as {value}"


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return math.inf if value == INFINITE else value


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
        given = repr(value)
        shown = given if len(given) <= MOST_SHOWN else f"{given[:MOST_SHOWN]}..."
        raise ValueError(f"setting {key}: {shown} is not {_describe(current)}") from None
