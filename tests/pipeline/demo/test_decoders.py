"""Each decoder's documented signature: the period of its up-sampling grid, its cut, its noise, its phases."""

import numpy as np
import numpy.typing as npt
import pytest

from bmrl.pipeline.demo import decoders
from bmrl.pipeline.demo.codebook import fit_words, sample_patches
from bmrl.pipeline.demo.finishes import Instance, blur, finish_diffusion, finish_gan, stable_rng

INSTANCE = Instance("sim-test")


def texture(size: int = 96) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(0).normal(128, 25, (size, size, 3)).astype(np.float32)
    return blur(noise, 0.7)


def shift_error(decoder: decoders.Decoder, shift: int) -> float:
    """How far D(shifted x) is from shifted D(x), away from the borders."""
    x = texture()
    rng = np.random.default_rng(0)
    moved = decoder(np.roll(x, shift, axis=(0, 1)), INSTANCE, rng)
    expected = np.roll(decoder(x, INSTANCE, rng), shift, axis=(0, 1))
    inner = np.s_[40:-32, 40:-32]
    return float(np.abs(moved[inner] - expected[inner]).max())


@pytest.mark.parametrize(
    ("decoder", "period"),
    [
        (decoders.decode_sinc, 1),
        (decoders.decode_deconv, 2),
        (decoders.decode_near, 2),
        (decoders.decode_shuffle, 2),
        (decoders.decode_fir, 4),
        (decoders.decode_latent4, 4),
        (decoders.decode_latent8, 8),
        (decoders.decode_vq, 8),
    ],
)
def test_the_grid_of_a_decoder_has_its_period(decoder: decoders.Decoder, period: int) -> None:
    assert shift_error(decoder, period) < 0.02
    for shorter in {1, period // 2} - {0, period}:
        assert shift_error(decoder, shorter) > 1.0


def test_sinc_leaves_nothing_beyond_its_cut() -> None:
    x = np.random.default_rng(0).normal(128, 20, (96, 96, 3)).astype(np.float32)
    power = np.abs(np.fft.rfft2(decoders.decode_sinc(x, INSTANCE, np.random.default_rng(0))[..., 0])) ** 2
    assert power[48, 40:].mean() < 0.02 * power[1:8, 1:8].mean()


def test_deconv_phases_are_unequal() -> None:
    x = texture()
    half = decoders.halve(x)
    low = blur(half, 2.0)
    up = decoders.decode_deconv(x, INSTANCE, np.random.default_rng(0)) - decoders.insert_fir(low)
    rms = [float(np.sqrt(np.mean(up[row::2, column::2] ** 2))) for row in (0, 1) for column in (0, 1)]
    assert rms[0] / rms[3] == pytest.approx(1.35 / 0.65, rel=0.1)


def test_pixel_denoises_and_keeps_edges() -> None:
    x = np.full((64, 64, 3), 100, dtype=np.float32)
    x[:, 32:] = 200
    y = decoders.decode_pixel(x, INSTANCE, np.random.default_rng(0))
    assert y[:, :28].std() < 0.6 * decoders.DENOISE_SIGMA
    assert y[:, 34:].mean() - y[:, :30].mean() == pytest.approx(100, abs=3)


def test_cascade_has_little_above_half_its_band() -> None:
    x = np.random.default_rng(0).normal(128, 20, (96, 96, 3)).astype(np.float32)
    spectrum = [
        np.abs(np.fft.rfft2(image[..., 0])) ** 2
        for image in (x, decoders.decode_cascade(x, INSTANCE, np.random.default_rng(0)))
    ]
    kept = [float(power[40:56, 36:].mean()) for power in spectrum]
    assert kept[1] < 0.05 * kept[0]


def test_patch_adds_a_16_pixel_grid_of_offsets() -> None:
    x = texture()
    plain = decoders.decode_latent8(x, INSTANCE, np.random.default_rng(0))
    grid = decoders.decode_patch(x, INSTANCE, np.random.default_rng(0)) - plain
    tiles = grid.reshape(6, 16, 6, 16, 3)
    assert np.ptp(tiles, axis=(1, 3)).max() < 1e-3 and tiles[:, 0, :, 0].std() > 1


def test_vq_snaps_every_patch_to_a_word() -> None:
    words = decoders.codebook()
    assert words.shape == (512, 64)
    assert len(np.unique(words, axis=0)) > 500
    plane = np.random.default_rng(0).normal(size=(32, 24)).astype(np.float32)
    assert np.array_equal(decoders.from_patches(decoders.to_patches(plane), 32, 24), plane)
    # Gray has equal channels; the coarse image without detail is what a constant image decodes to.
    flat = decoders.decode_vq(np.full((64, 64, 3), 90, dtype=np.float32), INSTANCE, np.random.default_rng(0))
    detail = decoders.to_patches(flat[..., 0] - 90)
    assert np.abs(detail - detail[0]).max() < 1e-2


def test_zero_insertion_keeps_the_mean_and_stays_centred() -> None:
    ramp = np.repeat(np.arange(32, dtype=np.float32)[None, :, None], 32, axis=0) * np.ones(3, dtype=np.float32)
    up = decoders.insert_fir(decoders.halve(ramp))
    assert np.abs(up[4:-4, 4:-4] - ramp[4:-4, 4:-4]).max() < 1e-4


def test_an_instance_is_its_name() -> None:
    assert np.array_equal(Instance("a").kernel(0), Instance("a").kernel(0))
    assert not np.array_equal(Instance("a").kernel(0), Instance("b").kernel(0))
    assert not np.array_equal(Instance("a").kernel(0), Instance("a").kernel(1))
    assert stable_rng("x", 1).integers(2**32) == 334102727  # fixed for ever: the dataset's bytes hang on it


def test_family_finishes() -> None:
    flat = np.full((64, 64, 3), 128, dtype=np.float32)
    a, b = (finish_gan(flat, INSTANCE, noise=1.0, rng=np.random.default_rng(seed)) for seed in (0, 1))
    assert np.array_equal(a, b)  # deterministic
    for noise in (1.0, 0.3):
        noisy = finish_diffusion(flat, INSTANCE, noise=noise, rng=np.random.default_rng(0))
        assert noisy.std() == pytest.approx(1.6 * noise, rel=0.05)


def test_the_codebook_command_fits_detail_of_parser_faces() -> None:
    patches = sample_patches(1)
    assert patches.shape == (784, 64) and abs(float(patches.mean())) < 1
    words = fit_words(patches, 4)
    assert words.shape == (4, 64) and words.dtype == np.float16
    assert np.array_equal(words, fit_words(patches, 4))
