"""The leak audit finds the leaks that were put in, and none in a fair set."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from support import picture

from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.demo.provenance import describe_simulators
from bmrl.pipeline.describe.audit import NUM_FOLDS, assign_folds, audit, tells_apart
from bmrl.pipeline.describe.audit_features import ABSENT, AuditRows, part_moments, sample_rows
from bmrl.pipeline.describe.info import render
from bmrl.pipeline.shardset import ShardSet

NUM = 100  # rows a source


def made_rows(**columns: Any) -> AuditRows:
    """Two sources of paired identities that differ in nothing; keywords replace columns."""
    rng = np.random.default_rng(0)
    rows = AuditRows(
        sources=np.array(["A"] * NUM + ["B"] * NUM),
        groups=[str(number) for number in (*range(NUM), *range(NUM))],
        sizes=np.tile([256.0, 256.0, 256 / 224], (2 * NUM, 1)),
        formats=np.array(["JPEG"] * 2 * NUM),
        qualities=rng.choice([75.0, 90.0], 2 * NUM),
        colours=rng.normal(120, 20, (2 * NUM, 3)),
        shares=None,
        alignment=rng.normal(112, 5, (2 * NUM, 12)),
    )
    return dataclasses.replace(rows, **columns)


def shifted(values: Any, by: float) -> Any:
    """The second source's values moved."""
    moved = np.array(values)
    moved[NUM:] += by
    return moved


def telling(found: dict[str, Any]) -> set[str]:
    return {
        name
        for name, facts in found["attributes"].items()
        if facts["accuracy"] > max(found["chance"], facts["shuffled_labels"]) + found["margin"]
    }


def test_a_fair_set_tells_nothing() -> None:
    found = tells_apart(made_rows())
    assert (found["chance"], found["left_out"]) == (0.5, [])
    assert found["margin"] == pytest.approx(4 * np.sqrt(2 * 0.25 / NUM) / 2)
    assert telling(found) == set()
    constant = found["attributes"]["file format"]
    assert constant["constant"] and (constant["accuracy"], constant["shuffled_labels"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("leak", "attribute"),
    [
        ({"qualities": np.repeat([75.0, 90.0], NUM)}, "JPEG quality"),
        ({"formats": np.repeat(["JPEG", "PNG"], NUM)}, "file format"),
        ({"sizes": np.repeat([[256, 256, 1.1], [128, 128, 0.6]], NUM, axis=0)}, "native size and resize factor"),
    ],
)
def test_a_container_leak_is_found_whole(leak: dict[str, Any], attribute: str) -> None:
    found = tells_apart(made_rows(**leak))
    facts = found["attributes"][attribute]
    assert facts["accuracy"] == 1.0 and facts["per_source"] == {"A": 1.0, "B": 1.0} and facts["shuffled_labels"] < 0.65
    assert telling(found) == {attribute, "all of them together"}


def test_colour_and_alignment_leaks_are_found() -> None:
    fair = made_rows()
    moved = made_rows(colours=shifted(fair.colours, 40), alignment=shifted(fair.alignment, 6))
    names = {"colour means", "alignment of face, eyes and mouth", "all of them together"}
    assert telling(tells_apart(moved)) == names


def test_what_is_told_by_the_identity_is_no_leak() -> None:
    """20 videos of ten frames, each of one colour: known frames would give every source away, held-out videos do not."""
    colours = np.random.default_rng(1).normal(120, 20, (20, 3)).repeat(10, axis=0)
    rows = made_rows(colours=colours, groups=[f"video{number // 10}" for number in range(2 * NUM)])
    found = tells_apart(rows)
    assert found["margin"] == pytest.approx(4 * np.sqrt(2 * 0.25 / 10) / 2)  # ten observations a source, not a hundred
    assert "colour means" not in telling(found)


def test_no_identity_is_in_two_folds_and_a_swap_is_in_those_of_both() -> None:
    groups = [f"{number}" for number in range(40)] + ["0+1", "0+2", "5+5"]
    folds = assign_folds(groups)
    assert folds[:40].sum(axis=0).tolist() == [10] * NUM_FOLDS and (folds[:40].sum(axis=1) == 1).all()
    assert (folds[40] == (folds[0] | folds[1])).all() and (folds[41] == (folds[0] | folds[2])).all()
    assert (folds[42] == folds[5]).all()
    assert (assign_folds(groups[::-1]) == folds[::-1]).all(), "the order of the rows does not matter"


def test_a_source_with_few_identities_is_left_out() -> None:
    constant = {"colours": np.zeros((2 * NUM, 3)), "alignment": None, "qualities": np.zeros(2 * NUM)}
    found = tells_apart(made_rows(sources=np.array(["A"] * NUM + ["B"] * (NUM - 5) + ["C"] * 5), **constant))
    assert found["left_out"] == ["C"] and found["chance"] == 0.5
    alone = made_rows(sources=np.array(["A"] * 2 * NUM))
    assert tells_apart(alone) == {
        "folds": 4, "chance": None, "margin": None, "left_out": [], "attributes": {},
    }  # fmt: skip


def test_centres_and_spreads_of_parts() -> None:
    labels = np.zeros((224, 224), dtype=np.uint8)
    labels[100:121, 50:71] = 1  # skin
    labels[104:107, 60] = 4  # an eye, part of the face
    face, eyes, mouth = part_moments(labels).reshape(3, 4)
    assert face == pytest.approx([60, 110, np.sqrt((21**2 - 1) / 12), np.sqrt((21**2 - 1) / 12)])
    assert eyes == pytest.approx([60, 105, 0, np.sqrt(2 / 3)])
    assert mouth.tolist() == [ABSENT] * 4


def make_source(root: Path, *, leaky: bool) -> Path:
    """root/{train,test}/{real,DDPM}/NAME.png with label maps beside it; a leaky one is small JPEGs with little face."""
    for number in range(80):
        split, name = "train" if number < 60 else "test", ("real", "DDPM")[number % 2]
        alike = 2 if number == 78 and leaky else number  # a train image of the same source again, in other bytes
        image = Image.fromarray(picture(alike, 224))
        is_odd = leaky and name == "DDPM"
        path = root / split / name / f"{number:02d}.{'jpg' if is_odd else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_odd:
            image.resize((128, 128)).save(path, quality=75)
        elif number == 78 and leaky:
            image.point(lambda value: min(255, value + 6)).save(path)
        else:
            image.save(path)
        labels = np.zeros((image.height, image.width) if not is_odd else (128, 128), dtype=np.uint8)
        side = len(labels) // (8 if is_odd else 2)
        middle = len(labels) // 2 + number % 3
        labels[middle - side // 2 : middle + side // 2, middle - side // 2 : middle + side // 2] = 1
        map_path = root.with_name("maps") / path.relative_to(root).with_suffix(".png")
        map_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(map_path)
    return root


@pytest.fixture(scope="module", params=["fair", "leaky"])
def made(request: Any, tmp_path_factory: pytest.TempPathFactory, build_here: Callable[[BuildOptions], Path]) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    source = make_source(folder / "source", leaky=request.param == "leaky")
    options = BuildOptions(
        dataset="folder", source_root=source, out=folder / "shards", views=("image", "parsing"),
        parser=f"maps:bisenet:{folder / 'maps'}",
    )  # fmt: skip
    return request.param, build_here(options)


def test_a_made_set_end_to_end(made: tuple[str, Path], invoke: Callable[..., Result]) -> None:
    kind, root = made
    result = invoke(main, "info", root, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    sources = document["audit"]["sources"]
    assert document["audit"]["rows"] == 80 and sources["real"]["formats"] == {"PNG": 40}
    assert document["audit"]["shared_groups"] == {"count": 0, "of": 80}
    assert sources["real"]["face_share"]["median"] == pytest.approx(0.25, abs=0.01)
    if kind == "fair":
        assert document["warnings"] == [] and document["audit"]["near_duplicates"]["count"] == 0
        return
    assert sources["DDPM"]["native_sizes"] == {"128x128": 40} and sources["DDPM"]["formats"] == {"JPEG": 40}
    assert sources["DDPM"]["jpeg_quality"] == {"min": 75, "median": 75, "max": 75}
    assert sources["DDPM"]["resize_factor"]["median"] == round(128 / 224, 4)
    for words in (
        "native size and resize factor: by that alone the sources are told apart, 100% right on held-out identities, chance 50%",
        "file format: by that alone the sources are told apart, 100%",
        "JPEG quality: by that alone the sources are told apart, 100%",
        "images were enlarged to 224, so edge and noise show interpolation, not what the generator left: DDPM (short side 128",
        "little face is found in the parsing (less than 10% of the image): DDPM (100% of its images)",
        "1 pairs of images in different splits look alike (within 4 of 64 bits of a perceptual hash), such as "
        "train/real/02.png (train) and test/real/78.png (test)",
    ):
        assert [warning for warning in document["warnings"] if warning.startswith(words)], words
    text = render(document)
    assert "128x128" in text and "75..75" in text and "warning: little face" in text
    assert re.search(r"\n  [0-4] bits: train/real/02\.png and test/real/78\.png\n", text)


def test_a_set_without_parsing_or_without_rows(small_set: ShardSet, small_copy: Path) -> None:
    document = json.loads((small_copy / "dataset.json").read_text())
    del document["views"]["parsing"]
    bare = dataclasses.replace(small_set, document=document)
    found = audit(bare)
    assert "face_share" not in found["sources"]["real"] and "alignment" not in found["sources"]["real"]
    empty = audit(small_set.select(split="train").select(split="val"))
    assert (empty["rows"], empty["sources"], empty["tells_apart"]["chance"]) == (0, {}, None)


def test_a_damaged_column_is_one_sentence(small_copy: Path, invoke: Callable[..., Result]) -> None:
    tar = next(iter(sorted((small_copy / "image").glob("*.tar"))))
    data = bytearray(tar.read_bytes())
    data[100_000] ^= 1
    tar.write_bytes(data)
    result = invoke(main, "info", small_copy)
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: {tar}")


def test_rows_are_sampled_a_source_and_the_same_every_time(small_set: ShardSet) -> None:
    assert sample_rows(small_set).tolist() == list(range(50))
    repeated = small_set.take(np.tile(np.arange(50), 60))
    counts = repeated.take(sample_rows(repeated)).counts
    assert counts == {
        "mystery": 120,
        "real": 500,
        "sim-efs-gan-fir": 500,
        "sim-efs-gan-vq": 500,
        "sim-fs-gan-near": 500,
    }


def test_simulators_are_described_by_their_parameters() -> None:
    found = describe_simulators("demo", ["real", "sim-fs-gan-near112", "sim-efs-dif-flow"])
    assert found["trace_rms"] == {"law": "log-uniform", "gray_levels": [3.0, 6.0]} and found["jpeg_quality"] is None
    assert found["sources"]["sim-fs-gan-near112"] == {
        "kind": "FS", "family": "GAN", "decoder": "near", "crop": 112, "noise": 1.0, "slot": "SimSwap; Chen 2020",
        "relation": "NEAR sim-fs-gan-near",
    }  # fmt: skip
    hard = describe_simulators("demo-hard", ["sim-efs-dif-flow"])
    assert hard["trace_rms"]["gray_levels"] == [1.0, 3.0] and hard["jpeg_quality"] == [75, 95]
    assert describe_simulators("folder", ["real", "DDPM"]) == {}
