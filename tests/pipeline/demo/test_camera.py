import numpy as np

from bmrl.pipeline.demo.camera import CAMERA, SECOND_CAMERA, photograph
from bmrl.pipeline.demo.faces import Face
from bmrl.pipeline.views.image import resize


def test_a_photograph_keeps_the_drawing_and_adds_noise() -> None:
    flat = np.full((512, 512, 3), 120, dtype=np.uint8)
    photo = photograph(flat, np.random.default_rng(0))
    assert photo.shape == (224, 224, 3) and photo.dtype == np.uint8
    assert np.all(np.abs(photo.mean(axis=(0, 1)) - 120) < 2)
    assert np.all(photo.std(axis=(0, 1)) > 0.5)
    assert np.array_equal(photo, photograph(flat, np.random.default_rng(0)))


def test_the_mosaic_is_read_in_the_right_phase() -> None:
    for camera in (CAMERA, SECOND_CAMERA):
        for channel in range(3):
            drawing = np.zeros((512, 512, 3), dtype=np.uint8)
            drawing[..., channel] = 200
            mean = photograph(drawing, np.random.default_rng(0), camera).mean(axis=(0, 1))
            assert mean.argmax() == channel and mean.max() > 180 and np.sort(mean)[1] < 20


def test_it_is_reduced_once_by_the_image_views_kernel(faces: list[Face]) -> None:
    large = photograph(faces[0].rgb, np.random.default_rng(3), size=512)
    assert np.array_equal(photograph(faces[0].rgb, np.random.default_rng(3)), resize(large, 224))


def test_the_second_camera_differs(faces: list[Face]) -> None:
    first, second = (photograph(faces[0].rgb, np.random.default_rng(0), c) for c in (CAMERA, SECOND_CAMERA))
    assert not np.array_equal(first, second)
    assert np.abs(first.astype(int) - second).mean() < 12
