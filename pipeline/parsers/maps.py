"""Label maps that another tool made: DIR mirrors the sources' relative paths, .png, in a named class order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..store.local import file_sha256
from ..store.reading import open_regular
from ..views.parsing import Labels, resize_labels
from .errors import ParserError
from .orders import NUM_CLASSES, ORDERS, to_bisenet


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    folder: Path
    order: str  # a key of ORDERS

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ParserError(f"unknown class order {self.order!r}; write maps:ORDER:DIR with one of {sorted(ORDERS)}")
        if not self.folder.is_dir():
            raise ParserError(f"{self.folder}: no such folder of label maps; write maps:ORDER:DIR")

    def path_of(self, source_path: str) -> Path:
        """The map of a source, given by its path relative to the data set's root."""
        return self.folder / PurePosixPath(source_path).with_suffix(".png")

    def read(self, source_path: str, *, width: int, height: int) -> Labels:
        """The whole map in BiSeNet's order, uint8 (height, width): the source's own size."""
        path = self.path_of(source_path)
        try:
            with open_regular(path) as file, Image.open(file, formats=("PNG",)) as image:
                if image.size != (width, height):
                    raise ParserError(
                        f"{path}: the map is {image.width}x{image.height}, its source is {width}x{height}; "
                        "make maps in the size of their sources"
                    )
                if image.mode not in ("P", "L", "1"):
                    raise ParserError(
                        f"{path}: mode {image.mode}, expected a palette or 8-bit gray PNG of class indices"
                    )
                labels = np.array(image).astype(np.uint8)  # palette: the indices, not the colours
        except FileNotFoundError:
            raise ParserError(f"{path}: no label map for {source_path}; maps mirror the sources' paths, .png") from None
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ParserError(f"{path}: cannot be read as a PNG ({error}); make the map again") from error
        if labels.max() >= NUM_CLASSES:
            raise ParserError(
                f"{path}: label {labels.max()} is outside the order {self.order!r} (0..{NUM_CLASSES - 1}); "
                "is it another class order, or a coloured map?"
            )
        return to_bisenet(self.order)[labels]

    def parse(self, source_path: str, *, width: int, height: int, size: int) -> Labels:
        """The `parsing` view of a source: centre crop to the short side, nearest to uint8 (size, size)."""
        labels = self.read(source_path, width=width, height=height)
        side = min(width, height)
        top, left = (height - side) // 2, (width - side) // 2  # as views.image.center_crop
        return resize_labels(labels[top : top + side, left : left + side], size)

    def sha256(self) -> str:
        """One hash over every map's relative path and content."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*.png")):
            digest.update(f"{file_sha256(path)}  {path.relative_to(self.folder).as_posix()}\n".encode())
        return digest.hexdigest()
