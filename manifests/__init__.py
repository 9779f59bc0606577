"""Facts about data, as YAML files shipped with the package; read here and nowhere else."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


def load(name: str) -> Any:
    """The parsed YAML file `name` (such as "prompts.yaml" or "protocols/demo-1.yaml") of this package, the caller's own."""
    return deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> Any:
    """Each is parsed once: `bmrl-prep protocols` asks 54 times, for a third of a second."""
    return yaml.safe_load(files(__name__).joinpath(name).read_text(encoding="utf-8"))


def names(folder: str) -> list[str]:
    """Names (without .yaml) of the files in a folder of this package, sorted."""
    return sorted(
        entry.name[:-5] for entry in files(__name__).joinpath(folder).iterdir() if entry.name.endswith(".yaml")
    )
