import numpy as np
import numpy.typing as npt
import pytest

from bmrl.pipeline.demo.faces import identity_split
from bmrl.pipeline.demo.lookalikes import CONTROLS, NEW_SEEDS, control_kind, make_lookalike

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_lookalike_is_a_slight_change_of_the_real_image(name: str, inputs: list[Pair]) -> None:
    x, labels = inputs[0]
    identity = identity_split("test", 1)[0]
    rgb, strength = make_lookalike(
        name, x, labels, identity=identity, rng=np.random.default_rng(0), trace_rms=(3.0, 6.0)
    )
    assert rgb.shape == x.shape and rgb.dtype == np.uint8
    difference = np.abs(rgb.astype(int) - x).mean()
    assert 0.3 < difference < 12
    assert (strength > 0) == (name in NEW_SEEDS)


def test_kinds_of_controls() -> None:
    assert len(CONTROLS) == 6
    assert control_kind("control-jpeg85") == ("real", "real")
    assert control_kind("control-efs-dif-pixel-newseed") == ("EFS", "diffusion")
