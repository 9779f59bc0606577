"""The decoders whose traces the simulators leave: float32 (h, w, 3), 0..255, to the same; h and w divisible by 8.

A decoder first encodes its input (it halves it, adds noise, ...) and then decodes it again the way that its model does;
what it cannot restore and what its up-sampling adds is the trace. `finishes` completes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from .finishes import F32, Instance, blur, leaky_conv

Decoder = Callable[[F32, Instance, np.random.Generator], F32]

DENOISE_SIGMA = 10.0  # gray levels of noise that the pixel diffusion decoder adds and removes
CASCADE_NOISE = (1.0, 4.0)  # gray levels; range of the noise on a cascade's conditioning image (Ho 2022)
DECONV_PHASES = ((1.35, 1.0), (1.0, 0.65))  # gains of the four output phases of a strided transposed convolution
TOKEN_OFFSET = 2.0  # gray levels; deviation of the offsets of 16-px tokens
VQ_PATCH = 8  # pixels a side of a quantised patch
CODEBOOK = Path(__file__).with_name("vq_codebook.npy")  # float16 (512, 64); python -m bmrl.pipeline.demo.codebook


def decode_fir(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """StyleGAN2's synthesis (Karras 2020; spectral replicas: Zhang 2019): three levels of toRGB, skips summed through
    zero insertion and the FIR [1, 3, 3, 1]^2; the finest features come from the next coarser ones."""
    half = halve(x)
    quarter = halve(half)
    rgb = insert_fir(quarter)
    features = leaky_conv(half - rgb, instance.kernel(1))
    rgb = insert_fir(rgb + features)
    finest = leaky_conv(insert_fir(features), instance.kernel(2))
    return np.asarray(rgb + 0.6 * finest + 0.5 * leaky_conv(x - insert_fir(half), instance.kernel(3)), dtype=np.float32)


def decode_sinc(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """StyleGAN3 (Karras 2021): up x2 by a Kaiser sinc (cut at .62 of Nyquist), the nonlinearity at twice the rate, down
    by the same filter: nothing aliases, nothing lies beyond the cut."""
    taps = _kaiser_sinc()
    height, width = x.shape[:2]
    up = np.zeros((2 * height, 2 * width, 3), dtype=np.float32)
    up[::2, ::2] = 4 * x
    up = np.asarray(cv2.sepFilter2D(up, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101), dtype=np.float32)
    low = blur(up, 2.4)
    up = low + leaky_conv(up - low, instance.kernel(1))
    down = cv2.sepFilter2D(up, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(down[::2, ::2], dtype=np.float32)


def decode_pixel(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """A pixel-space denoiser (Ho 2020; its spectrum: Corvi 2023): noise of sigma 10, removed again but for edges."""
    noisy = x + DENOISE_SIGMA * rng.standard_normal(x.shape, dtype=np.float32)
    return denoise(noisy, 4.0 * DENOISE_SIGMA)


def decode_cascade(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """A cascade (Ho 2022): the pixel decoder at half size, then a super-resolver that was given a noised bicubic x2."""
    small = decode_pixel(halve(x), instance, rng)
    small = small + rng.uniform(*CASCADE_NOISE) * rng.standard_normal(small.shape, dtype=np.float32)
    height, width = x.shape[:2]
    up = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    return denoise(up, 12.0)


def decode_latent4(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """A latent model with f = 4 (Rombach 2022): of the finest detail .35 comes back, of the next .75."""
    return _decode_pyramid(x, instance, (0.75, 0.35))


def decode_latent8(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """As decode_latent4 with f = 8, one level more."""
    return _decode_pyramid(x, instance, (0.9, 0.75, 0.35))


def decode_patch(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """decode_latent8 under a transformer whose 16-px tokens differ a little in level (DiT has patches of 2 on f = 8;
    Peebles & Xie 2023)."""
    height, width = x.shape[:2]
    offsets = TOKEN_OFFSET * rng.standard_normal((-(-height // 16), -(-width // 16), 3), dtype=np.float32)
    grid = np.repeat(np.repeat(offsets, 16, axis=0), 16, axis=1)[:height, :width]
    return np.asarray(decode_latent8(x, instance, rng) + grid, dtype=np.float32)


def decode_deconv(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """A stride-2 4x4 transposed convolution of features (Odena 2016): its four output phases have unequal gain, so
    local contrast carries a checkerboard of period 2."""
    half = halve(x)
    low = blur(half, 2.0)
    features = leaky_conv(half - low, instance.kernel(1))
    up = insert_fir(features)
    for row in (0, 1):
        for column in (0, 1):
            up[row::2, column::2] *= DECONV_PHASES[row][column]
    return np.asarray(insert_fir(low) + up, dtype=np.float32)


def decode_near(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """Halved, then nearest x2 and a convolution (Durall 2020)."""
    up = nearest(halve(x))
    low = blur(up, 1.2)
    return np.asarray(low + leaky_conv(up - low, instance.kernel(1)), dtype=np.float32)


def decode_shuffle(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """Sub-pixel convolution (Shi 2016): each of the four output phases has a kernel of its own."""
    half = halve(x)
    detail = half - blur(half, 1.2)
    up = insert_fir(half)
    for phase in range(4):
        up[phase // 2 :: 2, phase % 2 :: 2] += leaky_conv(detail, instance.kernel(1 + phase))
    return up


def decode_vq(x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    """VQGAN (Esser 2021): f = 8 nearest decoder; the detail of every 8x8 patch is one of 512 words."""
    height, width = x.shape[:2]
    coarse = halve(halve(halve(x)))
    for level in (1, 2, 3):
        up = nearest(coarse)
        low = blur(up, 1.2)
        coarse = low + leaky_conv(up - low, instance.kernel(level))
    detail = to_patches(luma(x) - luma(coarse))
    words = codebook()
    snapped = words[np.argmin(np.sum(words**2, axis=1)[None] - 2 * detail @ words.T, axis=1)]
    return np.asarray(coarse + from_patches(snapped, height, width)[..., None], dtype=np.float32)


def halve(x: F32) -> F32:
    """Mean of 2x2 blocks."""
    height, width = x.shape[:2]
    return np.asarray(cv2.resize(x, (width // 2, height // 2), interpolation=cv2.INTER_AREA), dtype=np.float32)


def nearest(x: F32) -> F32:
    height, width = x.shape[:2]
    return np.asarray(cv2.resize(x, (2 * width, 2 * height), interpolation=cv2.INTER_NEAREST), dtype=np.float32)


def insert_fir(x: F32) -> F32:
    """Zero insertion and the separable FIR [1, 3, 3, 1] / 8 of StyleGAN2: x2, centred on the input's pixels."""
    height, width = x.shape[:2]
    padded = cv2.copyMakeBorder(x, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    up = np.zeros((2 * height + 4, 2 * width + 4, 3), dtype=np.float32)
    up[::2, ::2] = 4 * padded
    taps = np.array([1, 3, 3, 1], dtype=np.float32) / 8
    up = np.asarray(cv2.sepFilter2D(up, -1, taps, taps, anchor=(2, 2)), dtype=np.float32)
    return np.ascontiguousarray(up[2:-2, 2:-2])


def denoise(x: F32, sigma_color: float) -> F32:
    """Bilateral filter (Tomasi & Manduchi 1998): edge-preserving."""
    return np.asarray(cv2.bilateralFilter(x, 5, sigma_color, 1.6), dtype=np.float32)


def luma(x: F32) -> F32:
    """BT.601 -> (h, w)."""
    return np.asarray(x @ np.array([0.299, 0.587, 0.114], dtype=np.float32), dtype=np.float32)


def to_patches(plane: F32) -> F32:
    """(h, w) -> (h * w / 64, 64), row-major over 8x8 patches."""
    height, width = plane.shape
    tiles = plane.reshape(height // VQ_PATCH, VQ_PATCH, width // VQ_PATCH, VQ_PATCH).transpose(
        0, 2, 1, 3
    )  # to tile-major
    return np.ascontiguousarray(tiles).reshape(-1, VQ_PATCH * VQ_PATCH)


def from_patches(patches: F32, height: int, width: int) -> F32:
    """The inverse of to_patches."""
    tiles = patches.reshape(height // VQ_PATCH, width // VQ_PATCH, VQ_PATCH, VQ_PATCH).transpose(0, 2, 1, 3)  # to rows
    return np.ascontiguousarray(tiles).reshape(height, width)


@lru_cache(maxsize=1)
def codebook() -> F32:
    """The shipped words -> (512, 64), gray levels."""
    return np.asarray(np.load(CODEBOOK, allow_pickle=False), dtype=np.float32)


@lru_cache(maxsize=1)
def _kaiser_sinc() -> F32:
    """13 taps at the doubled rate, cut .62 of the input's Nyquist frequency, unit sum."""
    n = np.arange(-6, 7)
    cut = 0.62 * 0.25  # cycles a sample at the doubled rate
    taps = 2 * cut * np.sinc(2 * cut * n) * np.kaiser(13, 4.0)
    return np.asarray(taps / taps.sum(), dtype=np.float32)


def _decode_pyramid(x: F32, instance: Instance, gains: tuple[float, ...]) -> F32:
    """Laplacian pyramid, one level a gain, coarse to fine: nearest x2 + convolution + gain * detail."""
    levels = [x]
    for _ in gains:
        levels.append(halve(levels[-1]))
    y = levels[-1]
    for index, gain in enumerate(gains):
        target = levels[len(gains) - 1 - index]
        up = nearest(y)
        low = blur(up, 1.2)
        detail = target - insert_fir(levels[len(gains) - index])
        y = np.asarray(low + leaky_conv(up - low, instance.kernel(1 + index)) + gain * detail, dtype=np.float32)
    return y
