import io

import numpy as np
import pytest
from PIL import Image

from bmrl.pipeline.views.codec import CODECS, NPY, PALETTE_PNG, PNG, decode_npy

RNG = np.random.default_rng(0)
ARRAYS = {
    "rgb": RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8),
    "edge": RNG.integers(0, 65536, (40, 30), dtype=np.uint16),
    "noise": RNG.integers(-9180, 9181, (3, 20, 20), dtype=np.int16),
    "labels": RNG.integers(0, 19, (40, 30), dtype=np.uint8),
}


@pytest.mark.parametrize(
    ("name", "codec"),
    [("rgb", "npy"), ("edge", "npy"), ("noise", "npy"), ("labels", "npy"), ("rgb", "png"), ("edge", "png"),
     ("labels", "png"), ("labels", "palette-png")],
)  # fmt: skip
def test_what_was_encoded_comes_back(name: str, codec: str) -> None:
    array = ARRAYS[name]
    back = CODECS[codec].decode(CODECS[codec].encode(array))
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_npy_is_numpys_own_format() -> None:
    data = NPY.encode(ARRAYS["edge"][:, ::2])
    assert data[:8] == b"\x93NUMPY\x01\x00"
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), ARRAYS["edge"][:, ::2])
    big_endian = ARRAYS["edge"].astype(">u2")
    assert NPY.encode(big_endian) == NPY.encode(ARRAYS["edge"])


def test_no_pickle_is_read() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        decode_npy(buffer.getvalue())


def test_png_keeps_the_bit_depth() -> None:
    with Image.open(io.BytesIO(PNG.encode(ARRAYS["edge"]))) as image:
        assert image.mode.startswith("I;16") and image.size == (30, 40)
    with Image.open(io.BytesIO(PALETTE_PNG.encode(ARRAYS["labels"]))) as image:
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((0, 0)) == tuple(image.getpalette()[3 * ARRAYS["labels"][0, 0] :][:3])
