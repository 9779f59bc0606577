"""Published weights of the standard backbones: pinned on the Hugging Face Hub, or a file. The only reader of
manifests/backbones.yaml."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import manifests
from ..pipeline.store import hub
from ..pipeline.store.memory import TooLargeError, check_memory
from ..pipeline.store.reading import check_safetensors
from .layers.backbones import take_weights

HUB, SCRATCH = "hub", "none"  # of the setting model.weights; anything else is a file
NEXT = "give a local copy with --set model.weights=FILE, or train from scratch with --set model.weights=none"


@dataclass(frozen=True, kw_only=True)
class Published:
    """An entry of manifests/backbones.yaml: a safetensors file by the names of the library `transformers`."""

    repository: str
    revision: str
    file: str
    license: str
    size: int = 0  # bytes; 0 where no digest is known, and the hub is not asked
    sha256: str = ""


def read_manifest() -> dict[str, Published]:
    """By backbone. Raises ValueError for an unknown key."""
    known = {field.name for field in fields(Published)}
    entries = manifests.load("backbones.yaml")
    for name, entry in entries.items():
        if unknown := set(entry) - known:
            raise ValueError(f"manifests/backbones.yaml: {name}: unknown key {sorted(unknown)[0]!r}")
    return {name: Published(**entry) for name, entry in entries.items()}


def take_published(network: nn.Module, backbone: str, weights: str, *, cache: Path | None = None) -> None:
    """The setting model.weights put into a network of `transformers`: hub, none (nothing is done), or a file.

    Raises ValueError of one sentence with the next step where the weights cannot be had or do not fit.
    """
    if weights == SCRATCH:
        return
    path = _fetch(backbone, cache) if weights == HUB else Path(weights)
    tensors = read_weights(path)
    try:
        take_weights(network, tensors)
    except ValueError as error:
        raise ValueError(
            f"{path} does not hold the backbone {backbone} of these settings ({error}); published weights need model.width=1 "
            f"and model.depth=1, as preset paper has them; {NEXT}"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, float32. Raises ValueError of one sentence."""
    try:
        check_safetensors(path)
        check_memory(path.stat().st_size, "its tensors")
        return {name: tensor.float() for name, tensor in load_file(path).items()}
    except FileNotFoundError:
        raise ValueError(f"model.weights={path}: no such file; {NEXT}") from None
    except (OSError, SafetensorError, TooLargeError) as error:
        raise ValueError(f"model.weights={path} cannot be read as a .safetensors file ({error}); {NEXT}") from error


def _fetch(backbone: str, cache: Path | None) -> Path:
    entry = read_manifest()[backbone]
    if not entry.sha256:
        raise ValueError(
            f"no digest of the published weights of {backbone} ({entry.repository}) is pinned in this version, so they are not "
            f"fetched; {NEXT}"
        )
    mirror = hub.Mirror(repository=entry.repository, revision=entry.revision, file=entry.file)
    try:
        return hub.fetch(
            hub.Pin(size=entry.size, sha256=entry.sha256, mirrors=(mirror,)),
            what=f"the weights of the backbone {backbone}",
            otherwise=NEXT,
            cache=cache,
        )
    except hub.HubError as error:
        raise ValueError(str(error)) from error
