"""DeepfakeBench's dataset JSON: read as it is published, and written so that it reads back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import Result
from PIL import Image

from bmrl.cli.prep import main
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.sources import DATASETS, SourceError, Walk
from bmrl.pipeline.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()


def video(label: str, *frames: str) -> dict[str, Any]:
    return {"label": label, "frames": list(frames)}


def lay(root: Path, documents: dict[str, Any], frames: list[str]) -> Path:
    for name, document in documents.items():
        (root / "dataset_json").mkdir(parents=True, exist_ok=True)
        (root / "dataset_json" / name).write_text(json.dumps(document))
    for frame in frames:
        (root / frame).parent.mkdir(parents=True, exist_ok=True)
        (root / frame).write_bytes(frame.encode())
    return root


def walk(root: Path) -> Walk:
    return DATASETS["deepfakebench"].walk(root, TAXONOMY)


def rows(root: Path) -> list[str]:
    return [f"{row.path} {row.generator} {row.split} {row.group}" for row in walk(root).rows]


YOUTUBE = "FaceForensics++/original_sequences/youtube/c23/frames"
FAKES = "FaceForensics++/manipulated_sequences/Deepfakes/c23/frames"
CDF = "Celeb-DF-v2/Celeb-synthesis/frames"


def test_published_files_are_read_with_their_quirks(tmp_path: Path) -> None:
    """Paths of other machines, Windows separators, a compression level, reals in every file, test repeated as val, DFDC's val."""
    real = {
        "train": {"c23": {"000": video("FF-real", f"/Youtu_Pangu/zhiyuanyan/{YOUTUBE}/000/010.png")}},
        "test": {},
        "val": {},
    }
    documents = {
        "FF-DF.json": {
            "FF-DF": {
                "FF-real": real,
                "FF-DF": {
                    "train": {"c23": {"000_003": {**video("FF-DF", f"./{FAKES}/000_003/010.png"), "masks": []}}},
                    "val": {"c23": {"953_974": video("FF-DF", f"./{FAKES}/953_974/010.png")}},
                    "test": {"c23": {"953_974": video("FF-DF", f"./{FAKES}/953_974/010.png")}},
                },
            }
        },
        "simswap_ff.json": {
            "simswap_ff": {
                "simswap_Real": real,
                "simswap_Fake": {
                    "train": {},
                    "val": {},
                    "test": {"071_054": video("simswap_Fake", "D:\\data\\DF40\\simswap\\ff\\frames\\071_054\\000.png")},
                },
            }
        },
        "Celeb-DF-v2.json": {
            "Celeb-DF-v2": {
                "CelebDFv2_fake": {
                    "train": {
                        "id1_id2_0000": video("CelebDFv2_fake", f"{CDF}/id1_id2_0000/0.png"),
                        "id0_id3_0000": video("CelebDFv2_fake", f"{CDF}/id0_id3_0000/0.png"),
                    },
                    "test": {"id0_id3_0000": video("CelebDFv2_fake", f"{CDF}/id0_id3_0000/0.png")},
                    "val": {"id0_id3_0000": video("CelebDFv2_fake", f"{CDF}/id0_id3_0000/0.png", f"{CDF}/gone/1.png")},
                }
            }
        },
        "DFDC.json": {
            "DFDC": {"DFDC_Real": {"train": {}, "test": {}, "val": video("DFDC_Real", "DFDC/test/frames/abc/0.png")}}
        },
    }
    frames = [
        f"{YOUTUBE}/000/010.png",
        f"{FAKES}/000_003/010.png",
        f"{FAKES}/953_974/010.png",
        "DF40/simswap/ff/frames/071_054/000.png",
        f"{CDF}/id1_id2_0000/0.png",
        f"{CDF}/id0_id3_0000/0.png",
        "DFDC/test/frames/abc/0.png",
    ]
    root = lay(tmp_path, documents, frames)
    expected = [
        f"{CDF}/id0_id3_0000/0.png Celeb-DF test id0+id3",
        f"{CDF}/id1_id2_0000/0.png Celeb-DF train id1+id2",
        "DF40/simswap/ff/frames/071_054/000.png SimSwap test 071+054",
        "DFDC/test/frames/abc/0.png real val abc",
        f"{FAKES}/000_003/010.png Deepfakes train 000+003",
        f"{FAKES}/953_974/010.png Deepfakes test 953+974",
        f"{YOUTUBE}/000/010.png real train 000",
    ]
    assert rows(root) == expected
    found = walk(root)
    assert dict(found.unused) == {"listed, but not on disk": 1}
    assert [warning.split(",")[0] for warning in found.warnings] == [
        f"1 listed frames are not below {root}",
        "2 frames are listed in several splits (DeepfakeBench repeats test as val",
    ]
    assert rows(root / "dataset_json/simswap_ff.json") == [expected[2], expected[6]]


@pytest.mark.parametrize(
    ("label", "generator", "kind"),
    [
        ("FF-F2F", "Face2Face", "FR"),
        ("DFDCP_FakeA", "DFDCP", "FS"),
        ("DFD_real", "real", "real"),
        ("sd2.1_Real", "real", "real"),
        ("whichisreal_Fake", "WhichFaceIsReal", "EFS"),
        ("control-jpeg85_Real", "control-jpeg85", "real"),
        ("inswap_ff_Fake", "InSwapper", "FS"),
        ("nobody_Fake", "nobody", "unknown"),
    ],
)
def test_labels_become_generators(label: str, generator: str, kind: str, tmp_path: Path) -> None:
    root = lay(tmp_path, {"a.json": {"a": {label: {"train": {"v": video(label, "v/0.png")}}}}}, ["v/0.png"])
    found = walk(root)
    assert [(row.generator, row.kind) for row in found.rows] == [(generator, kind)]
    assert found.warnings == (
        [f"label {label!r} is not in the taxonomy: accepted as generator {generator!r} of kind and family unknown"]
        if kind == "unknown"
        else []
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"a": {"real": {"v": video("real", "v/0.png")}}},
            "a.json: expected DATASET/LABEL/train|val|test/VIDEO, found a/real/v",
        ),
        ({"a": {"real": {"train": {"v": video("real", "w/0.png")}}}}, "none of the 1 listed frames is below"),
        ({"a": {"real": {"train": {"v": video("real", "../v/0.png")}}}}, ""),
        ([1], "a.json: expected DATASET/LABEL/SPLIT/VIDEO, found a list"),
        ({"a": {"real": {"train": {}}}}, "no images found under"),
        (
            {
                "a": {
                    "DFDC": {"train": {"v": video("DFDC", "v/0.png")}},
                    "real": {"train": {"v": video("real", "v/0.png")}},
                }
            },
            "a.json: v/0.png is real here and DFDC elsewhere",
        ),
    ],
)
def test_bad_files_are_one_sentence(document: Any, message: str, tmp_path: Path) -> None:
    root = lay(tmp_path / "root", {"a.json": document}, ["v/0.png"])
    if not message:  # `..` is never followed: the end below the root is taken
        assert rows(root) == ["v/0.png real train v"]
        return
    with pytest.raises(SourceError) as error:
        walk(root)
    assert message in str(error.value)


def test_no_json_and_no_json_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no JSON file in"):
        walk(tmp_path)
    for text in ("{", "[" * 5000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(SourceError, match=r"a\.json cannot be read"):
            walk(tmp_path)


def test_an_export_reads_back_pixel_by_pixel(small_root: Path, tmp_path: Path, invoke: Callable[..., Result]) -> None:
    out = tmp_path / "bench"
    done = invoke(main, "export", small_root, "--for", "deepfakebench", "--out", out)
    assert (done.exit_code, done.output) == (0, f"{out}: 50 samples\n")
    small = ShardSet.open(small_root)
    index = small.index.to_pydict()
    found = {row.path.rsplit("/", 1)[-1].removesuffix(".png"): row for row in walk(out).rows}
    mine = zip(index["key"], index["generator"], index["split"], index["group"], strict=True)
    assert {key: (row.generator, row.split, row.group) for key, row in found.items()} == {
        key: (generator, split, group) for key, generator, split, group in mine
    }
    for batch in small.loader(views=["image"], batch_size=50, shuffle=False):
        for key, image in zip(batch["key"], batch["image"], strict=True):
            assert np.array_equal(np.asarray(Image.open(out / found[key].path)), np.asarray(image).transpose(1, 2, 0))
    assert yaml.safe_load((out / "label_dict.yaml").read_text()) == {
        "label_dict": {
            "mystery_Fake": 1,
            "real_Real": 0,
            "sim-efs-gan-fir_Fake": 1,
            "sim-efs-gan-vq_Fake": 1,
            "sim-fs-gan-near_Fake": 1,
        }
    }
    document = json.loads((out / "dataset_json/bench.json").read_text())["bench"]
    assert all(set(by_split) == {"train", "val", "test"} for by_split in document.values())
    assert document["mystery_Fake"]["val"] == {}
    again = invoke(main, "export", small_root, "--for", "deepfakebench", "--out", out)
    assert again.exit_code == 2 and "is not an empty folder" in again.output
    neither = invoke(main, "export", small_root, "--out", tmp_path / "x")
    assert neither.exit_code == 2 and "give either --views or --for" in neither.output
