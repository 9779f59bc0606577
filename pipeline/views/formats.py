"""Image formats that not every installation decodes: AVIF and HEIC, told by their first bytes."""

from __future__ import annotations

from importlib import import_module

from PIL import Image, features

from .errors import UnreadableImageError

_AVIF = {b"avif", b"avis"}
_HEIC = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
    b"mif1",
    b"msf1",
}  # the last two: any codec


def boxed_formats(data: bytes) -> tuple[str, ...]:
    """Pillow's name of the format, as a tuple; empty for a file of neither. Raises UnreadableImageError: what to install."""
    if data[4:8] != b"ftyp":
        return ()
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[place : place + 4] for place in range(16, size - 3, 4))}
    if brands & _AVIF:
        if not features.check("avif"):
            raise UnreadableImageError("an AVIF image, which this Pillow cannot decode; install pillow 11.3 or newer")
        return ("AVIF",)
    if brands & _HEIC:
        if "HEIF" not in Image.OPEN and not _register_heif():
            raise UnreadableImageError("a HEIC image, which needs pillow-heif; pip install 'bmrl[heif]'")
        return ("HEIF",)
    return ()


def _register_heif() -> bool:
    """Registered only when such a file comes: it is an extra, and imports a decoder."""
    try:
        import_module("pillow_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        return False
    return "HEIF" in Image.OPEN
