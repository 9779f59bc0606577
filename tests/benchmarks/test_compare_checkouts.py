"""benchmarks/compare_checkouts.py finds what differs, and nothing else. Whole comparisons take minutes and run by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        return importlib.import_module("compare_checkouts")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({"a": [1, {"b": 0.1}]}, {"a": [1, {"b": 0.1}]}, []),
        ({"a": [1, {"b": 0.1}]}, {"a": [1, {"b": 0.1 + 1e-18}]}, []),  # the same number
        ({"a": [1, {"b": 0.1}]}, {"a": [1, {"b": 0.1 + 1e-17}]}, ["a[1].b"]),  # one bit
        ({"a": 1}, {"a": 1.0}, ["a"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": 1, "b": None}, {"a": 1}, ["b"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ({"a": float("nan")}, {"a": float("nan")}, []),
    ],
)
def test_documents_differ_where_a_value_does(compare: ModuleType, old: Any, new: Any, found: list[str]) -> None:
    assert [line.partition(":")[0] for line in compare.diff_json(old, new)] == found


def test_new_keys_are_allowed_unless_the_document_is_closed(compare: ModuleType) -> None:
    assert list(compare.diff_json({"a": 1}, {"a": 1, "b": 2})) == []
    assert list(compare.diff_json({"a": 1}, {"a": 1, "b": 2}, closed=True)) == ["b: only in the second"]


def test_weights_differ_by_one_bit_a_name_a_type_or_the_metadata(compare: ModuleType, tmp_path: Path) -> None:
    weight = torch.linspace(-1, 1, 6).reshape(2, 3)
    tensors = {"weight": weight, "steps": torch.tensor(3), "nan": torch.tensor([float("nan")])}
    nudged = weight.clone()
    nudged[1, 2] = torch.nextafter(nudged[1, 2], torch.tensor(2.0))
    cases = {
        "same": (tensors, None, []),
        "bit": ({**tensors, "weight": nudged}, None, ["weight"]),
        "type": ({**tensors, "steps": torch.tensor(3, dtype=torch.int32)}, None, ["steps"]),
        "name": ({**tensors, "more": torch.zeros(1)}, None, ["more"]),
        "metadata": (tensors, {"time": "now"}, ["metadata"]),
    }
    save_file(tensors, tmp_path / "old.safetensors")
    for name, (content, metadata, found) in cases.items():
        save_file(content, tmp_path / f"{name}.safetensors", metadata=metadata)
        _, differences = compare.diff_weights(tmp_path / "old.safetensors", tmp_path / f"{name}.safetensors")
        assert [line.partition(":")[0] for line in differences] == found, name


def test_sums_keep_their_order(compare: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text("aa  image/0.tar\nbb  a name with  blanks\n")
    assert list(compare.read_sums(tmp_path).items()) == [("image/0.tar", "aa"), ("a name with  blanks", "bb")]
