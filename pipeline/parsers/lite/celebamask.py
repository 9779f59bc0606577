"""Photographs with label maps in CelebAMask-HQ's layout (Lee et al., CVPR 2020; non-commercial research only).

Two layouts: `images/STEM.jpg` + `masks/STEM.png` (a label map in the official order), and the published one,
`CelebA-HQ-img/N.jpg` + `CelebAMask-HQ-mask-anno/{0..14}/{N:05d}_{part}.png` (one binary map a part).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ...store.reading import open_regular
from ..orders import ORDERS, Labels, to_bisenet

SIZE = 512  # pixels a side of the label maps
PARTS = ORDERS["celebamask-hq"][1:]  # painted in this order, as the data set's own g_mask.py does
IMAGES_PER_FOLDER = 2000

RGB = npt.NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One photograph and its label map on disk."""

    stem: str
    image: Path
    mask: Path  # the label map, or the folder with its part maps

    def read(self) -> tuple[RGB, Labels]:
        """RGB uint8 (512, 512, 3), labels uint8 (512, 512) in BiSeNet's order."""
        with open_regular(self.image) as file, Image.open(file) as image:
            rgb = np.array(image.convert("RGB"))
        if rgb.shape[:2] != (SIZE, SIZE):
            rgb = np.asarray(cv2.resize(rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        labels = self._read_parts() if self.mask.is_dir() else self._read_map()
        return rgb, to_bisenet("celebamask-hq")[labels]

    def _read_map(self) -> Labels:
        with open_regular(self.mask) as file, Image.open(file) as image:
            labels = np.array(image)  # mode P or L: the indices
        if labels.shape != (SIZE, SIZE) or labels.max() >= len(ORDERS["celebamask-hq"]):
            raise ValueError(f"{self.mask}: expected a {SIZE}x{SIZE} map of labels 0..18, got {labels.shape}")
        return labels.astype(np.uint8)

    def _read_parts(self) -> Labels:
        labels = np.zeros((SIZE, SIZE), dtype=np.uint8)
        for i, part in enumerate(PARTS, start=1):
            path = self.mask / f"{int(self.stem):05d}_{part}.png"
            if path.exists():  # a part that is not in the picture has no file
                with open_regular(path) as file, Image.open(file) as image:
                    labels[np.array(image.convert("L")) > 127] = i
        return labels


def find_photographs(folder: Path) -> list[Photograph]:
    """Every photograph of a folder in one of the two layouts, sorted by stem."""
    published = folder / "CelebA-HQ-img"
    if published.is_dir():
        anno = folder / "CelebAMask-HQ-mask-anno"
        found = [
            Photograph(stem=path.stem, image=path, mask=anno / str(int(path.stem) // IMAGES_PER_FOLDER))
            for path in published.glob("*.jpg")
        ]
    else:
        found = [
            Photograph(stem=path.stem, image=path, mask=folder / "masks" / f"{path.stem}.png")
            for path in (folder / "images").glob("*.jpg")
        ]
        found = [photo for photo in found if photo.mask.exists()]
    if not found:
        raise ValueError(f"{folder}: no images/*.jpg with masks/*.png and no CelebA-HQ-img/*.jpg in it")
    return sorted(found, key=lambda photo: photo.stem)


def split_held_out(photographs: list[Photograph], *, count: int = 100) -> tuple[list[Photograph], list[Photograph]]:
    """(for training, held out): held out are the `count` stems whose sha256 is smallest, whatever their order."""
    by_hash = sorted(photographs, key=lambda photo: hashlib.sha256(photo.stem.encode()).hexdigest())
    held_out = {photo.stem for photo in by_hash[:count]}
    return (
        [photo for photo in photographs if photo.stem not in held_out],
        [photo for photo in photographs if photo.stem in held_out],
    )
