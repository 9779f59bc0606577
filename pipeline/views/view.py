"""What a view is: one record that says all that other code must know of it, at the end of the view's file.

A record travels in the task of a shard, so a worker needs no import of the driver's: its functions take arrays, know no
path, tar or Ray, and everything that they need beside arrays is a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .codec import Codec

if TYPE_CHECKING:
    from torch import Tensor

    from .image import RGB, Source

PICTURE_SIDE = 224  # pixels a side of one view as a person sees it

Picture = npt.NDArray[np.uint8]  # RGB (PICTURE_SIDE, PICTURE_SIDE, 3)
Params = Mapping[str, Any]  # a view's parameters as a plan holds them
Reads = Literal["source", "image", "labels"]
FactType = Literal["string", "name", "int16", "int32", "int64", "float64 list"]  # name: of few different values


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a view may read of one sample.

    row: its row of the plan (key, labels, source_path). facts: of its source file; source_sha256 and source_bytes while
    the rows are decided, later all that the view which decides them recorded. source and image: None where no view that
    is computed reads them.
    """

    row: Mapping[str, Any]
    facts: Mapping[str, Any]
    source: Source | None = None
    image: RGB | None = None


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A view of one sample.

    value: the array to store, or the members themselves (suffix -> bytes). facts: its columns of the index.
    """

    value: npt.NDArray[Any] | dict[str, bytes]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What a view of the labels says of a source: it stands once in dataset.json, and a batch looks it up there.

    key: of dataset.json. entry: (generator, kind, family, parameters) -> JSON. batch_row: entry -> one sample's row of the
    batch, of `dtype`.
    """

    key: str
    entry: Callable[[str, str, str, Params], dict[str, Any]]
    batch_row: Callable[[Mapping[str, Any]], Any]
    dtype: str


def no_bytes(params: Params) -> int:
    return 0


def as_stored(stored: Tensor) -> Tensor:
    """(B, *shape) as it is."""
    return stored


def flip_columns(batch: Tensor) -> Tensor:
    """Mirror (..., W) left to right; torch flips no uint16, so those go as the int16 of the same bits."""
    import torch

    kind = batch.dtype
    return (batch.view(torch.int16) if kind == torch.uint16 else batch).flip(-1).view(kind)


def gray_picture(values: npt.NDArray[Any]) -> Picture:
    """(H, W) in [0, 255], clipped and truncated -> RGB (H, W, 3)."""
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@dataclass(frozen=True, kw_only=True)
class View:
    """All that code outside a view's file knows of it.

    compute: (sample, parameters) -> Computed, for a view without a tool. compute_batch: (samples, parameters, tool) ->
    as many, for one with. probe: parameters -> the bytes whose hash stands for what the code and its libraries compute.
    picture: one sample of a batch (of a catalogue: its entry) -> what a person sees.
    """

    name: str
    version: int
    reads: Reads
    params: type  # a frozen dataclass; its fields are the parameters of a plan
    picture: Callable[[Any], Picture]
    compute: Callable[[Sample, Any], Computed] | None = None
    probe: Callable[[Any], bytes] | None = None

    # How it is stored: an array in one member, by the codec of the chosen set, or members of its own.
    array: Callable[[Params], dict[str, Any]] | None = None  # -> dtype, shape, scale, unit; value / scale: in its unit
    codecs: Mapping[str, Codec] = field(default_factory=dict)  # codec set -> codec
    prefix: str | None = None  # of the member's suffix; None: the view's name, "": the bare extension
    members: tuple[str, ...] = ()  # suffixes, of a view without an array
    about: str = ""  # what those hold, in words
    facts: Mapping[str, FactType] = field(default_factory=dict)  # columns of the index that it fills
    extra_bytes: Callable[[Params], int] = no_bytes  # a sample takes beside its array, roughly

    # How a batch holds it.
    arrange: Callable[[Tensor], Tensor] = as_stored  # (B, *shape) -> the batch's tensor, without a copy
    mirror: Callable[[Tensor], Tensor] | None = flip_columns  # of the batch's tensor; None: nothing in it has a side
    catalogue: Catalogue | None = None

    # The one view that decides which rows there are, and may drop a sample: how it decodes a source for all.
    decode: Callable[[bytes, Any], Source] | None = None

    # What it needs from outside.
    tool: str = ""  # opened once by each process that computes the view
    compute_batch: Callable[[Sequence[Sample], Any, Any], list[Computed]] | None = None
    tool_name: Callable[[Params], str] | None = None  # under which anybody can open the tool again; "": only its owner
    options: Mapping[str, str] = field(default_factory=dict)  # build option -> the parameter that it sets
    stage: str = ""  # what its time is counted as; by default its name

    @property
    def decides_rows(self) -> bool:
        return self.decode is not None

    def params_of(self, params: Params) -> Any:
        """The dataclass of a plan's parameters."""
        return self.params(**params)

    def suffix(self, codec: Codec) -> str:
        """KEY.npy for the image, KEY.edge.npy and so on for the others."""
        prefix = self.name if self.prefix is None else self.prefix
        return f"{prefix}.{codec.extension}" if prefix else codec.extension


def rows_view(views: Mapping[str, View]) -> View:
    """The view that decides which rows there are."""
    (found,) = (view for view in views.values() if view.decides_rows)
    return found
