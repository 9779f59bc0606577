"""Bad input: one clear sentence and the right exit code, never a traceback (run_command asserts that)."""

from __future__ import annotations

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import build, picture, run_command, write_faces

import bmrl.pipeline.build.space as space_module
from bmrl.pipeline.build.report import BuildError
from bmrl.pipeline.build.space import check_space
from bmrl.pipeline.shards.plan import read_plan
from bmrl.pipeline.views.errors import UnreadableImageError
from bmrl.pipeline.views.image import read_source

IMAGE = ("--views", "image", "--workers", "1")


def sentence(stderr: str) -> str:
    """The one line that says what is wrong."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    return lines[0]


def test_wrong_roots(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        ((), "needs --root"),
        (("--root", tmp_path / "nowhere"), "does not exist"),
        (("--root", tmp_path / "empty"), "no images found"),
    ):
        done = run_command("prep", "build", "--dataset", "folder", "--out", tmp_path / "out", *IMAGE, *arguments)
        assert done.returncode == 1
        assert expected in sentence(done.stderr)


def test_images_without_a_generator_folder(tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "face.png")
    done = build(tmp_path, tmp_path.with_name("out-flat"), *IMAGE)
    assert done.returncode == 1
    assert "one folder a generator" in sentence(done.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("prep", "build", "--dataset", "nope", "--out", "x"),
        ("prep", "build", "--dataset", "folder", "--out", "x", "--views", "image,nope"),
        ("prep", "build", "--dataset", "folder", "--out", "x", "--splits", "nope"),
        ("prep", "build", "--dataset", "folder", "--out", "x", "--resize", "nope"),
        ("train", "--shards", "x", "--out", "y", "--protocol", "nope"),
        ("train", "--shards", "x", "--out", "y", "--attributor", "nope"),
        ("train", "--shards", "x", "--out", "y", "--attributor", "sjedd"),
        ("train", "--shards", "x", "--out", "y", "--preset", "nope"),
        ("train", "--shards", "x", "--out", "y", "--semantics", "nope"),
        ("train", "--shards", "x", "--out", "y", "--set", "nope=1"),
        ("train", "--shards", "x", "--out", "y", "--set", "epochs=many"),
        ("attribute", "x", "y.png", "--heatmap", "z"),
    ],
)
def test_unknown_names_are_wrong_use(arguments: tuple[str, ...]) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert sentence(done.stderr)


def test_unreadable_files_are_dropped_and_others_converted(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "faces", {"real": 3})
    real = root / "real"
    (real / "text.jpg").write_text("this is no image")
    data = (real / "000.png").read_bytes()
    (real / "truncated.png").write_bytes(data[: len(data) // 2])
    Image.fromarray(picture(5)[:1, :1]).save(real / "one.png")
    (real / "huge.png").write_bytes(huge_png())
    (real / "empty.png").write_bytes(b"")
    Image.fromarray(picture(6)).convert("CMYK").save(real / "cmyk.jpg", quality=95)
    Image.fromarray(np.arange(96 * 96, dtype=np.uint16).reshape(96, 96) * 7).save(real / "deep.png")
    rgba = np.dstack([picture(7), np.full((96, 96), 128, np.uint8)])
    Image.fromarray(rgba).save(real / "alpha.png")
    done = build(root, tmp_path / "out", *IMAGE)
    assert done.returncode == 3, done.stderr
    assert "more than --max-failures" in done.stderr
    failures = {row["source_path"]: row for row in pq.read_table(tmp_path / "out/failures.parquet").to_pylist()}
    assert {path: row["reason"].split(":")[0] for path, row in failures.items()} == {
        "real/text.jpg": "not an image file",
        "real/empty.png": "not an image file",
        "real/truncated.png": "cannot be decoded",
        "real/one.png": "1x1 pixels",
        "real/huge.png": "30000x30000 pixels",
    }
    assert all(row["stage"] == "image" and row["attempt"] == 0 for row in failures.values())
    index = pq.read_table(tmp_path / "out/index.parquet")["source_path"].to_pylist()
    assert {"real/cmyk.jpg", "real/deep.png", "real/alpha.png"} <= set(index)
    assert len(index) == 6
    assert build(root, tmp_path / "out", *IMAGE, "--max-failures", "0.5").returncode == 0
    # One of them is mended: --retry-failed takes it in as a new shard and records the second round of the others.
    Image.fromarray(picture(9)).save(real / "truncated.png")
    assert build(root, tmp_path / "out", "--retry-failed", "--workers", "1", "--max-failures", "0.9").returncode == 0
    rows = pq.read_table(tmp_path / "out/failures.parquet").to_pylist()
    assert {row["source_path"] for row in rows if row["attempt"] == 1} == set(failures) - {"real/truncated.png"}
    assert "real/truncated.png" in pq.read_table(tmp_path / "out/index.parquet")["source_path"].to_pylist()


def huge_png() -> bytes:
    """A PNG whose header says 30,000 x 30,000, and nothing behind it."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    body = struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 4) + b"IDAT" + b"\0" * 8


def test_conversions_give_the_expected_pixels() -> None:
    import io

    def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind)
        return buffer.getvalue()

    rgb = picture(3)
    half = np.dstack([rgb, np.full((96, 96), 128, np.uint8)])
    over_black = read_source(encoded(Image.fromarray(half))).rgb
    assert np.abs(over_black.astype(int) - rgb * (128 / 255)).max() <= 1
    deep = (rgb[..., 0].astype(np.uint16) << 8) + 77
    assert np.array_equal(read_source(encoded(Image.fromarray(deep))).rgb, np.repeat(rgb[..., :1], 3, 2))
    gray = Image.fromarray(rgb[..., 0])
    assert np.array_equal(read_source(encoded(gray)).rgb, np.repeat(rgb[..., :1], 3, 2))
    palette = Image.fromarray(rgb).quantize(64)
    assert np.array_equal(read_source(encoded(palette)).rgb, np.asarray(palette.convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    Image.fromarray(rgb[:, :80]).save(buffer, "PNG", exif=exif)
    source = read_source(buffer.getvalue())
    assert (source.width, source.height) == (96, 80)
    with pytest.raises(UnreadableImageError, match="30000x30000"):
        read_source(huge_png())


def test_out_that_holds_something_else(faces: Path, shards: Path, tmp_path: Path) -> None:
    other = write_faces(tmp_path / "other", {"real": 2, "DDPM": 2})
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    done = build(other, copy)
    assert done.returncode == 2
    assert "was planned differently" in sentence(done.stderr)
    seeded = build(faces, copy, "--seed", "5")
    assert seeded.returncode == 2
    assert "seed: the plan has 0, asked for 5" in sentence(seeded.stderr)
    resized = build(faces, copy, "--resize", "area")
    assert resized.returncode == 2
    assert "--replace image" in sentence(resized.stderr)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    for options in ((), ("--overwrite",)):
        done = build(faces, foreign, *IMAGE, *options)
        assert done.returncode == 2
        assert sentence(done.stderr)
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_out_that_cannot_be_written(faces: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x")
    for out in (blocked / "below", Path("/proc/bmrl-out")):
        done = build(faces, out, *IMAGE)
        assert done.returncode == 1
        assert "cannot write" in sentence(done.stderr)
    done = build(faces, blocked / "below", *IMAGE, "--dry-run")
    assert done.returncode == 1
    assert "Not a directory" in sentence(done.stderr)


def test_less_space_than_needed(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = read_plan(shards)
    assert plan is not None
    monkeypatch.setattr(space_module, "free_bytes", lambda folder: 10_000_000)
    with pytest.raises(BuildError, match=r"needs about 0\.0\d GB and .* has 0\.01 GB free"):
        check_space(shards, plan, dict.fromkeys(plan.shards, 10), {shard: set(plan.views) for shard in plan.shards})
    check_space(shards, plan, dict.fromkeys(plan.shards, 1), {plan.shards[0]: set(plan.views)})


def test_an_open_of_something_incomplete(tmp_path: Path, shards: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    (copy / "dataset.json").unlink()
    for command in (
        ("prep", "info", copy),
        ("prep", "head", copy),
        ("train", "--shards", copy, "--out", tmp_path / "r"),
    ):
        done = run_command(*command)
        assert done.returncode == 1
        assert "its build is not complete" in sentence(done.stderr)
    done = run_command("prep", "verify", tmp_path / "nowhere")
    assert done.returncode == 1


def test_dry_run_writes_nothing(faces: Path, tmp_path: Path) -> None:
    done = build(faces, tmp_path / "out", "--dry-run", "--parser", "bisenet-lite")
    assert done.returncode == 0, done.stderr
    assert "StyleGAN2" in done.stdout
    assert "together" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_changed_source_fails_the_parsing(faces: Path, tmp_path: Path) -> None:
    root = tmp_path / "faces"
    shutil.copytree(faces, root)
    assert build(root, tmp_path / "out", *IMAGE, "--splits", "val").returncode == 0
    Image.fromarray(picture(77)).save(root / "val/real/val000.png")
    done = build(root, tmp_path / "out", "--views", "parsing", "--parser", "bisenet-lite", "--workers", "1")
    assert done.returncode == 1
    assert "val/real/val000.png changed since its image was stored" in sentence(done.stderr)


def test_a_build_without_its_weights_leaves_nothing(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = build(faces, tmp_path / "new/root", "--workers", "0")
    assert done.returncode == 1 and "--parser bisenet-lite" in sentence(done.stderr)
    assert not (tmp_path / "new").exists()
