import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from bmrl.pipeline.views.parsing import (
    NUM_CLASSES,
    PALETTE,
    ParsingParams,
    colorize,
    parse_at,
    parse_batch,
    resize_labels,
)


def params(batch_size: int = 2, input_size: int = 64) -> ParsingParams:
    return ParsingParams(
        parser="file", weights_sha256="0", input_size=input_size, engine="torch", batch_size=batch_size
    )


class Recorder:
    """A network that labels by the red channel and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[npt.NDArray[np.uint8]] = []

    def __call__(self, batch: npt.NDArray[np.uint8], resolution: int, size: int) -> npt.NDArray[np.uint8]:
        self.batches.append(batch)
        places = np.arange(size) * batch.shape[1] // size
        return batch[:, places][:, :, places][..., 0] % NUM_CLASSES


def crops(count: int, side: int = 100) -> list[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def test_input_is_pillows_bilinear_of_the_crop() -> None:
    network, (crop,) = Recorder(), crops(1)
    parse_batch(network, [crop], params(batch_size=1))
    expected = np.asarray(Image.fromarray(crop).resize((64, 64), Image.Resampling.BILINEAR))
    difference = np.abs(network.batches[0][0].astype(int) - expected)
    assert difference.max() <= 1 and np.mean(difference) < 0.02  # the two round kernel weights differently


def test_short_batches_are_filled_so_every_call_has_one_shape() -> None:
    network = Recorder()
    many = parse_batch(network, crops(5), params(batch_size=2))
    assert len(many) == 5 and all(x.shape == (224, 224) and x.dtype == np.uint8 for x in many)
    assert [batch.shape for batch in network.batches] == [(2, 64, 64, 3)] * 3
    alone = [parse_batch(Recorder(), [crop], params(batch_size=2))[0] for crop in crops(5)]
    assert np.array_equal(many, alone)


def test_no_crops_give_no_maps() -> None:
    assert parse_batch(Recorder(), [], params()) == []


def test_labels_can_be_read_at_another_size() -> None:
    (labels,) = parse_at(Recorder(), crops(1), params(), resolution=300, size=300)
    assert labels.shape == (300, 300)


@pytest.mark.parametrize("size", [224, 512, 100])
def test_nearest_reads_the_floor(size: int) -> None:
    labels = np.random.default_rng(0).integers(0, 19, (320, 320), dtype=np.uint8)
    out = resize_labels(labels, size)
    for i, j in ((0, 0), (size - 1, size - 1), (17, 63)):
        assert out[i, j] == labels[i * 320 // size, j * 320 // size]
    torch = pytest.importorskip("torch")
    reference = torch.nn.functional.interpolate(
        torch.from_numpy(labels)[None, None].float(), (size, size), mode="nearest"
    )
    assert np.array_equal(out, reference[0, 0].numpy().astype(np.uint8))


def test_palette_is_the_published_one_turned_to_rgb() -> None:
    assert PALETTE.shape == (19, 3) and len({tuple(color) for color in PALETTE.tolist()}) == 19
    assert PALETTE[1].tolist() == [0, 85, 255] and PALETTE[10].tolist() == [
        255,
        0,
        0,
    ]  # published BGR: 255 85 0, 0 0 255
    picture = colorize(np.array([[0, 1], [10, 18]], dtype=np.uint8))
    assert picture.tolist() == [[[0, 0, 0], [0, 85, 255]], [[255, 0, 0], [255, 0, 255]]]
