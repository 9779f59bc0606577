"""The 19 simulated generators: decoder x finish x operator under one trace-energy law.

Never evidence about the models whose slots they mirror: they put known traces, of known structure and equal magnitude,
into drawn or photographed faces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from . import decoders, operators
from .decoders import Decoder
from .finishes import F32, Instance, blur, finish_diffusion, finish_gan
from .operators import EmptyRegionError, Forged, Labels

__all__ = ["SEEN", "SIMULATORS", "TRACE_RMS", "UNSEEN", "EmptyRegionError", "Simulated", "Simulator", "simulate"]

RGB = npt.NDArray[np.uint8]

TRACE_RMS = (3.0, 6.0)  # gray levels; T ~ LogUniform of this range, for all 19 (benchmarks/results/simulators.md)
TRACE_SIGMA = 4.0  # pixels at 224; slower parts of a residual are tint, which is content: the controls would see it

FINISHES: dict[str, Callable[..., F32]] = {"GAN": finish_gan, "diffusion": finish_diffusion}


@dataclass(frozen=True, kw_only=True)
class Simulator:
    """One simulated generator."""

    name: str
    kind: str  # EFS, AM, FS
    family: str  # GAN, diffusion: a key of FINISHES
    decoder: Decoder
    slot: str  # the generator whose place in the benchmark it takes, and the source of the decoder's structure
    relation: str = (
        "SEEN"  # of an unseen one: NEAR, RECOMBINED, MID, FAR, followed by the seen simulator it is close to
    )
    crop: int = 0  # R: side in pixels (at 224) of the crop that a swap's decoder sees
    noise: float = 1.0  # share of the last step's noise, diffusion only

    @property
    def instance(self) -> Instance:
        return Instance(self.name)


@dataclass(frozen=True, kw_only=True)
class Simulated:
    rgb: RGB  # (h, w, 3), clipped and rounded once
    mask: npt.NDArray[np.bool_]  # (h, w), the support of the trace
    strength: float  # T, gray levels RMS
    region: str  # "frame" (EFS), "hair", "skin", "lips-mouth", "brows" (AM), "face" (FS)
    content: F32  # (h, w, 3), what the trace was added to: x, the edited x, or the swap


_TABLE = (
    Simulator(
        name="sim-efs-gan-fir", kind="EFS", family="GAN", decoder=decoders.decode_fir,
        slot="StyleGAN2; Karras 2020, Zhang 2019",
    ),
    Simulator(
        name="sim-efs-gan-sinc", kind="EFS", family="GAN", decoder=decoders.decode_sinc,
        slot="StyleGAN3; Karras 2021",
    ),
    Simulator(
        name="sim-efs-dif-pixel", kind="EFS", family="diffusion", decoder=decoders.decode_pixel,
        slot="DDPM; Ho 2020, Corvi 2023",
    ),
    Simulator(
        name="sim-efs-dif-latent4", kind="EFS", family="diffusion", decoder=decoders.decode_latent4,
        slot="LatDiff; Rombach 2022",
    ),
    Simulator(
        name="sim-efs-dif-cascade", kind="EFS", family="diffusion", decoder=decoders.decode_cascade,
        slot="CollDiff; Ho 2022",
    ),
    Simulator(
        name="sim-am-gan-deconv", kind="AM", family="GAN", decoder=decoders.decode_deconv,
        slot="LatTrans; Odena 2016",
    ),
    Simulator(
        name="sim-am-dif-pixel", kind="AM", family="diffusion", decoder=decoders.decode_pixel,
        slot="Diffae; Preechakul 2022",
    ),
    Simulator(
        name="sim-fs-gan-fir", kind="FS", family="GAN", decoder=decoders.decode_fir, crop=160,
        slot="FSLSD; Xu 2022, Face X-ray 2020",
    ),
    Simulator(
        name="sim-fs-gan-near", kind="FS", family="GAN", decoder=decoders.decode_near, crop=128,
        slot="FaceSwapper; Durall 2020",
    ),
    Simulator(
        name="sim-fs-dif-pixel", kind="FS", family="diffusion", decoder=decoders.decode_pixel, crop=128,
        slot="DiffFace; Kim 2022",
    ),
    Simulator(
        name="sim-fs-gan-near112", kind="FS", family="GAN", decoder=decoders.decode_near, crop=112,
        slot="SimSwap; Chen 2020", relation="NEAR sim-fs-gan-near",
    ),
    Simulator(
        name="sim-fs-gan-deconv", kind="FS", family="GAN", decoder=decoders.decode_deconv, crop=128,
        slot="InSwapper", relation="RECOMBINED sim-am-gan-deconv",
    ),
    Simulator(
        name="sim-fs-gan-sinc", kind="FS", family="GAN", decoder=decoders.decode_sinc, crop=160,
        slot="UniFace; Xu 2022", relation="RECOMBINED sim-efs-gan-sinc",
    ),
    Simulator(
        name="sim-fs-gan-shuffle", kind="FS", family="GAN", decoder=decoders.decode_shuffle, crop=144,
        slot="e4s; Shi 2016", relation="FAR",
    ),
    Simulator(
        name="sim-efs-gan-vq", kind="EFS", family="GAN", decoder=decoders.decode_vq,
        slot="VQGAN; Esser 2021", relation="FAR",
    ),
    Simulator(
        name="sim-efs-dif-latent8", kind="EFS", family="diffusion", decoder=decoders.decode_latent8,
        slot="SD-2.1; Rombach 2022", relation="NEAR sim-efs-dif-latent4",
    ),
    Simulator(
        name="sim-efs-dif-patch", kind="EFS", family="diffusion", decoder=decoders.decode_patch,
        slot="DiT; Peebles & Xie 2023", relation="MID",
    ),
    Simulator(
        name="sim-efs-dif-flow", kind="EFS", family="diffusion", decoder=decoders.decode_latent8, noise=0.3,
        slot="SiT; Ma 2024", relation="MID",
    ),
    Simulator(
        name="sim-fs-dif-latent", kind="FS", family="diffusion", decoder=decoders.decode_latent4, crop=160,
        slot="REFace; Baliah 2025", relation="RECOMBINED sim-efs-dif-latent4",
    ),
)  # fmt: skip

SIMULATORS: dict[str, Simulator] = {simulator.name: simulator for simulator in _TABLE}
SEEN: tuple[str, ...] = tuple(s.name for s in _TABLE if s.relation == "SEEN")
UNSEEN: tuple[str, ...] = tuple(s.name for s in _TABLE if s.relation != "SEEN")


def simulate(
    name: str,
    x: RGB,
    labels: Labels,
    *,
    partner: tuple[RGB, Labels] | None = None,
    rng: np.random.Generator,
    trace_rms: tuple[float, float] = TRACE_RMS,
    instance: Instance | None = None,
) -> Simulated:
    """Put the trace of simulator `name` on x, uint8 (h, w, 3), whose label map is `labels`, uint8 (h, w).

    Swaps need a `partner` of another identity. `instance` replaces the model's frozen weights (the new-seed control).
    Raises EmptyRegionError where the label map lacks the region to forge.
    """
    simulator = SIMULATORS[name]
    low, high = np.log(trace_rms)
    strength = float(np.exp(rng.uniform(low, high)))
    forged = _forge(simulator, x.astype(np.float32), labels, partner, rng)
    mask = forged.weight >= operators.SUPPORT
    trace = _residual(simulator, forged, instance or simulator.instance, rng) * forged.weight[..., None]
    energy = float(np.sqrt(np.mean(np.square(trace[mask], dtype=np.float64))))
    rgb = forged.content + trace * np.float32(strength / max(energy, 1e-6))
    return Simulated(
        rgb=np.rint(np.clip(rgb, 0, 255)).astype(np.uint8),
        mask=mask,
        strength=strength,
        region=forged.region,
        content=forged.content,
    )


def _forge(
    simulator: Simulator, x: F32, labels: Labels, partner: tuple[RGB, Labels] | None, rng: np.random.Generator
) -> Forged:
    if simulator.kind == "EFS":
        return operators.keep_frame(x)
    if simulator.kind == "AM":
        return operators.edit_region(x, labels, rng)
    if partner is None:
        raise ValueError(f"{simulator.name} swaps faces: expected a partner image with its label map, got none")
    return operators.swap_face(x, labels, partner[0].astype(np.float32), partner[1], rng)


def _residual(simulator: Simulator, forged: Forged, instance: Instance, rng: np.random.Generator) -> F32:
    """D(content) - content without its slow part -> (h, w, 3); a swap's decoder works on the crop at R px and back."""
    content = forged.content
    if forged.box is None:
        residual = _run(simulator, content, instance, rng) - content
    else:
        top, left, side = forged.box
        window = np.s_[top : top + side, left : left + side]
        crop = round(simulator.crop * content.shape[0] / 224 / 16) * 16  # at 224 this is R itself
        face = _resample(content[window], crop)
        back = _resample(_run(simulator, face, instance, rng), side)
        residual = np.zeros_like(content)
        residual[window] = back - content[window]
    return residual - blur(residual, TRACE_SIGMA * content.shape[0] / 224)


def _run(simulator: Simulator, x: F32, instance: Instance, rng: np.random.Generator) -> F32:
    decoded = simulator.decoder(x, instance, rng)
    return FINISHES[simulator.family](decoded, instance, noise=simulator.noise, rng=rng)


def _resample(x: F32, size: int) -> F32:
    """Area mean where it shrinks, cubic where it grows."""
    kernel = cv2.INTER_AREA if size < x.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(x), (size, size), interpolation=kernel), dtype=np.float32)
