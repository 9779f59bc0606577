"""The `image` view: a source file's bytes -> RGB uint8 (224, 224, 3).

EXIF orientation applied; gray, palette, alpha (over black), CMYK and 16-bit converted to 8-bit RGB; centre crop to the
short side; antialiased resize. A 224x224 source passes through unchanged. Sizes are checked in the header, before any
pixel is decoded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from .codec import NPY, PNG
from .errors import UnreadableImageError
from .formats import boxed_formats
from .jpeg import is_cut
from .probe import probe_jpeg
from .view import Computed, Params, Picture, Sample, View

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1

RGB = npt.NDArray[np.uint8]  # (H, W, 3)

# Our own limit (ImageParams.max_pixels) is read from the header first; Pillow's would only warn below twice its own.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False


# Pillow opens some sixty formats, one of them (EPS) by running another program: only these are ever tried.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x0112  # EXIF tag
_END_OF_IMAGE = b"\xff\xd9"  # of a JPEG


@dataclass(frozen=True, kw_only=True)
class ImageParams:
    size: int = 224  # pixels a side; H = W = 224 in the paper
    resize: str = "bilinear"  # a key of RESIZE_KERNELS
    min_side: int = 64  # pixels; below this a face carries no usable trace
    max_pixels: int = 2**26  # width * height in the header


@dataclass(frozen=True, kw_only=True)
class Source:
    """A decoded source image and the facts of its file."""

    rgb: RGB  # centre crop to the short side, native resolution
    width: int  # of the whole image, after EXIF orientation
    height: int
    format: str  # Pillow's name: JPEG, PNG, WEBP, BMP, TIFF
    quality: int  # JPEG quality estimated from the luma quantisation table; -1 where there is none


def read_source(data: bytes, params: ImageParams | None = None) -> Source:
    """Decode an image file to the square RGB crop that `image` and `parsing` both take.

    Raises UnreadableImageError (its text is the recorded reason) for anything that is not a whole image of allowed size.
    """
    params = params or ImageParams()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EXIF oddities: the pixels decide
            with Image.open(io.BytesIO(data), formats=boxed_formats(data) or FORMATS) as image:
                _check_size(image.size, params)
                image_format, quality = str(image.format), jpeg_quality(image)
                if image_format == "TIFF" and image.mode == "I":  # 32 bits; of a PNG it is Pillow 10's word for 16
                    raise UnreadableImageError("32-bit pixels have no defined range")
                _check_colours(image)
                is_turned = image.getexif().get(_ORIENTATION, 1) != 1  # exif_transpose would copy every image
                is_plain = image_format == "JPEG" and image.mode == "RGB" and not is_turned
                rgb = _decode_whole_jpeg(data, image.size) if is_plain else None
                if rgb is None:
                    rgb = _to_rgb(ImageOps.exif_transpose(image) if is_turned else image)
                if image_format == "JPEG" and is_cut(data, _to_rgb(image) if is_turned else rgb, _decode_with_pillow):
                    raise UnreadableImageError(
                        "cannot be decoded: the JPEG was cut short, its end marker stands where blocks are missing"
                    )
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image file") from None
    except (
        Exception
    ) as error:  # Pillow's decoders raise many types (OSError, SyntaxError, struct.error, ...) on bad bytes
        raise UnreadableImageError(f"cannot be decoded: {error}") from error
    height, width = rgb.shape[:2]
    return Source(rgb=center_crop(rgb), width=width, height=height, format=image_format, quality=quality)


def center_crop(rgb: RGB) -> RGB:
    """(H, W, 3) -> (S, S, 3), S the short side; an odd rest goes to the right or bottom."""
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return rgb[top : top + side, left : left + side]


def resize(rgb: RGB, size: int, kernel: str = "bilinear") -> RGB:
    """Resize a square RGB image to (size, size, 3); returned as it is where it has that size already."""
    if rgb.shape[:2] == (size, size):
        return np.ascontiguousarray(rgb)
    return RESIZE_KERNELS[kernel](np.ascontiguousarray(rgb), size)


def compute_image(source: Source, params: ImageParams | None = None) -> RGB:
    """Source -> uint8 (size, size, 3) RGB."""
    params = params or ImageParams()
    return resize(source.rgb, params.size, params.resize)


def jpeg_quality(image: Image.Image) -> int:
    """IJG quality (1..100) whose luma table is nearest to the file's; -1 for a file without quantisation tables."""
    tables = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return -1
    table = np.asarray(tables[0][:64], dtype=np.float64)
    # IJG scales the standard table by (200 - 2q) or 5000 / q percent: the mean ratio gives q back.
    scale = 100.0 * float(np.sum(table)) / _STANDARD_LUMA_SUM
    quality = (200.0 - scale) / 2.0 if scale <= 100.0 else 5000.0 / scale
    return int(np.clip(round(quality), 1, 100))


def _check_colours(image: Image.Image) -> None:
    """Pillow converts CMYK without a look at the profile that says what its inks are, and LAB not at all."""
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        raise UnreadableImageError(
            "CMYK with a colour profile of its own: its colours would be guessed; save it as sRGB"
        )
    if image.mode == "LAB":
        raise UnreadableImageError("LAB colours are not converted; save it as sRGB")


def _check_size(size: tuple[int, int], params: ImageParams) -> None:
    width, height = size
    if min(width, height) < params.min_side:
        raise UnreadableImageError(f"{width}x{height} pixels: a side is under {params.min_side}")
    if width * height > params.max_pixels:
        raise UnreadableImageError(f"{width}x{height} pixels: more than {params.max_pixels}")


def _decode_whole_jpeg(data: bytes, size: tuple[int, int]) -> RGB | None:
    """OpenCV's pixels of a JPEG that has its end marker: Pillow's to the bit (tested) in two thirds of the time.

    None leaves the file to Pillow, which refuses truncated ones; OpenCV would fill them up with gray.
    """
    import cv2

    if not data.endswith(_END_OF_IMAGE):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    rgb = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    return np.asarray(rgb) if rgb is not None and rgb.shape[:2] == size[::-1] else None


def _decode_with_pillow(data: bytes) -> RGB:
    """The pixels of a JPEG as they are stored; OpenCV would print libjpeg's warnings where Pillow says nothing."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> RGB:
    mode = image.mode
    if mode.startswith("I;16") or mode == "I":  # 16-bit gray: keep the high byte
        gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    if mode == "F":
        raise UnreadableImageError("floating-point pixels have no defined range")
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))  # a copy: torch wants it writable


def _torch_antialias(mode: str) -> Callable[[RGB, int], RGB]:
    def kernel(rgb: RGB, size: int) -> RGB:
        import torch
        from torch.nn.functional import interpolate

        chw = torch.from_numpy(rgb).permute(2, 0, 1)[None]  # HWC -> 1CHW, channels_last in memory
        out = interpolate(chw, size=(size, size), mode=mode, antialias=True)
        return np.ascontiguousarray(out[0].permute(1, 2, 0).numpy())  # CHW -> HWC

    return kernel


def _opencv(name: str) -> Callable[[RGB, int], RGB]:
    def kernel(rgb: RGB, size: int) -> RGB:
        import cv2

        return np.asarray(cv2.resize(rgb, (size, size), interpolation=getattr(cv2, name)), dtype=np.uint8)

    return kernel


# torch's antialiased uint8 bilinear equals Pillow's at 512 -> 224 (tested; up to two levels apart elsewhere) and is
# the fastest antialiased one (docs/decisions.md); `linear` is the aliasing resize of the released code.
RESIZE_KERNELS: dict[str, Callable[[RGB, int], RGB]] = {
    "bilinear": _torch_antialias("bilinear"),
    "bicubic": _torch_antialias("bicubic"),
    "area": _opencv("INTER_AREA"),
    "linear": _opencv("INTER_LINEAR"),
}

_STANDARD_LUMA_SUM = 3688.0  # sum of the 64 entries of the luma table in ITU-T T.81, Annex K.1


def _array(params: Params) -> dict[str, Any]:
    return {"dtype": "uint8", "shape": [224, 224, 3], "scale": 255, "unit": "RGB in [0, 1]"}


def _compute(sample: Sample, params: ImageParams) -> Computed:
    source = sample.source
    assert source is not None
    facts = {
        "source_sha256": sample.facts["source_sha256"],
        "source_bytes": sample.facts["source_bytes"],
        "source_width": source.width,
        "source_height": source.height,
        "source_format": source.format,
        "source_quality": source.quality,
    }
    return Computed(value=compute_image(source, params), facts=facts)


def _probe(params: ImageParams) -> bytes:
    return compute_image(read_source(probe_jpeg(), params), params).tobytes()


def _arrange(stored: Tensor) -> Tensor:
    return stored.permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W), channels_last in memory


def _picture(stored: npt.NDArray[np.uint8]) -> Picture:
    return np.ascontiguousarray(stored.transpose(1, 2, 0))  # (3, H, W) -> (H, W, 3)


VIEW = View(
    name="image",
    version=VERSION,
    reads="source",
    params=ImageParams,
    picture=_picture,
    compute=_compute,
    probe=_probe,
    array=_array,
    codecs={"raw": NPY, "png": PNG},
    prefix="",
    facts={
        "source_sha256": "string",
        "source_bytes": "int64",
        "source_width": "int32",
        "source_height": "int32",
        "source_format": "name",
        "source_quality": "int16",
    },
    arrange=_arrange,
    decode=read_source,
    options={"resize": "resize"},
    stage="resize",
)
