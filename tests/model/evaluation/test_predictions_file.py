"""Predictions as a file: what is written comes back, and a file that lies is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bmrl.model.errors import RunError
from bmrl.model.evaluation import predictions_reader
from bmrl.model.evaluation.predictions import Predictions
from bmrl.model.evaluation.predictions_file import About, Contents, write_predictions
from bmrl.model.evaluation.predictions_reader import read_predictions
from bmrl.model.report.files import judge_file
from bmrl.model.report.text import render_text

CLASSES = ["cam", "gan-a", "gan-b", "dif-a"]
KINDS = {"cam": "real", "gan-a": "EFS", "gan-b": "EFS", "dif-a": "FS", "gan-x": "EFS", "dif-x": "FS", "jpeg": "real"}


def part(name: str, sources: list[str], each: int, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    generators = [source for source in sources for _ in range(each)]
    labels = np.array([CLASSES.index(one) if one in CLASSES else -1 for one in generators])
    logits = rng.normal(size=(len(labels), 4))
    logits[labels >= 0, labels[labels >= 0]] += 2.5
    return Predictions(
        keys=[f"{name}-{row}" for row in range(len(labels))],
        generators=generators,
        labels=labels,
        logits=logits.astype(np.float32).astype(np.float64),
        features=rng.normal(size=(len(labels), 7)).astype(np.float32)
        + np.maximum(labels, 0)[:, None].astype(np.float32),
        groups=[f"p{row % 9}" for row in range(len(labels))],
    )


@pytest.fixture
def contents() -> Contents:
    return Contents(
        about=About(classes=CLASSES, attributor="theirs", protocol="two", relations={"gan-x": "NEAR gan-a"}),
        parts={
            "train": part("train", CLASSES, 30, 0),
            "validation": part("validation", CLASSES, 10, 1),
            "seen": part("seen", CLASSES, 20, 2),
            "unseen": part("unseen", ["gan-x", "dif-x"], 15, 3),
            "controls": part("controls", ["jpeg"], 5, 4),
        },
        sources={name: {"kind": kind, "family": "GAN"} for name, kind in KINDS.items()},
    )


def test_what_is_written_comes_back(contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.parquet", "b.parquet"):
        write_predictions(tmp_path / name, contents)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    for limit in (2**30, 0):  # in memory, in a file of the temporary folder
        monkeypatch.setattr(predictions_reader, "IN_MEMORY", limit)
        found = read_predictions(tmp_path / "a.parquet")
        assert found.about == contents.about and found.sources == dict(sorted(contents.sources.items()))
        assert isinstance(found.parts["seen"].features, np.memmap) == (limit == 0)
        for name, rows in contents.parts.items():
            for field in ("keys", "generators", "groups"):
                assert list(getattr(found.parts[name], field)) == list(getattr(rows, field))
            for field in ("labels", "logits", "features"):
                assert np.array_equal(getattr(found.parts[name], field), getattr(rows, field)), (name, field)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.names == [
        "key",
        "generator",
        "kind",
        "family",
        "group",
        "split",
        "part",
        "label",
        "logits",
        "embedding",
    ]
    assert set(zip(table["part"].to_pylist(), table["split"].to_pylist(), strict=True)) == {
        ("train", "train"), ("validation", "val"), ("seen", "test"), ("unseen", "test"), ("controls", "test"),
    }  # fmt: skip


def test_rows_of_a_part_need_not_stand_together(contents: Contents, tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.parquet", contents)
    table = pq.read_table(tmp_path / "a.parquet")
    order = np.random.default_rng(0).permutation(table.num_rows)
    pq.write_table(table.take(order), tmp_path / "b.parquet")
    first, second = (judge_file(tmp_path / name).result.document for name in ("a.parquet", "b.parquet"))
    for name in ("seen", "main", "confusion", "thresholds"):
        assert second[name] == first[name] or name == "main", name
    for name in ("score", "seen_acceptance", "unseen_rejection", "accepted_correct"):
        assert second["main"][name] == first["main"][name], name
    assert second["main"]["oscr"] == pytest.approx(first["main"]["oscr"], abs=1e-9)


def column(name: str, change: Callable[[list[Any]], Any]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        values = table[name].to_pylist()
        new = change(values)
        array = new if isinstance(new, pa.Array) else pa.array(new, table.schema.field(name).type)
        return table.set_column(place, pa.field(name, array.type), array)

    return changed


def at(row: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:row], value, *values[row + 1 :]]


SEEN = 160  # the first seen row


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop_columns(["group"]), "column group is missing"),
        (lambda table: table.replace_schema_metadata({}), "the JSON document `bmrl`"),
        (lambda table: table.replace_schema_metadata({b"bmrl": b"{"}), "it is no JSON"),
        (lambda table: table.replace_schema_metadata({b"bmrl": b'{"classes": ["a"], "attributor": "x"}'}), "length >= 2"),
        (lambda table: table.replace_schema_metadata({b"bmrl": b'{"classes": ["a", "a"], "attributor": "x"}'}), "twice"),
        (lambda table: table.slice(0, 0), "no rows"),
        (lambda table: table.slice(0, SEEN), "no rows of part seen"),
        (column("label", lambda values: pa.array([str(value) for value in values])), "column label is string"),
        (column("logits", lambda values: pa.array([value[0] for value in values])), "column logits is double"),
        (column("label", at(SEEN, 3)), "its generator cam is another class"),
        (column("label", at(240, 1)), "its generator gan-x is none of the classes"),
        (column("label", at(SEEN, 4)), "label 4 of seen-0 is none of -1 and the 4 classes"),
        (column("label", at(SEEN, -1)), "seen-0 of part seen has the label -1"),
        (column("label", at(SEEN, None)), "label of row 160 is missing"),
        (column("key", at(SEEN, "train-0")), "key train-0 stands twice"),
        (column("part", at(SEEN, "test")), "part 'test' is none of train, validation, seen, unseen, controls"),
        (column("part", at(SEEN, "unseen")), "seen-0 of part unseen has a label"),
        (column("logits", at(SEEN, [0.0, 1.0])), "logits of row 160 has 2 numbers, expected 4"),
        (column("logits", at(SEEN, [0.0, 1.0, float("nan"), 0.0])), "logits of row 160 holds what is no finite number"),
        (column("logits", at(SEEN, [0.0, 1.0, None, 0.0])), "logits of row 160 holds what is no finite number"),
        (column("embedding", at(SEEN, [float("inf")] * 7)), "embedding of row 160 holds what is no finite number"),
        (column("embedding", at(SEEN, [1.0])), "embedding of row 160 has 1 numbers"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used(
    contents: Contents, tmp_path: Path, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    file = tmp_path / "p.parquet"
    write_predictions(file, contents)
    table = pq.read_table(file)
    changed = change(table)
    if not changed.schema.metadata and "bmrl" not in words:
        changed = changed.replace_schema_metadata(table.schema.metadata)
    pq.write_table(changed, file)
    with pytest.raises(RunError) as error:
        read_predictions(file)
    assert str(error.value).startswith(f"{file} cannot be used as predictions: ") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("key,generator\n")
    with pytest.raises(RunError, match="cannot be used as predictions"):
        read_predictions(tmp_path / "text")
    with pytest.raises(RunError, match="does not exist"):
        read_predictions(tmp_path / "none")
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        read_predictions(tmp_path)


def test_figures_that_need_training_rows_say_so(contents: Contents, tmp_path: Path) -> None:
    bare = replace(contents, parts={name: contents.parts[name] for name in ("seen", "unseen")})
    write_predictions(tmp_path / "p.parquet", bare)
    report = judge_file(tmp_path / "p.parquet")
    document = report.result.document
    assert document["main"] is None and document["calibration"] is None and document["operating_point"] is None
    assert set(document["open_set"]) == {"max_softmax", "max_logit", "energy"}
    assert "no seen validation rows" in document["likelihood_ratios"]["reason"]
    assert document["controls"] is None and document["data"]["n_train"] == {}
    text = render_text(report.result)
    assert "no main row: no seen validation images" in text and "own" not in text.split("threshold")[1].split("\n")[0]


def test_a_foreign_model_needs_no_torch(contents: Contents, tmp_path: Path) -> None:
    """The whole command, where torch cannot be imported."""
    write_predictions(tmp_path / "p.parquet", contents)
    code = (
        "import sys\n"
        "class Refused:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'torch': raise ImportError('no torch here')\n"
        "sys.meta_path.insert(0, Refused())\n"
        "from bmrl.cli.eval import main\n"
        f"main(['--predictions', {str(tmp_path / 'p.parquet')!r}, '--out', {str(tmp_path / 'out')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "main row, declared in advance" in done.stdout
    found = json.loads((tmp_path / "out/result.json").read_text())
    assert found["attributor"] == "theirs" and found["main"]["score"] in found["open_set"]
    page = (tmp_path / "out/report.html").read_text()
    assert 'alt="Tippett plot"' in page and 'alt="rejection over the temperature"' in page and "Main row" in page
    assert read_predictions(tmp_path / "out/predictions.parquet").about == contents.about
