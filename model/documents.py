"""The schemas of a run's documents (config.json, calibration.json, state.json, lines of metrics.jsonl): what is read of a
RUN folder, by any command, is held against them first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from ..pipeline.store.documents import DocumentError, check_schema, parse_json
from ..pipeline.store.reading import JSON_BYTES, read_file
from .errors import RunError

SCHEMA_VERSION = 1
DAMAGED = "restore it, or train again into another --out"
Count = Annotated[int, Meta(ge=0, lt=2**48)]
Positive = Annotated[int, Meta(ge=1, lt=2**48)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]


class _Facts(Struct, frozen=True, forbid_unknown_fields=True):
    kinds: list[Name]
    families: list[Name]


class _Data(Struct, frozen=True):
    root_digest: str
    n_train: dict[str, Count]
    views: dict[str, str]
    selection: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    params: dict[str, dict[str, Any]] | UnsetType = UNSET
    missing_sources: list[str] | UnsetType = UNSET


class _Settings(Struct, frozen=True):
    """The sections' fields are an attributor's own: model.config holds their types and ranges."""

    attributor: Name
    preset: Name
    semantics: Name
    model: dict[str, Any]
    losses: dict[str, Any]
    equations: dict[str, Any]
    train: dict[str, Any]


class _Config(Struct, frozen=True):
    schema_version: Literal[1]
    config: _Settings
    classes: Annotated[list[Name], Meta(min_length=2)]
    protocol: Name | None
    data: _Data
    class_facts: _Facts | UnsetType = UNSET  # version 0.1 says nothing of kinds and families
    versions: dict[str, str] | UnsetType = UNSET


class _Leak(Struct, frozen=True):
    accuracy: Share
    control: Name


class _OldCalibration(Struct, frozen=True):
    """Of version 0.1."""

    threshold_95: Share
    n: Positive | UnsetType = UNSET
    temperature: Finite | UnsetType = UNSET
    threshold_95_calibrated: Share | UnsetType = UNSET


class _OperatingPoint(Struct, frozen=True):
    score: Name
    threshold: Finite
    n: Positive
    acceptance: Share
    thresholds: dict[Name, Finite]
    left_out: dict[Name, Share]
    reason: str


class _Calibration(Struct, frozen=True):
    threshold_95: Share
    threshold_95_acceptance: Share
    n: Positive
    accuracy: Share
    majority: Share
    best_leak: _Leak | None
    confidences: Annotated[list[Share], Meta(max_length=100_000)]
    operating_point: _OperatingPoint | UnsetType = UNSET
    temperature: Finite | UnsetType = UNSET
    threshold_95_calibrated: Share | UnsetType = UNSET


MEASURED = {"accuracy", "majority", "threshold_95_acceptance"}  # version 0.1 has none of them


class _Loader(Struct, frozen=True):
    seed: int
    epoch: Count
    selection: str
    consumed: Count


class _State(Struct, frozen=True):
    step: Count
    loader: _Loader
    best_val_nll: Finite | None  # None: not yet; of the validation loss where the attributor picks by that
    # Of checkpoint/, so that nothing else is read as weights.
    weights: Annotated[str, Meta(pattern=r"^[0-9]{8,15}\.safetensors\Z")]
    optimizer: Annotated[str, Meta(pattern=r"^[0-9]{8,15}-optimizer\.safetensors\Z")]
    best_epoch: Count | UnsetType = UNSET  # version 0.1 does not say it


class _Step(Struct, frozen=True):
    step: Count
    epoch: Count
    loss: float


class _Validation(Struct, frozen=True):
    epoch: Count
    val_accuracy: Share


def read_json(path: Path) -> Any:
    """Raises RunError where the file is absent, cannot be read or is no JSON."""
    try:
        return parse_json(read_file(path, limit=JSON_BYTES))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: {path.parent} is no run of bmrl-train") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise RunError(f"{path} is damaged: {error}; {DAMAGED}") from None


def read_config(path: Path) -> dict[str, Any]:
    """config.json. Raises RunError."""
    document = read_json(path)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise RunError(f"{path} has schema_version {version}, this version reads {SCHEMA_VERSION}")
    try:
        check_schema(document, _Config)
        classes = document["classes"]
        if len(set(classes)) < len(classes):
            raise DocumentError("classes names one source twice")
        if wrong := [name for name, facts in document.get("class_facts", {}).items() if len(facts) != len(classes)]:
            raise DocumentError(f"class_facts.{wrong[0]} has not one entry for each of the {len(classes)} classes")
    except DocumentError as error:
        raise RunError(f"{path} cannot be used: {error}") from None
    return dict(document)


def read_calibration(path: Path) -> dict[str, Any] | None:
    """calibration.json; None where there is none. Raises RunError."""
    if not path.exists() and not path.is_symlink():
        return None
    document = read_json(path)
    try:
        check_calibration(document)
    except DocumentError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    return dict(document)


def check_calibration(document: Any) -> None:
    """Raises DocumentError."""
    is_old = isinstance(document, dict) and not MEASURED & set(document)
    check_schema(document, _OldCalibration if is_old else _Calibration)


def read_state(path: Path) -> dict[str, Any]:
    """state.json. Raises RunError."""
    document = read_json(path)
    try:
        check_schema(document, _State)
    except DocumentError as error:
        raise RunError(f"{path} is damaged: {error}; train again into another --out") from None
    return dict(document)


def read_record(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None where it is no record of a step or a validation, such as one that a crash tore.

    Beside the named figures there are any others, all numbers; Python's json writes one that is not finite as NaN."""
    try:
        record = json.loads(line)
        check_schema(record, dict[str, float])
        check_schema(record, _Step if "step" in record else _Validation)
    except (ValueError, RecursionError):
        return None
    return dict(record)
