"""A view as a column: its declared parameters, stored members, and the digest that stands for all of it.

The digest hashes name, version, parameters, codec, weights, the digest of the view it reads, and a probe: the hash of
the view's output on a small shipped image, so that a library that computes something else cannot hide behind an old
digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..store.local import canonical_json
from . import VIEWS
from .codec import CODECS
from .view import View, rows_view

CODEC_SETS = ("raw", "png")  # arrays as they are, or PNG for publishing


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """Everything that decides the bytes of one column."""

    name: str
    version: int
    params: dict[str, Any]
    codec: dict[str, str]  # member suffix -> codec name; text has json and txt
    reads: str  # digest of the view it reads; "" for one that reads the source or the labels
    weights_sha256: str
    probe: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(canonical_json(dataclasses.asdict(self))).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "digest": self.digest, **self.array}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ViewPlan:
        return cls(**{field.name: document[field.name] for field in dataclasses.fields(cls)})

    @property
    def array(self) -> dict[str, Any]:
        """dtype, shape, scale and unit of a stored sample under these parameters; empty for a view of members."""
        describe = VIEWS[self.name].array if self.name in VIEWS else None
        return describe(self.params) if describe else {}

    def encode(self, value: npt.NDArray[Any] | dict[str, bytes]) -> dict[str, bytes]:
        """The tar members (suffix -> bytes) of one sample: of an array by the codec, members as they are."""
        if isinstance(value, dict):
            return value
        ((suffix, codec),) = self.codec.items()
        return {suffix: CODECS[codec].encode(value)}

    def decode(self, data: bytes) -> npt.NDArray[Any]:
        (codec,) = self.codec.values()
        return CODECS[codec].decode(data)

    @property
    def suffix(self) -> str:
        """The suffix of an array view's only member."""
        (suffix,) = self.codec
        return suffix


def plan_view(
    view: View,
    params: Any,
    *,
    codec_set: str = "raw",
    image_plan: ViewPlan | None = None,
    weights_sha256: str = "",
    probe: bytes | None = None,
) -> ViewPlan:
    """The plan of a column under `params`, the view's dataclass.

    image_plan: of the view that decides the rows, for one that reads it. probe: of a view that a tool computes; its own
    otherwise.
    """
    probe = view.probe(params) if view.probe else probe
    if view.array is not None:
        codec = view.codecs[codec_set]
        members = {view.suffix(codec): codec.name}
    else:
        members = {suffix: suffix for suffix in view.members}
    assert view.reads != "image" or image_plan is not None
    return ViewPlan(
        name=view.name,
        version=view.version,
        params=dataclasses.asdict(params),
        codec=members,
        reads=image_plan.digest if image_plan is not None and view.reads == "image" else "",
        weights_sha256=weights_sha256,
        probe="" if probe is None else hashlib.sha256(probe).hexdigest(),
    )


def codec_set_of(plans: Mapping[str, ViewPlan]) -> str | None:
    """The codec set that the columns of a plan were stored by; None without the view that decides the rows."""
    view = rows_view(VIEWS)
    if view.name not in plans:
        return None
    suffix = plans[view.name].suffix
    return next(name for name in CODEC_SETS if view.suffix(view.codecs[name]) == suffix)


def default_array(view: str) -> dict[str, Any]:
    """dtype, shape, scale and unit of an array view stored under its default parameters."""
    record = VIEWS[view]
    assert record.array is not None, f"{view} stores no array"
    return record.array(dataclasses.asdict(record.params()))


def ordered(views: Iterable[str]) -> list[str]:
    """View names in the fixed order."""
    chosen = set(views)
    return [view for view in VIEWS if view in chosen]


def array_bytes(array: Mapping[str, Any]) -> int:
    """Bytes of one sample's array; 0 for an empty description."""
    return int(np.dtype(array["dtype"]).itemsize * np.prod(array["shape"])) if array else 0
