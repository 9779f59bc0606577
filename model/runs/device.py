"""The device that a run is trained or asked on."""

from __future__ import annotations

import os

import torch

from ..errors import WrongUseError


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32: a CPU without instructions for it converts to and fro."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_device(name: str | None) -> torch.device:
    """Raises WrongUseError for a device that is not here."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise WrongUseError(f"unknown --device {name!r}; known are cuda, cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise WrongUseError("--device cuda: no CUDA device is available here; use --device cpu")
    index = name.removeprefix("cuda:") if ":" in name else os.environ.get("LOCAL_RANK", "") if name == "cuda" else ""
    if index and not (index.isdecimal() and int(index) < torch.cuda.device_count()):
        raise WrongUseError(
            f"--device {name}: there is no CUDA device {index}, {torch.cuda.device_count()} in all; every process needs its own"
        )
    return torch.device("cuda", int(index)) if index else torch.device(name)
