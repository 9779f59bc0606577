"""Drawn faces and one tiny dataset, shared by the tests of the embedded dataset."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bmrl.pipeline.demo.camera import photograph
from bmrl.pipeline.demo.draw import DemoSettings, draw_demo, reduce_labels
from bmrl.pipeline.demo.faces import Face, draw_face, identity_split

TINY = DemoSettings(num_train=2, num_val=0, num_test=3)
Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


@pytest.fixture(scope="session")
def faces() -> list[Face]:
    return [draw_face(identity) for identity in identity_split("test", 40)]


@pytest.fixture(scope="session")
def inputs(faces: list[Face]) -> list[Pair]:
    """Image (224, 224, 3) and label map (224, 224) of eight identities."""
    return [
        (photograph(face.rgb, np.random.default_rng(index)), reduce_labels(face.labels, 224))
        for index, face in enumerate(faces[:8])
    ]


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    draw_demo(root, num_workers=1, settings=TINY)
    return root
