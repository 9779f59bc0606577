"""The views, each in a file of its own that ends in its record; every loop over views goes over VIEWS, in this order."""

from __future__ import annotations

from . import edge, image, noise, parsing, text
from .view import View

VIEWS: dict[str, View] = {
    "image": image.VIEW,
    "edge": edge.VIEW,
    "noise": noise.VIEW,
    "parsing": parsing.VIEW,
    "text": text.VIEW,
}
