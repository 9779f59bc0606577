"""Bytes, encode and decode time per view and codec, and edge and noise computed instead of read.

    python benchmarks/codecs.py --photographs ../shared/data/celebamask-hq --out benchmarks/results/codecs.md

Run in the environment of benchmarks/loader-peers.txt (lz4, qoi, zstandard). CPU time of one thread, medians over rounds.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import lz4.frame
import numpy as np
import qoi
import torch
import zstandard
from machine import describe
from PIL import Image

from bmrl.pipeline.views.codec import decode_npy, decode_png, encode_npy, encode_palette_png, encode_png
from bmrl.pipeline.views.column import default_array
from bmrl.pipeline.views.device import device_edge, device_noise
from bmrl.pipeline.views.edge import compute_edge
from bmrl.pipeline.views.image import compute_image, read_source
from bmrl.pipeline.views.noise import compute_noise

Array = np.ndarray[Any, Any]
Coder = tuple[Callable[[Array], bytes], Callable[[bytes], Array]]
ROUNDS = 5
BATCH = 32


def compressed(pack: Callable[[bytes], bytes], unpack: Callable[[bytes], bytes]) -> Coder:
    """A general compressor over the raw .npy."""
    return lambda array: pack(encode_npy(array)), lambda data: decode_npy(unpack(data))


def encode_webp(array: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "WEBP", lossless=True, quality=50, method=2, exact=True)
    return buffer.getvalue()


def decode_webp(data: bytes) -> Array:
    with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
        return np.asarray(image)


def decode_gray_webp(data: bytes) -> Array:
    return decode_webp(data)[..., 0]


ZSTD_3, ZSTD = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
GENERAL: dict[str, Coder] = {
    "raw": (encode_npy, decode_npy),
    "zstd -3": compressed(ZSTD_3.compress, ZSTD.decompress),
    "LZ4": compressed(lz4.frame.compress, lz4.frame.decompress),
}
CODERS: dict[str, dict[str, Coder]] = {
    "image": GENERAL
    | {"PNG": (encode_png, decode_png), "QOI": (qoi.encode, qoi.decode), "WebP lossless": (encode_webp, decode_webp)},
    "edge": GENERAL | {"PNG": (encode_png, decode_png)},
    "noise": GENERAL,
    "parsing": GENERAL
    | {
        "PNG": (encode_palette_png, decode_png),
        "QOI": (lambda a: qoi.encode(np.repeat(a[..., None], 3, 2)), lambda d: qoi.decode(d)[..., 0]),
        "WebP lossless": (lambda a: encode_webp(np.repeat(a[..., None], 3, 2)), decode_gray_webp),
    },
}


def views_of(folder: Path, count: int) -> dict[str, list[Array]]:
    views: dict[str, list[Array]] = {name: [] for name in CODERS}
    for path in sorted((folder / "images").glob("*.jpg"))[:count]:
        rgb = compute_image(read_source(path.read_bytes()))
        views["image"].append(rgb)
        views["edge"].append(compute_edge(rgb))
        views["noise"].append(compute_noise(rgb).numerators)
        with Image.open(folder / "masks" / f"{path.stem}.png") as labels:
            views["parsing"].append(np.asarray(labels.resize((224, 224), Image.Resampling.NEAREST)))
    return views


def milliseconds(function: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Median over rounds of the CPU time an item."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for item in items:
            function(item)
        rounds.append((time.process_time() - start) / len(items) * 1e3)
    return statistics.median(rounds)


def codec_rows(views: dict[str, list[Array]]) -> list[str]:
    lines = ["| view | codec | bytes | of raw | encode ms | decode ms |", "|---|---|---|---|---|---|"]
    for view, arrays in views.items():
        raw = 0.0
        for name, (encode, decode) in CODERS[view].items():
            encoded = [encode(array) for array in arrays]
            for array, data in zip(arrays, encoded, strict=True):
                found = decode(data)
                assert found.dtype == array.dtype and np.array_equal(found, array), f"{name} loses something of {view}"
            size = statistics.mean(map(len, encoded))
            raw = raw or size
            times = f"{milliseconds(encode, arrays):.2f} | {milliseconds(decode, encoded):.3f}"
            lines.append(f"| {view} | {name} | {size:,.0f} | {size / raw:.0%} | {times} |")
    return lines


def device_rows(views: dict[str, list[Array]]) -> list[str]:
    """What a batch costs when edge and noise are not read: torch on the device (here the CPU), NumPy and OpenCV, or a copy."""
    image = np.stack(views["image"][:BATCH])
    batch = torch.from_numpy(image).permute(0, 3, 1, 2)
    stored = [np.stack(views[name][:BATCH]) for name in ("edge", "noise")]
    edge, noise = device_edge(batch), device_noise(batch)
    assert np.array_equal(edge[:, 0].numpy(), stored[0]) and np.array_equal(noise.numerators.numpy(), stored[1])
    ways: dict[str, Callable[[Any], Any]] = {
        "read: copied from the mapped shard": lambda _: [part.copy() for part in stored],
        "computed by the build's functions (OpenCV)": lambda _: [(compute_edge(x), compute_noise(x)) for x in image],
        "computed by torch on the device (the CPU here)": lambda _: (device_edge(batch), device_noise(batch)),
    }
    lines = ["| edge and noise | ms a sample |", "|---|---|"]
    return lines + [f"| {name} | {milliseconds(way, [None]) / BATCH:.3f} |" for name, way in ways.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    started_on = describe("pillow", "zstandard", "lz4", "qoi", "torch")
    views = views_of(options.photographs, options.count)
    for name, arrays in views.items():
        assert list(arrays[0].shape) == default_array(name)["shape"] and arrays[0].dtype == default_array(name)["dtype"]
    head = (
        f"{started_on}\n{options.count} photographs, one thread, CPU time, "
        f"median of {ROUNDS} rounds; every codec is checked to give the array back."
    )
    command = "python benchmarks/codecs.py --photographs ../shared/data/celebamask-hq"
    text = "\n".join([f"# Codecs\n\n    {command}\n\n{head}\n", *codec_rows(views), "", *device_rows(views), ""])
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
