import numpy as np
import pytest

from bmrl.pipeline.parsers.orders import CLASSES, ORDERS, flip, to_bisenet

# spec: "BiSeNet id for each official id", "BiSeNet id for each SegFace id"
TABLES = {
    "bisenet": list(range(19)),
    "celebamask-hq": [0, 1, 10, 6, 4, 5, 2, 3, 7, 8, 11, 12, 13, 17, 18, 9, 15, 14, 16],
    "segface": [0, 14, 1, 16, 7, 8, 2, 3, 4, 5, 10, 11, 13, 12, 17, 6, 18, 9, 15],
}


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_order_maps_to_bisenet(order: str) -> None:
    assert to_bisenet(order).tolist() == TABLES[order]


def test_flip_mirrors_and_exchanges_sides() -> None:
    ids = {name: i for i, name in enumerate(CLASSES)}
    row = [ids[name] for name in ("l_brow", "r_brow", "l_eye", "r_eye", "l_ear", "r_ear", "ear_r", "u_lip", "l_lip")]
    flipped = flip(np.array([[*row, 255]], dtype=np.uint8))[0].tolist()
    expected = [
        ids[name] for name in ("r_brow", "l_brow", "r_eye", "l_eye", "r_ear", "l_ear", "ear_r", "u_lip", "l_lip")
    ]
    assert flipped == [255, *expected[::-1]]
    labels = np.random.default_rng(0).integers(0, 19, (7, 5), dtype=np.uint8)
    assert np.array_equal(flip(flip(labels)), labels)
