"""What a run directory holds, written so that a crash at any moment leaves a state to go on from.

A checkpoint is a pair of files named by its step under checkpoint/; state.json, renamed into place after them, says
which pair counts. last.safetensors is a link to the weights of that pair, a copy on a file system without links.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from ...pipeline.store.local import link_or_copy, remove_temporaries, write_bytes, write_readable_json
from ...pipeline.store.memory import TooLargeError, check_memory
from ...pipeline.store.reading import check_no_link, check_safetensors
from ..attributor import Attributor
from ..documents import read_state
from ..errors import RunError

FOLDER = "checkpoint"
LAST = "last.safetensors"
MEANING = "bmrl_meaning"  # the one key of the weights' metadata: the hash of what config.json says they are


def save_weights(model: Attributor, path: Path, *, meaning: str | None = None) -> None:
    """safetensors whose metadata is `meaning` alone: equal weights of equal meaning give equal bytes."""
    metadata = None if meaning is None else {MEANING: meaning}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, save(tensors, metadata), hashed=False)


def _check_file(path: Path) -> None:
    """Raises OSError for what is no safetensors file, RunError for one that does not fit into memory."""
    check_safetensors(path)
    try:
        check_memory(path.stat().st_size, "its tensors")
    except TooLargeError as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises OSError, SafetensorError and RunError."""
    _check_file(path)
    return load_file(path)


def load_weights(model: Attributor, path: Path, *, meaning: str | None = None) -> bool:
    """Returns whether the file says what its weights mean; those of version 0.1 do not.

    Raises RunError where it is absent, damaged, of another architecture or class list, or means something else than `meaning`
    (None: not compared)."""
    try:
        _check_file(path)
        with safe_open(path, framework="pt") as file:
            said = (file.metadata() or {}).get(MEANING)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: the run has no such checkpoint yet") from None
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({error}); use another checkpoint, or train again") from error
    state, own = model.upgrade(state), model.state_dict()
    wrong = sorted(k for k in {*own, *state} if k not in own or k not in state or own[k].shape != state[k].shape)
    if wrong:
        raise RunError(
            f"{path} is of another architecture or class list ({len(wrong)} tensors differ, such as {wrong[0]}); "
            "it belongs to the config.json beside it"
        )
    if said is not None and meaning is not None and said != meaning:
        raise RunError(
            f"{path} was trained with another class list, settings or views than config.json beside it says, so its answers "
            "would get wrong names; restore that config.json, or train again into another --out"
        )
    model.load_state_dict(state)
    return said is not None


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, run: Path, *, meaning: str | None = None) -> None:
        """meaning: of the weights, saved with them and compared when they are loaded."""
        self.run, self.meaning = run, meaning
        self.folder = run / FOLDER

    def save(
        self, model: Attributor, optimizer: torch.optim.Optimizer, names: list[str], state: Mapping[str, Any]
    ) -> None:
        """names: of the optimizer's parameters, in its order."""
        check_no_link(self.run, FOLDER, of="a run")
        self.folder.mkdir(exist_ok=True)
        step = int(state["step"])
        weights, moments = self.folder / f"{step:08d}.safetensors", self.folder / f"{step:08d}-optimizer.safetensors"
        save_weights(model, weights, meaning=self.meaning)
        write_bytes(moments, save(_moments(optimizer, names)), hashed=False)
        write_readable_json(self.run / "state.json", {**state, "weights": weights.name, "optimizer": moments.name})
        link_or_copy(weights, self.run / LAST)
        for old in self.folder.glob("*.safetensors"):
            if old.name not in (weights.name, moments.name):
                old.unlink()

    def load(self, model: Attributor, optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Any] | None:
        """Restore both and return the state; None where the run has no checkpoint yet."""
        if not (self.run / "state.json").exists():
            return None
        state = read_state(self.run / "state.json")
        load_weights(model, self.folder / state["weights"], meaning=self.meaning)
        try:
            _load_moments(optimizer, names, read_tensors(self.folder / state["optimizer"]))
        except RunError:
            raise
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise RunError(f"{self.folder / state['optimizer']} is damaged ({error}); train again") from error
        return state

    def relink(self, state: Mapping[str, Any]) -> None:
        """last.safetensors is of that state: a crash may have come between state.json and the link."""
        link_or_copy(self.folder / state["weights"], self.run / LAST)

    def sweep(self) -> None:
        """Remove the temporary files of a process that was killed."""
        remove_temporaries(self.run)


def _moments(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, torch.Tensor]:
    """Adam's state by parameter name; a parameter that never had a gradient has none."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{key}/{name}": torch.as_tensor(value).clone().contiguous()
        for name, parameter in zip(names, parameters, strict=True)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _load_moments(optimizer: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, torch.Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    by_name = dict(zip(names, parameters, strict=True))
    for key, tensor in tensors.items():
        kind, name = key.split("/", 1)
        parameter = by_name[name]
        if tensor.shape == parameter.shape and tensor.ndim:
            # The parameter's memory layout too: the fused kernels walk both as flat memory.
            optimizer.state[parameter][kind] = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        else:
            optimizer.state[parameter][kind] = tensor.to(parameter.device)
