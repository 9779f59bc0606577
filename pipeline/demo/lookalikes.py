"""Benign look-alikes of forgeries, and known decoders under a new seed: control columns, never trained."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from .camera import SECOND_CAMERA, photograph
from .faces import draw_face
from .finishes import Instance
from .operators import Labels
from .simulators import SIMULATORS, simulate

RGB = npt.NDArray[np.uint8]


def compress_jpeg(x: RGB, quality: int) -> RGB:
    """Through a JPEG file of this quality (4:2:0) and back."""
    ok, data = cv2.imencode(".jpg", x[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1], dtype=np.uint8)


def resize_and_back(x: RGB, factor: float) -> RGB:
    """Area mean down by the factor, cubic up again."""
    height, width = x.shape[:2]
    small = cv2.resize(x, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def remove_noise(x: RGB) -> RGB:
    """A camera application's noise filter: bilateral, 5 px, 18 gray levels."""
    return np.asarray(cv2.bilateralFilter(x, 5, 18.0, 2.0), dtype=np.uint8)


# name -> what it does to the real image; control-camera2 photographs the same face again (make_lookalike)
OPERATIONS: dict[str, Callable[[RGB], RGB]] = {
    "control-jpeg85": lambda x: compress_jpeg(x, 85),
    "control-resize80": lambda x: resize_and_back(x, 0.8),
    "control-denoise": remove_noise,
}
CAMERA_CONTROL = "control-camera2"
# name -> the simulator whose decoder it runs with other frozen weights
NEW_SEEDS: dict[str, str] = {
    "control-efs-gan-fir-newseed": "sim-efs-gan-fir",
    "control-efs-dif-pixel-newseed": "sim-efs-dif-pixel",
}
CONTROLS: tuple[str, ...] = (*OPERATIONS, CAMERA_CONTROL, *NEW_SEEDS)


def control_kind(name: str) -> tuple[str, str]:
    """Kind and family of a control: real, or those of the simulator it re-seeds."""
    if name in NEW_SEEDS:
        simulator = SIMULATORS[NEW_SEEDS[name]]
        return simulator.kind, simulator.family
    return "real", "real"


def make_lookalike(
    name: str, x: RGB, labels: Labels, *, identity: int, rng: np.random.Generator, trace_rms: tuple[float, float]
) -> tuple[RGB, float]:
    """The control of a drawn identity with real image x, uint8 (h, h, 3) -> the same shape, and its T (0: none)."""
    if name in OPERATIONS:
        return OPERATIONS[name](x), 0.0
    if name == CAMERA_CONTROL:
        return photograph(draw_face(identity).rgb, rng, SECOND_CAMERA, size=x.shape[0]), 0.0
    simulated = simulate(NEW_SEEDS[name], x, labels, rng=rng, trace_rms=trace_rms, instance=Instance(name))
    return simulated.rgb, simulated.strength
