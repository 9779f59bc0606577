"""Several processes that train one model: `torchrun --no-python --nproc-per-node N bmrl-train ...`.

Gradients and running statistics are averaged in one flat all-reduce each after the backward pass, so the weights of all
processes are equal bit for bit; DistributedDataParallel would need `forward`, and a search for parameters that a step
does not use (centres in the first epoch, levels of text that are left out).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Its functions have the group of the moment of their import as a default. The optimiser imports it, and a group that stands
# by then outlives `leave`: its threads go on while Python ends, which now and then aborts the process.
import torch.distributed.nn.functional
from torch import Tensor

from ..errors import WorldError

# The others wait for the one that validates; NCCL's default ends them after 10 minutes.
VALIDATION = timedelta(hours=6)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """One process alone writes the run."""
        return self.rank == 0


def join(device: torch.device) -> World:
    """The world that torchrun's environment names; without it, this process alone. Raises WorldError."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return World()
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=VALIDATION)
        except (ValueError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            raise WorldError(
                f"RANK and WORLD_SIZE name processes that train together, but they do not meet ({said}); "
                "start them with torchrun, or unset both"
            ) from error
    return World(rank=dist.get_rank(), size=dist.get_world_size())


def leave() -> None:
    """End the process group where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def average(tensors: Sequence[Tensor], world: World) -> None:
    """Each float tensor becomes its mean over the processes, in place."""
    if world.size == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
    _sum(flat)
    flat /= world.size
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


def average_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """As `average` for gradients; one that no process has stays None, one that some lack counts as zeros there."""
    if world.size == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    _sum(used)
    shared = [p for p, count in zip(trained, used.tolist(), strict=True) if count]
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average([p.grad for p in shared if p.grad is not None], world)


def any_of(flag: bool, world: World, device: torch.device) -> bool:
    """Whether it is true in one of the processes; all get the same answer, so that all stop after the same step."""
    if world.size == 1:
        return flag
    count = torch.tensor(float(flag), device=device)
    _sum(count)
    return bool(count > 0)


def same_everywhere(value: Any, world: World) -> bool:
    """Whether all processes have an equal one (anything that can be pickled)."""
    if world.size == 1:
        return True
    values: list[Any] = [None] * world.size
    try:
        dist.all_gather_object(values, value)
    except RuntimeError as error:
        raise _gone() from error
    return all(other == value for other in values)


def _sum(tensor: Tensor) -> None:
    """In place, over the processes. Raises WorldError where one of them is gone."""
    try:
        dist.all_reduce(tensor)
    except RuntimeError as error:
        raise _gone() from error


def _gone() -> WorldError:
    return WorldError(
        "another process of this training has ended, what it said last says why; once that is mended, go on with --resume"
    )
