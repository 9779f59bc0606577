"""A view as a column: its declared parameters, stored members, and the digest that stands for all of it.

The digest hashes name, version, parameters, codec, weights, the digest of the view it reads, and a probe: the hash of
the view's output on a small shipped image, so that a library that computes something else cannot hide behind an old
digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import manifests
from ..store.local import canonical_json
from . import edge, image, noise, text
from .codec import CODECS, NPY, PALETTE_PNG, PNG, Codec

VIEWS = ("image", "edge", "noise", "parsing", "text")
CODEC_SETS: dict[str, dict[str, Codec]] = {
    "raw": {"image": NPY, "edge": NPY, "noise": NPY, "parsing": NPY},
    "png": {"image": PNG, "edge": PNG, "noise": NPY, "parsing": PALETTE_PNG},
}
# What a reader needs to know of an array stored under its view's default parameters; ViewPlan.array says it of a column.
# scale: stored value / scale = the value in the paper's units.
ARRAYS: dict[str, dict[str, Any]] = {
    "image": {"dtype": "uint8", "shape": [224, 224, 3], "scale": 255, "unit": "RGB in [0, 1]"},
    "edge": {"dtype": "uint16", "shape": [224, 224], "scale": edge.SCALE, "unit": "Sobel magnitude in [0, 4.5]"},
    "noise": {
        "dtype": "int16",
        "shape": [3, 112, 112],  # p of NoiseParams
        "scale": noise.DENOMINATORS.tolist(),
        "unit": "SRM residual of patch/255 in [-3, 3], one scale a channel",
    },
    "parsing": {"dtype": "uint8", "shape": [224, 224], "scale": 1, "unit": "BiSeNet class 0..18"},
}


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
        """dtype, shape, scale and unit of a stored sample, as in ARRAYS but under these parameters; empty for text."""
        if self.name == "noise":
            size = self.params["patch_size"]
            return {**ARRAYS["noise"], "shape": [3, size, size]}
        return ARRAYS.get(self.name, {})

    def encode(self, array: npt.NDArray[Any]) -> dict[str, bytes]:
        """The tar members (suffix -> bytes) of one sample of an array view."""
        ((suffix, codec),) = self.codec.items()
        return {suffix: CODECS[codec].encode(array)}

    def decode(self, data: bytes) -> npt.NDArray[Any]:
        (codec,) = self.codec.values()
        return CODECS[codec].decode(data)

    @property
    def suffix(self) -> str:
        """The suffix of an array view's only member."""
        (suffix,) = self.codec
        return suffix


def member_suffix(view: str, codec: Codec) -> str:
    """KEY.npy for image, KEY.edge.npy and so on for the others."""
    return codec.extension if view == "image" else f"{view}.{codec.extension}"


def plan_image(params: image.ImageParams, codec_set: str) -> ViewPlan:
    source = image.read_source(probe_jpeg(), params)
    return _array_plan("image", image.VERSION, params, codec_set, probe=image.compute_image(source, params))


def plan_edge(image_plan: ViewPlan, codec_set: str) -> ViewPlan:
    params = edge.EdgeParams()
    return _array_plan("edge", edge.VERSION, params, codec_set, image_plan, probe=edge.compute_edge(probe_image()))


def plan_noise(params: noise.NoiseParams, image_plan: ViewPlan, codec_set: str) -> ViewPlan:
    found = noise.compute_noise(probe_image(), params)
    probe = np.concatenate([found.numerators.ravel().astype(np.float64), found.scores])
    return _array_plan("noise", noise.VERSION, params, codec_set, image_plan, probe=probe)


def plan_parsing(params: Any, *, weights_sha256: str, codec_set: str, probe: npt.NDArray[np.uint8] | None) -> ViewPlan:
    """`params` is the parser's frozen dataclass; `probe` its label map of `probe_image()`, None for foreign maps."""
    from . import parsing

    return _array_plan("parsing", parsing.VERSION, params, codec_set, weights_sha256=weights_sha256, probe=probe)


def plan_text() -> ViewPlan:
    prompts = manifests.load("prompts.yaml")
    labels = text.Labels(
        key="probe", generator="StyleGAN2", kind="EFS", family="GAN", split="train", group="0", source_path="0.png",
        synthetic=True, licence="none",
    )  # fmt: skip
    lines = text.sentences(labels, prompts)
    return ViewPlan(
        name="text",
        version=text.VERSION,
        params={"context_length": text.CONTEXT_LENGTH, "prompts": prompts},
        codec={"json": "json", "txt": "txt"},
        reads="",
        weights_sha256="",
        probe=hashlib.sha256(text.encode_text(lines) + text.tokenize(lines).tobytes()).hexdigest(),
    )


def probe_jpeg() -> bytes:
    """A small 4:2:0 JPEG (256x240) shipped for the probes."""
    return files(__package__).joinpath("probe.jpg").read_bytes()


def probe_image() -> npt.NDArray[np.uint8]:
    """A procedural RGB image (224, 224, 3) with edges, gradients and noise; integer arithmetic only."""
    y, x = np.mgrid[0:224, 0:224].astype(np.uint64)
    state = (y * np.uint64(224) + x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    noise_bits = ((state ^ (state >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(56)
    base = (x * 3 + y * 2 + np.uint64(80) * ((x // 16 + y // 24) % 2)) % np.uint64(256)
    amplitude = np.where(x < 112, 3, 5) + np.where(y < 112, 0, 9)
    planes = [
        (base // 2 + noise_bits * amplitude.astype(np.uint64) // np.uint64(32) + np.uint64(40 * c)) for c in range(3)
    ]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def _array_plan(
    name: str,
    version: int,
    params: Any,
    codec_set: str,
    reads: ViewPlan | None = None,
    *,
    weights_sha256: str = "",
    probe: npt.NDArray[Any] | None,
) -> ViewPlan:
    codec = CODEC_SETS[codec_set][name]
    return ViewPlan(
        name=name,
        version=version,
        params=dataclasses.asdict(params),
        codec={member_suffix(name, codec): codec.name},
        reads=reads.digest if reads else "",
        weights_sha256=weights_sha256,
        probe="" if probe is None else hashlib.sha256(np.ascontiguousarray(probe).tobytes()).hexdigest(),
    )
