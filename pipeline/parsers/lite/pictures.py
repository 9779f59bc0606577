"""What bisenet-lite is trained on, decoded once, with the photographs that show a rare class."""

from __future__ import annotations

import numpy as np

from ..orders import CLASSES, Labels
from .augmentation import RGB
from .celebamask import Photograph

RARE = tuple(CLASSES.index(name) for name in ("eye_g", "ear_r", "neck_l", "hat"))


class Pictures:
    """Photographs and drawn faces, decoded once and kept while there are at most `keep`."""

    def __init__(self, photographs: list[Photograph], drawn: list[tuple[RGB, Labels]], *, keep: int = 2000) -> None:
        self.photographs, self.drawn = photographs, drawn
        self._kept: dict[str, tuple[RGB, Labels]] | None = {} if len(photographs) <= keep else None
        present = [np.unique(self.photograph(i)[1]) for i in range(len(photographs))]
        self.rare = [[i for i, ids in enumerate(present) if rare in ids] for rare in RARE]  # photographs with each

    def photograph(self, index: int) -> tuple[RGB, Labels]:
        photo = self.photographs[index % len(self.photographs)]
        if self._kept is None:
            return photo.read()
        if photo.stem not in self._kept:
            self._kept[photo.stem] = photo.read()
        return self._kept[photo.stem]
