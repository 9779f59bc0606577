"""How a view's array becomes the bytes of a tar member and back: raw .npy (the default) or PNG (for publishing)."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
MAX_PIXELS = 2**20  # of a stored PNG; ours have 224 a side


@dataclass(frozen=True, kw_only=True)
class Codec:
    name: str
    extension: str  # last part of the member's suffix
    encode: Callable[[Array], bytes]
    decode: Callable[[bytes], Array]


def encode_npy(array: Array) -> bytes:
    """np.save format 1.0, C order, little-endian, no pickle."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return b"".join((npy_header(little.dtype, little.shape), little.reshape(-1).view(np.uint8).data))


@cache
def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What np.save writes before an array in C order."""
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def decode_npy(data: bytes) -> Array:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def encode_png(array: Array) -> bytes:
    """uint8 (H, W), uint8 (H, W, 3) or uint16 (H, W) -> PNG of the same bit depth."""
    buffer = io.BytesIO()
    _to_pil(array).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decode_png(data: bytes) -> Array:
    """Raises ValueError for what is no PNG, and for one whose header says more than MAX_PIXELS before they are decoded."""
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))  # of IHDR, which comes first
    if width * height > MAX_PIXELS:
        raise ValueError(f"a PNG of {width} x {height} pixels")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            array = np.asarray(image)
    except Exception as error:  # Pillow's decoders raise many types on bad bytes
        raise ValueError(f"no PNG: {error}") from error
    return array.astype(np.uint16) if image.mode.startswith("I") else array


def encode_palette_png(array: Array) -> bytes:
    """uint8 labels (H, W) -> palette PNG whose indices are the labels, coloured for a viewer."""
    from .parsing import PALETTE

    image = Image.fromarray(array)
    image.putpalette(PALETTE.ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _to_pil(array: Array) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array))


NPY = Codec(name="npy", extension="npy", encode=encode_npy, decode=decode_npy)
PNG = Codec(name="png", extension="png", encode=encode_png, decode=decode_png)
PALETTE_PNG = Codec(name="palette-png", extension="png", encode=encode_palette_png, decode=decode_png)
CODECS = {codec.name: codec for codec in (NPY, PNG, PALETTE_PNG)}
