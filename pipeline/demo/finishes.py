"""What a model leaves on everything that it makes: its instance fingerprint, and the finish of its family.

Images are float32 (h, w, 3), 0..255.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

DETAIL_SIGMA = 1.2  # pixels; what a Gaussian of this width removes is the detail band
LEAK = 0.2  # slope of the leaky ReLU below 0, as in StyleGAN2 (Karras 2020)
SPREAD = 0.35  # deviation of a kernel's weights around the identity
DIFFUSION_BLUR = 0.45  # sigma in pixels: diffusion models undershoot the highest frequencies (Ricker 2022; Corvi 2023)
LAST_STEP_NOISE = 1.6  # gray levels before the energy law; the Gaussian residual of the last sampling step (Ho 2020)


@dataclass(frozen=True)
class Instance:
    """The frozen weights of one trained model, as far as they show: every kernel follows from the model's name."""

    name: str

    def kernel(self, index: int) -> F32:
        """The `index`-th 3x3 kernel of each colour channel -> (3, 3, 3), channel first, unit norm a channel."""
        rng = stable_rng("instance", self.name, index)
        kernel = SPREAD * rng.standard_normal((3, 3, 3))
        kernel[:, 1, 1] += 1.0
        return np.asarray(kernel / np.sqrt(np.sum(kernel**2, axis=(1, 2), keepdims=True)), dtype=np.float32)


def stable_rng(*key: str | int) -> np.random.Generator:
    """A generator that depends on the key alone: the same on every machine, in every process."""
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def leaky_conv(features: F32, kernel: F32) -> F32:
    """3x3 convolution a channel, then leaky ReLU; borders are reflected."""
    channels = [cv2.filter2D(np.ascontiguousarray(features[..., c]), -1, kernel[c]) for c in range(3)]
    out = np.stack(channels, axis=2)
    return np.asarray(np.maximum(out, LEAK * out), dtype=np.float32)


def blur(x: F32, sigma: float) -> F32:
    return np.asarray(cv2.GaussianBlur(x, (0, 0), sigma), dtype=np.float32)


def fingerprint(x: F32, kernel: F32) -> F32:
    """A frozen 3x3 kernel + leaky ReLU on the detail band: the instance fingerprint (Marra 2019; Yu 2019)."""
    low = blur(x, DETAIL_SIGMA)
    return np.asarray(low + leaky_conv(x - low, kernel), dtype=np.float32)


def finish_gan(x: F32, instance: Instance, *, noise: float, rng: np.random.Generator) -> F32:
    """Deterministic: the leaky convolution after the x2 up-sampling with which every GAN decoder here ends."""
    return fingerprint(x, instance.kernel(0))


def finish_diffusion(x: F32, instance: Instance, *, noise: float, rng: np.random.Generator) -> F32:
    """A slight loss of high frequencies, then the last step's Gaussian residual; `noise` scales LAST_STEP_NOISE."""
    y = blur(fingerprint(x, instance.kernel(0)), DIFFUSION_BLUR)
    y += noise * LAST_STEP_NOISE * rng.standard_normal(y.shape, dtype=np.float32)
    return y
