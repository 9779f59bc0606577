"""Whether the members of an array view are arrays of the view's dtype and shape, as the loader expects them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..store.reading import open_regular
from ..views.codec import CODECS, NPY, npy_header
from ..views.column import ViewPlan, array_bytes
from .tars import HEADER_BYTES, Sidecar


def member_problem(plan: ViewPlan, sidecar: Sidecar) -> str:
    """What is wrong with the members that a sidecar names, in words; empty where nothing is. Their places are in the tar."""
    if not sidecar["num_samples"]:
        return ""
    if set(sidecar["members"]) != set(plan.codec):
        return "has members of other suffixes than its view"
    return ""


def ends_beyond(sidecar: Sidecar) -> bool:
    """Whether a member would end behind the tar."""
    return any(offset + size > sidecar["bytes"] for spans in sidecar["members"].values() for offset, size in spans)


def stored_array(plan: ViewPlan, data: bytes) -> npt.NDArray[Any]:
    """A member of an array view. Raises ValueError where it is no array of the view's dtype and shape; what its own header
    announces is not allocated."""
    dtype, shape = np.dtype(plan.array["dtype"]).newbyteorder("<"), tuple(plan.array["shape"])
    if [CODECS[name] for name in plan.codec.values()] == [NPY]:
        header = npy_header(dtype, shape)
        if len(data) == len(header) + array_bytes(plan.array) and data.startswith(header):
            return np.frombuffer(data, dtype, offset=len(header)).reshape(shape)
    else:
        array = plan.decode(data)
        if array.dtype == dtype and array.shape == shape:
            return array
    raise ValueError(f"no array {shape} of {dtype}")


def header_problem(path: Path, plan: ViewPlan, sidecar: Sidecar) -> str:
    """As `member_problem`, of what stands in the tar."""
    if not plan.array:
        return ""
    dtype, shape = np.dtype(plan.array["dtype"]), tuple(plan.array["shape"])
    is_raw = [CODECS[name] for name in plan.codec.values()] == [NPY]
    header = npy_header(dtype.newbyteorder("<"), shape)
    whole = len(header) + array_bytes(plan.array)
    step = HEADER_BYTES + -(-whole // HEADER_BYTES) * HEADER_BYTES
    with open_regular(path) as file:
        for row, (offset, size) in enumerate(sidecar["members"][plan.suffix]):
            file.seek(offset)
            if is_raw:
                right = (offset, size) == (HEADER_BYTES + row * step, whole) and file.read(len(header)) == header
            else:
                try:
                    stored_array(plan, file.read(size))
                    right = True
                except ValueError:
                    right = False
            if not right:
                return f"{sidecar['keys'][row]} is not an array {shape} of {dtype}"
    return ""
