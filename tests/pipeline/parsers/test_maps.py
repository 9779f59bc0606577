from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bmrl.pipeline.parsers.errors import ParserError
from bmrl.pipeline.parsers.maps import LabelMaps
from bmrl.pipeline.parsers.orders import to_bisenet
from bmrl.pipeline.parsers.specs import resolve


def write_map(path: Path, labels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


@pytest.mark.parametrize("palette", [False, True], ids=["gray", "palette"])
@pytest.mark.parametrize("order", ["bisenet", "celebamask-hq", "segface"])
def test_maps_are_read_in_their_order(tmp_path: Path, order: str, palette: bool) -> None:
    labels = np.random.default_rng(0).integers(0, 19, (300, 400))
    write_map(tmp_path / "train" / "real" / "a.png", labels, palette=palette)
    spec = resolve(f"maps:{order}:{tmp_path}")
    assert spec.is_maps and spec.order == order and len(spec.sha256) == 64
    out = spec.maps().parse("train/real/a.jpg", width=400, height=300, size=224)
    crop = to_bisenet(order)[labels[:, 50:350]]
    places = np.arange(224) * 300 // 224
    assert out.dtype == np.uint8 and np.array_equal(out, crop[places][:, places])


def test_hash_follows_content_and_names(tmp_path: Path) -> None:
    labels = np.zeros((64, 64))
    write_map(tmp_path / "a.png", labels)
    maps = LabelMaps(folder=tmp_path, order="bisenet")
    before = maps.sha256()
    assert maps.sha256() == before
    write_map(tmp_path / "b.png", labels)
    with_b = maps.sha256()
    labels[0, 0] = 1
    write_map(tmp_path / "b.png", labels)
    assert len({before, with_b, maps.sha256()}) == 3


def test_another_size_names_the_file(tmp_path: Path) -> None:
    write_map(tmp_path / "a.png", np.zeros((64, 64)))
    with pytest.raises(ParserError, match=r"a\.png: the map is 64x64, its source is 128x128"):
        LabelMaps(folder=tmp_path, order="bisenet").read("a.jpg", width=128, height=128)


def test_label_outside_the_order_names_the_file(tmp_path: Path) -> None:
    write_map(tmp_path / "a.png", np.full((64, 64), 19))
    with pytest.raises(ParserError, match=r"a\.png: label 19 is outside the order 'segface'"):
        LabelMaps(folder=tmp_path, order="segface").read("a.jpg", width=64, height=64)


def test_missing_broken_and_coloured_maps_name_the_file(tmp_path: Path) -> None:
    maps = LabelMaps(folder=tmp_path, order="bisenet")
    with pytest.raises(ParserError, match=r"b\.png: no label map for b\.jpg"):
        maps.read("b.jpg", width=64, height=64)
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(ParserError, match=r"c\.png: cannot be read"):
        maps.read("c.jpg", width=64, height=64)
    Image.new("RGB", (64, 64)).save(tmp_path / "d.png")
    with pytest.raises(ParserError, match=r"d\.png: mode RGB"):
        maps.read("d.jpg", width=64, height=64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maps:bisenet", "maps:ORDER:DIR"),
        ("maps:other:.", "unknown class order 'other'"),
        ("maps:bisenet:nowhere", "no such folder"),
    ],
)
def test_wrong_arguments_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ParserError, match=message):
        resolve(text)


def test_a_map_is_a_png_whatever_its_name_says(tmp_path: Path) -> None:
    """Of the sixty formats that Pillow knows one runs another program, and a lossy one has other labels."""
    Image.new("L", (64, 64)).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(ParserError, match=r"a\.png: cannot be read as a PNG"):
        LabelMaps(folder=tmp_path, order="bisenet").read("a.jpg", width=64, height=64)
