"""The lines of docs/evaluation.md that write predictions of a foreign model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bmrl.model.report.files import judge_file

PAGE = Path(__file__).parents[2] / "docs/evaluation.md"


def test_the_lines_write_a_file_that_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    classes = ["real", "GAN-a", "GAN-b"]
    rng = np.random.default_rng(0)
    parts = ["train"] * 30 + ["validation"] * 15 + ["seen"] * 15 + ["unseen"] * 10
    generators = [classes[row % 3] if part != "unseen" else "GAN-c" for row, part in enumerate(parts)]
    labels = [classes.index(name) if name in classes else -1 for name in generators]
    names: dict[str, Any] = {
        "classes": classes, "parts": parts, "generators": generators, "labels": labels, "keys": [f"k{row}" for row in range(70)],
        "kinds": ["real" if name == "real" else "EFS" for name in generators], "families": ["unknown"] * 70,
        "groups": [f"p{row}" for row in range(70)], "splits": ["test"] * 70,
        "logits": rng.normal(size=(70, 3)), "embeddings": rng.normal(size=(70, 5)),
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    document = judge_file(tmp_path / "predictions.parquet").result.document
    right = [row for row in range(45, 60) if names["logits"][row].astype(np.float32).argmax() == labels[row]]
    assert document["seen"] == {"accuracy": len(right) / 15, "macro_f1": document["seen"]["macro_f1"], "n": 15}
    assert document["attributor"] == "my model" and document["main"]["score"] in document["open_set"]


def test_the_page_names_every_part_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test_the_lines_write_a_file_that_is_judged(tmp_path, monkeypatch)
    document = judge_file(tmp_path / "predictions.parquet").result.document
    text = PAGE.read_text()
    for name in (
        "main",
        "open_set",
        "within_kind",
        "likelihood_ratios",
        "structure",
        "intervals",
        "temperature_sweep",
        "classes",
    ):
        assert name in document and f"`{name}`" in text, name
