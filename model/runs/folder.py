"""What every command reads of a run directory: config.json, the trained attributor, calibration.json, metrics.jsonl."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...pipeline.store.local import canonical_json, write_readable_json
from ...pipeline.store.reading import read_file
from ..attributor import Attributor, LabelSpace
from ..config import RunConfig, config_to_json
from ..documents import SCHEMA_VERSION, read_calibration, read_config, read_record
from ..errors import RunError
from ..evaluation.worth import Worth, worth_of
from ..resolve import config_from_json, from_config
from ..rules import check_config
from ..training.checkpoint import load_weights
from ..training.metrics import METRICS_BYTES


@dataclass(frozen=True, kw_only=True)
class Run:
    """What stands in config.json."""

    config: RunConfig
    labels: LabelSpace
    protocol: str | None
    data: dict[str, Any]  # root_digest, selection, name, views: their digests, params: their parameters

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def meaning(self) -> str:
        """The hash of what decides which answer a logit of the weights is: classes and their facts, the attributor, its model
        and equations, and the parameters of the views that it infers from. Weights carry it."""
        settings = config_to_json(self.config)
        params = self.data.get("params", {})
        document = {
            "classes": list(self.classes),
            "class_facts": {"kinds": list(self.labels.kinds), "families": list(self.labels.families)},
            **{name: settings[name] for name in ("attributor", "model", "equations")},
            "view_params": {name: params.get(name) for name in ("image", *self.config.own.inference_views)},
        }
        return hashlib.sha256(canonical_json(document)).hexdigest()

    @property
    def recipe(self) -> str:
        """The hash of all settings but the seed, the classes and the data: runs that share it are one method."""
        settings = config_to_json(self.config)
        settings["train"] = {name: value for name, value in settings["train"].items() if name != "seed"}
        document = {"config": settings, "classes": list(self.classes), "data": self.data, "protocol": self.protocol}
        return hashlib.sha256(canonical_json(document)).hexdigest()


def write_run(folder: Path, run: Run, versions: dict[str, str]) -> None:
    document = {
        "schema_version": SCHEMA_VERSION,
        "config": config_to_json(run.config),
        "classes": list(run.classes),
        "class_facts": {"kinds": list(run.labels.kinds), "families": list(run.labels.families)},
        "protocol": run.protocol,
        "data": run.data,
        "versions": versions,
    }
    write_readable_json(folder / "config.json", document)


def read_run(folder: Path) -> Run:
    """Raises RunError where the folder is no run of this version, or where its settings break a rule."""
    file = folder / "config.json"
    document = read_config(file)
    try:
        config = config_from_json(document["config"])
        check_config(config)
    except ValueError as error:
        raise RunError(f"{file} cannot be used: {error}") from error
    facts = document.get("class_facts", {})  # runs of version 0.1 say nothing of kinds and families
    return Run(
        config=config,
        labels=LabelSpace(names=tuple(document["classes"]), **{name: tuple(part) for name, part in facts.items()}),
        protocol=document["protocol"],
        data=document["data"],
    )


def load_attributor(
    folder: Path,
    device: torch.device,
    *,
    weights: str = "best.safetensors",
    say: Callable[[str], None] | None = None,
) -> tuple[Run, Attributor]:
    """The trained attributor of a run, in eval mode; `say` (by default a log) gets a warning where nothing binds
    config.json to the weights."""
    run = read_run(folder)
    try:
        model = from_config(run.config, run.labels)
    except (RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{folder / 'config.json'} cannot be used: {error}") from error
    if not load_weights(model, folder / weights, meaning=run.meaning):
        (say or logging.getLogger(__name__).warning)(
            f"warning: {folder / weights} does not say what it was trained as (a run of version 0.1): config.json beside it "
            "is taken at its word"
        )
    model.to(device)
    model.eval()
    return run, model


def read_worth(folder: Path, num_classes: int) -> Worth:
    """What calibration.json says that the run is worth. Raises RunError where it is damaged."""
    return worth_of(read_calibration(folder / "calibration.json"), num_classes)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; a line that the trainer has not written whole (yet) is left out."""
    file = folder / "metrics.jsonl"
    lines = read_file(file, limit=METRICS_BYTES).splitlines() if file.exists() else []
    return [record for record in map(read_record, lines) if record is not None]
