"""From a name and settings to a run's config, and from a config to a fresh attributor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_type_hints

from .attributor import Attributor, LabelSpace
from .attributors import load_spec
from .config import OWN_SECTIONS, RunConfig, TrainConfig, override, section_from_json
from .rules import check_config
from .size import check_size


def resolve_config(
    attributor: str, preset: str, semantics: str, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """A preset with a semantics and overrides such as {"losses.dfacc": 0, "epochs": 3}. Raises ValueError naming the key
    that is unknown or the settings that do not go together."""
    spec = load_spec(attributor)
    for name, value, known in (("preset", preset, spec.presets), ("semantics", semantics, spec.semantics)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known are {', '.join(known)}")
    chosen = spec.presets[preset]
    config = RunConfig(
        attributor=attributor,
        preset=preset,
        semantics=semantics,
        own=dataclasses.replace(chosen.config, equations=spec.semantics[semantics]),
        train=chosen.train,
    )
    for key, value in (overrides or {}).items():
        config = override(config, key, value)
    if spec.complete is not None:
        config = dataclasses.replace(config, own=spec.complete(config.own))
    check_config(config)
    return config


def config_from_json(document: Mapping[str, Any]) -> RunConfig:
    """The inverse of config_to_json. Raises ValueError where a field is unknown or missing."""
    try:
        names = {name: document[name] for name in ("attributor", "preset", "semantics")}
        if wrong := [name for name, value in names.items() if not isinstance(value, str)]:
            raise ValueError(f"setting {wrong[0]} is no name")
        kinds = get_type_hints(load_spec(names["attributor"]).config)
        own = {name: section_from_json(name, kinds[name], document) for name in OWN_SECTIONS}
        train = section_from_json("train", TrainConfig, document)
    except KeyError as error:
        raise ValueError(f"setting {error.args[0]!r} is missing") from None
    return RunConfig(**names, own=load_spec(names["attributor"]).config(**own), train=train)


def from_config(config: RunConfig, classes: LabelSpace | Sequence[str] | int) -> Attributor:
    """A freshly initialised attributor of these settings. Raises ValueError for fewer than two classes, and TooLargeError,
    before anything is allocated, for one that does not fit into memory."""
    make = maker(config, classes)
    check_size(make)
    return make()


def maker(config: RunConfig, classes: LabelSpace | Sequence[str] | int) -> Callable[[], Attributor]:
    """What makes it, on torch's default device. Raises ValueError for fewer than two classes."""
    labels = LabelSpace.of(classes)
    if len(labels) < 2:
        raise ValueError(f"an attributor needs at least two classes, got {len(labels)}")
    return partial(load_spec(config.attributor).attributor, config, labels)
