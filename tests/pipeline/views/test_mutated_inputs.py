"""Ten thousand damaged image files: each is decoded or refused with a reason, and no process dies of one."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import build, picture

from bmrl.pipeline.views.errors import UnreadableImageError
from bmrl.pipeline.views.image import ImageParams, compute_image, read_source


def seeds() -> dict[str, bytes]:
    """Small whole files of every kind that people have."""
    rgb = Image.fromarray(picture(1))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    frames = [Image.fromarray(picture(number)) for number in (2, 3)]

    def saved(image: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return {
        "baseline.jpg": saved(rgb, "JPEG", quality=90),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True),
        "turned.jpg": saved(rgb, "JPEG", exif=exif),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "rgb.png": saved(rgb, "PNG"),
        "palette.png": saved(rgb.quantize(64), "PNG"),
        "alpha.png": saved(rgb.convert("RGBA"), "PNG"),
        "sixteen.png": saved(Image.fromarray(picture(4)[..., 0].astype(np.uint16) * 257), "PNG"),
        "animated.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "lossy.webp": saved(rgb, "WEBP", quality=80),
        "lossless.webp": saved(rgb, "WEBP", lossless=True),
        "animated.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "plain.tif": saved(rgb, "TIFF"),
        "lzw.tif": saved(rgb, "TIFF", compression="tiff_lzw"),
        "plain.bmp": saved(rgb, "BMP"),
    }


def mutate(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """One of: flipped bits, bytes of any value near the head, a truncation, a hole, a repeated part, a splice of two files."""
    kind, size = rng.integers(6), len(data)
    out = bytearray(data)
    if kind == 0:
        for position in rng.integers(0, size, rng.integers(1, 20)):
            out[position] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        for position in rng.integers(0, min(size, 200), rng.integers(1, 8)):
            out[position] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    elif kind == 2:
        del out[int(rng.integers(size)) :]
    elif kind == 3:
        start = int(rng.integers(size))
        del out[start : start + int(rng.integers(1, 200))]
    elif kind == 4:
        start, length = int(rng.integers(size)), int(rng.integers(1, 2000))
        out[start:start] = out[start : start + length]
    else:
        other = others[int(rng.integers(len(others)))]
        out[int(rng.integers(size)) :] = other[int(rng.integers(len(other))) :]
    return bytes(out)


def mutants(count: int, seed: int) -> list[tuple[str, bytes]]:
    whole = seeds()
    names, others = list(whole), list(whole.values())
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(names), count)
    return [(names[number], mutate(whole[names[number]], others, rng)) for number in chosen]


def read_all(count: int, seed: int) -> tuple[int, int]:
    """(decoded, refused); anything but an image or a reason raises."""
    params = ImageParams(max_pixels=2**22)
    decoded = refused = 0
    for _, data in mutants(count, seed):
        try:
            image = compute_image(read_source(data, params), params)
        except UnreadableImageError as error:
            assert str(error).strip()
            refused += 1
        else:
            assert image.shape == (224, 224, 3)
            assert image.dtype == np.uint8
            decoded += 1
    return decoded, refused


def test_whole_files_of_every_kind_are_read() -> None:
    for name, data in seeds().items():
        assert compute_image(read_source(data)).shape == (224, 224, 3), name


def test_a_thousand_mutants_in_this_process() -> None:
    decoded, refused = read_all(1000, seed=0)
    assert decoded + refused == 1000
    assert min(decoded, refused) > 100  # else the mutations are too mild or too harsh to say anything


@pytest.mark.slow
def test_ten_thousand_mutants_kill_no_process() -> None:
    here = Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parents[1])!r}]; import resource\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2)\n"  # a bomb must be refused, not be survived
    code += "import test_mutated_inputs as t; print(*t.read_all(10_000, seed=1))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(map(int, done.stdout.split())) == 10_000


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it has width x height pixels, and whose data inflate to a gigabyte of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    zeros = b"".join(packer.compress(bytes(2**20)) for _ in range(1024)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")


@pytest.mark.slow
def test_a_build_over_mutants_names_every_drop(tmp_path: Path) -> None:
    root = tmp_path / "faces/real"
    root.mkdir(parents=True)
    expected = {}
    files = mutants(300, seed=2) + [(name, data) for name, data in seeds().items()]
    files += [("empty.png", b""), ("giant.png", bomb(2**31 - 1, 2**31 - 1)), ("bomb.png", bomb(20_000, 17_000))]
    for number, (name, data) in enumerate(files):
        path = root / f"{number:03d}-{name}"
        path.write_bytes(data)
        try:
            read_source(data)
        except UnreadableImageError as error:
            expected[f"real/{path.name}"] = str(error)
    out = tmp_path / "out"
    done = build(root.parent, out, "--views", "image,edge,noise,text", "--workers", "2", "--shard-size", "32")
    assert done.returncode == 3, done.stderr
    assert "more than --max-failures" in done.stderr
    failures = pq.read_table(out / "failures.parquet").to_pylist()
    found = {row["source_path"]: row["reason"] for row in failures}
    assert found == expected
    assert {(row["stage"], row["attempt"]) for row in failures} == {("image", 0)}
    kept = pq.read_table(out / "index.parquet").num_rows
    assert kept + len(expected) == len(files)
