"""config.json of a run directory: the resolved settings, the class list and the identity of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..attributors import check_attributor
from ..resolve import config_from_json, from_config
from ..attributor import Attributor
from ..config import RunConfig, config_to_json
from .checkpoint import RunError, load_weights, read_json, write_json

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """What stands in config.json."""

    config: RunConfig
    classes: tuple[str, ...]
    protocol: str | None
    data: dict[str, Any]  # root_digest, selection, name, views: their digests, params: their parameters


def write_run(folder: Path, run: Run, versions: dict[str, str]) -> None:
    document = {
        "schema_version": SCHEMA_VERSION,
        "config": config_to_json(run.config),
        "classes": list(run.classes),
        "protocol": run.protocol,
        "data": run.data,
        "versions": versions,
    }
    write_json(folder / "config.json", document)


def read_run(folder: Path) -> Run:
    """Raises RunError where the folder is no run of this version."""
    document = read_json(folder / "config.json")
    try:
        if document["schema_version"] != SCHEMA_VERSION:
            raise RunError(
                f"{folder / 'config.json'} has schema_version {document['schema_version']}, this version reads {SCHEMA_VERSION}"
            )
        _check_types(document)
        return Run(
            config=config_from_json(document["config"]),
            classes=tuple(document["classes"]),
            protocol=document["protocol"],
            data=document["data"],
        )
    except RunError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be used: {error}") from error


def _check_types(document: Mapping[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError where what every command reads was edited away."""
    classes, protocol, data = document["classes"], document["protocol"], document["data"]
    is_list = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not is_list or len(set(classes)) < len(classes):
        raise ValueError("classes is no list of different names")
    if not isinstance(protocol, str | None):
        raise ValueError("protocol is no name")
    if not isinstance(data, dict):
        raise ValueError("data is no mapping")
    parts = {"n_train": data["n_train"], "views": data["views"], "params": data.get("params", {})}
    if wrong := [name for name, part in parts.items() if not isinstance(part, dict)]:
        raise ValueError(f"data.{wrong[0]} is no mapping")
    if not isinstance(data["root_digest"], str):
        raise ValueError("data.root_digest is no text")


def load_attributor(folder: Path, device: torch.device, *, weights: str = "best.safetensors") -> tuple[Run, Attributor]:
    """The trained attributor of a run, in eval mode."""
    run = read_run(folder)
    try:
        check_attributor(run.config.attributor)
        model = from_config(run.config, run.classes)
    except (RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be used: {error}") from error
    load_weights(model, folder / weights)
    model.to(device)
    model.eval()
    return run, model
