"""The dataset card: its head is what the hub's own classes read, its configurations load, its words are those of `info`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image

from bmrl.cli.prep import main
from bmrl.pipeline.describe.card import MARK, card_data, write_card
from bmrl.pipeline.describe.info import describe
from bmrl.pipeline.shardset import ShardSet


@pytest.fixture(scope="module")
def info(small_set: ShardSet) -> dict[str, Any]:
    return describe(small_set)


@pytest.fixture(scope="module")
def folder(small_set: ShardSet, info: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_card(small_set, info, tmp_path_factory.mktemp("cards") / "new/card")
    assert path.name == "README.md"
    return path.parent


def test_the_hub_reads_the_head(folder: Path) -> None:
    card = DatasetCard.load(folder / "README.md")
    data = card.data
    assert isinstance(data, DatasetCardData)
    assert (data.license, data.size_categories) == ("unknown", ["n<1K"])
    assert data.task_categories == ["image-classification"] and data.pretty_name == "bmrl shards of folder"
    assert data.tags == ["deepfake-detection", "deepfake-attribution", "faces", "webdataset", "synthetic"]
    assert [config["config_name"] for config in data.configs] == ["edge", "image", "noise", "parsing", "text"]
    assert [config["config_name"] for config in data.configs if config.get("default")] == ["image"]
    image = data.configs[1]["data_files"]
    assert [files["split"] for files in image] == ["train", "validation", "test"]
    assert image[0]["path"][0] == "image/000000.tar"


def test_the_configurations_load_with_stock_datasets(
    folder: Path, small_copy: Path, small_set: ShardSet, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    (small_copy / "README.md").write_bytes((folder / "README.md").read_bytes())
    for split, ours in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = datasets.load_dataset(
            str(small_copy), "text", split=split, streaming=True, cache_dir=str(tmp_path / "cache")
        )
        keys = [row["__key__"] for row in rows]
        assert keys == small_set.select(split=ours).index["key"].to_pylist()


def test_the_text_holds_counts_licences_and_warnings(folder: Path, info: dict[str, Any]) -> None:
    text = (folder / "README.md").read_text()
    assert MARK in text and info["root_digest"] in text
    assert "| sim-fs-gan-near | FS | GAN | 7 | 2 | 3 | unknown |" in text
    assert "50 face images of 5 sources" in text and "drawn or simulated" in text
    assert "| sim-efs-gan-vq | vq |  | VQGAN; Esser 2021 | FAR |" in text
    assert info["warnings"]
    for warning in info["warnings"]:
        assert warning.split(":")[0] in text
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (5 * 224, 5 * 242)


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["Apache-2.0"], {"license": "apache-2.0"}),
        (["CC BY-NC 4.0"], {"license": "cc-by-nc-4.0"}),
        (["DF40 (CC BY-NC 4.0)"], {"license": "other", "license_name": "df40-cc-by-nc-4-0"}),
        (["CC0", "MIT"], {"license": "other", "license_name": "several-by-source"}),
    ],
)
def test_licences_as_the_hub_names_them(
    licences: list[str], expected: dict[str, str], small_set: ShardSet, info: dict[str, Any]
) -> None:
    data = card_data(small_set, info | {"provenance": info["provenance"] | {"licences": dict.fromkeys(licences, 1)}})
    assert {key: value for key, value in data.items() if key.startswith("license")} == expected


@pytest.mark.parametrize(("samples", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (2_000_000, "1M<n<10M")])
def test_size_categories(samples: int, category: str, small_set: ShardSet, info: dict[str, Any]) -> None:
    assert card_data(small_set, info | {"samples": samples})["size_categories"] == [category]


def test_names_cannot_become_markup(small_set: ShardSet, info: dict[str, Any], tmp_path: Path) -> None:
    name = "a|b <img src=x> [c](d)"
    odd = json.loads(json.dumps(info).replace('"mystery"', json.dumps(name)))
    text = write_card(small_set, odd, tmp_path / "card").read_text()
    assert r"| a\|b &lt;img src=x&gt; \[c\](d) | unknown |" in text and "<img" not in text


def test_too_many_tars_are_not_listed(small_set: ShardSet, info: dict[str, Any], tmp_path: Path) -> None:
    document = {**small_set.document, "shards": small_set.document["shards"] * 300}
    large = dataclasses.replace(small_set, document=document)
    assert "configs" not in card_data(large, info) and "configs" in card_data(small_set, info)


def test_the_command(invoke: Callable[..., Result], small_copy: Path, tmp_path: Path) -> None:
    result = invoke(main, "info", small_copy, "--json", "--card", tmp_path / "card")
    assert result.exit_code == 0 and json.loads(result.stdout)["samples"] == 50
    first = (tmp_path / "card/README.md").read_bytes()
    assert f"dataset card: {tmp_path / 'card/README.md'}" in result.stderr
    assert invoke(main, "info", small_copy, "--card", tmp_path / "card").exit_code == 0, "its own card is replaced"
    assert (tmp_path / "card/README.md").read_bytes() == first
    (tmp_path / "card/README.md").write_text("# mine\n")
    (tmp_path / "file").touch()
    for where, words in (
        (tmp_path / "card", "is not a card that bmrl wrote"),
        (small_copy / "card", "is inside the shard set, whose files are fixed"),
        (small_copy, "is inside the shard set"),
        (tmp_path / "file", "is a file; give a folder"),
    ):
        refused = invoke(main, "info", small_copy, "--card", where)
        assert refused.exit_code == 2 and words in refused.stderr, refused.output
    assert (tmp_path / "card/README.md").read_text() == "# mine\n" and not (small_copy / "card").exists()
