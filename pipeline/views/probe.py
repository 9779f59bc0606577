"""What the views are probed on: a small shipped JPEG, and a procedural image that no library can change."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import numpy.typing as npt


def probe_jpeg() -> bytes:
    """A small 4:2:0 JPEG (256x240) shipped for the probes."""
    return files(__package__).joinpath("probe.jpg").read_bytes()


def probe_image() -> npt.NDArray[np.uint8]:
    """A procedural RGB image (224, 224, 3) with edges, gradients and noise; integer arithmetic only."""
    y, x = np.mgrid[0:224, 0:224].astype(np.uint64)
    state = (y * np.uint64(224) + x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    noise_bits = ((state ^ (state >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(56)
    base = (x * 3 + y * 2 + np.uint64(80) * ((x // 16 + y // 24) % 2)) % np.uint64(256)
    amplitude = np.where(x < 112, 3, 5) + np.where(y < 112, 0, 9)
    planes = [
        (base // 2 + noise_bits * amplitude.astype(np.uint64) // np.uint64(32) + np.uint64(40 * c)) for c in range(3)
    ]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
