"""Fit the 512 words of decode_vq's codebook: `python -m bmrl.pipeline.demo.codebook`.

k-means on the 8x8 luma detail of faces drawn from `parser` identities, which no split of the dataset holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .camera import photograph
from .decoders import CODEBOOK, halve, luma, nearest, to_patches
from .faces import draw_face, identity_split
from .finishes import F32, blur, stable_rng

NUM_WORDS = 512
NUM_FACES = 64


def sample_patches(num_faces: int) -> F32:
    """Detail patches of drawn and photographed faces -> (num_faces * 784, 64), gray levels."""
    patches = []
    for identity in identity_split("parser", num_faces):
        x = photograph(draw_face(identity).rgb, stable_rng("codebook", identity)).astype(np.float32)
        coarse = halve(halve(halve(x)))
        for _ in range(3):  # the mean over instances of decode_vq's own coarse image
            coarse = blur(nearest(coarse), 0.8)
        patches.append(to_patches(luma(x) - luma(coarse)))
    return np.concatenate(patches)


def fit_words(patches: F32, num_words: int) -> npt.NDArray[np.float16]:
    """Lloyd's k-means from a fixed start -> float16 (num_words, 64)."""
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, 25, 0.0)
    _, _, words = cv2.kmeans(patches, num_words, np.empty(0, dtype=np.int32), criteria, 1, cv2.KMEANS_PP_CENTERS)
    return np.asarray(words, dtype=np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit and write the codebook of the simulator sim-efs-gan-vq.")
    parser.add_argument("--out", type=Path, default=CODEBOOK)
    out: Path = parser.parse_args().out
    np.save(out, fit_words(sample_patches(NUM_FACES), NUM_WORDS))


if __name__ == "__main__":
    main()
