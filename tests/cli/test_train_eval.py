"""bmrl-train, bmrl-eval and bmrl-attribute through their mains, on the small shard set."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import fit

from bmrl.cli import attribute
from bmrl.cli import eval as evaluate
from bmrl.model.evaluation.controls.features import Rows
from bmrl.model.runs.folder import read_run
from bmrl.pipeline.shardset import ShardSet

Invoke = Callable[..., Result]
# The package names functions as these modules are called.
attribution, evaluation = (import_module(f"bmrl.model.runs.{name}") for name in ("attribute", "evaluate"))
control_rows = import_module("bmrl.model.runs.control_rows")


@pytest.fixture(scope="module")
def run(small_root: Path, small_protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch under the small protocol."""
    out = tmp_path_factory.mktemp("runs") / "protocol"
    result = fit(small_root, out, "--protocol", small_protocol)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out)
    return out


@pytest.fixture(scope="module")
def evaluated(run: Path, small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The document of `bmrl-eval --json` and its --out."""
    out = tmp_path_factory.mktemp("eval")
    arguments = [str(run), "--shards", str(small_root), "--out", str(out), "--json", "--device", "cpu"]
    result = CliRunner().invoke(evaluate.main, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), out  # raises unless stdout is exactly one document


def test_what_a_run_holds(run: Path, small_root: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["classes"] == ["sim-fs-gan-near", "real", "sim-efs-gan-fir"]  # the protocol's order
    assert config["data"]["root_digest"] == ShardSet.open(small_root).root_digest
    assert config["data"]["n_train"] == {"real": 7, "sim-efs-gan-fir": 7, "sim-fs-gan-near": 7}
    assert config["config"]["train"]["epochs"] == 1 and config["config"]["model"]["dim"] == 16
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [1, 2, 3, 4, 5, None]
    for name in ("best.safetensors", "last.safetensors", "state.json", "calibration.json"):
        assert (run / name).is_file()
    for name in ("best.safetensors", "last.safetensors"):  # no times: equal runs give equal bytes (below)
        data = (run / name).read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert header["__metadata__"] == {"bmrl_meaning": read_run(run).meaning}
    assert not [path.name for path in run.iterdir() if path.name.startswith(".tmp")]


def test_the_result_document(evaluated: tuple[dict[str, Any], Path], small_root: Path) -> None:
    document, out = evaluated
    assert set(document["seen"]) >= {"accuracy", "macro_f1", "n"} and document["seen"]["n"] == 9
    assert list(document["thresholds"]) == ["0.7", "0.9"]
    for at in document["thresholds"].values():
        assert set(at) == {"unseen_rejection", "seen_rejection", "accepted_correct", "per_generator"}
        assert set(at["per_generator"]) == {"sim-efs-gan-vq"}
        assert all(0 <= at[name] <= 1 for name in ("unseen_rejection", "seen_rejection", "accepted_correct"))
    assert set(document["auroc"]["per_generator"]) == {"sim-efs-gan-vq"}
    assert 0 <= document["auroc"]["max_softmax"] <= 1
    assert document["controls"]["leaks"] and document["controls"]["best_leak"]
    assert document["controls"]["rows"] == {"train": [21, 21], "seen": [9, 9], "unseen": [3, 3]}
    assert (document["protocol"], document["semantics"], document["attributor"]) == ("small", "sound", "bmrl")
    assert document["simulated"] is True and list(document["lookalikes"]) == ["mystery"]
    assert document["data"]["root_digest"] == ShardSet.open(small_root).root_digest
    assert document["data"]["n_per_generator"] == {
        "mystery": 1, "real": 3, "sim-efs-gan-fir": 3, "sim-efs-gan-vq": 3, "sim-fs-gan-near": 3,
    }  # fmt: skip
    assert sum(map(sum, document["confusion"]["counts"])) == 9
    assert json.loads((out / "result.json").read_text()) == document


def test_zero_shot_by_centres_alone(evaluated: tuple[dict[str, Any], Path]) -> None:
    """The run has one text feature a prompt, not one a level."""
    found = evaluated[0]["zero_shot"]
    assert found["text"] is None and found["centres"]["split"] == "train"
    levels = found["centres"]["levels"]
    assert {level: facts["candidates"] for level, facts in levels.items()} == {
        "authenticity": ["real", "fake"], "kind": ["real", "EFS", "FS"], "family": ["real", "GAN"],
    }  # fmt: skip
    assert [levels["kind"][part]["n"] for part in ("seen", "unseen")] == [9, 3]
    assert levels["kind"]["seen"]["majority"] == 1 / 3 and levels["family"]["seen"]["majority"] == 2 / 3
    assert levels["kind"]["unseen"]["majority"] == 1.0  # one unseen source
    for way in ("content", "probe"):
        beside = found[way]["levels"]
        for level, facts in levels.items():
            assert set(beside[level]["candidates"]) == set(facts["candidates"]), level
            for part in ("seen", "unseen"):
                assert beside[level][part]["control"]
                assert [beside[level][part][name] for name in ("n", "majority")] == [
                    facts[part][name] for name in ("n", "majority")
                ]


def test_the_report_is_one_file_that_loads_nothing(evaluated: tuple[dict[str, Any], Path]) -> None:
    page = (evaluated[1] / "report.html").read_text()
    assert "Zero-shot" in page and "always the commonest answer" in page
    assert "SIMULATED" in page and "sim-efs-gan-vq" in page and "data:image/png;base64," in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_the_table_of_the_same_run(invoke: Invoke, run: Path, small_root: Path, tmp_path: Path) -> None:
    result = invoke(
        evaluate.main, run, "--shards", small_root, "--out", tmp_path, "--device", "cpu", "--threshold", 0.5
    )
    assert result.exit_code == 0
    for words in (
        "seen accuracy",
        "rej@0.5",
        "sim-efs-gan-vq",
        "FAR",
        "leak control",
        "protocol small",
        "report:",
        "taken for",
        "zero-shot",
        "centres: the answer of the trained source whose mean training feature is nearest",
        "content: the best leak control, probe: the best classical baseline, each trained for that question",
    ):
        assert words in result.stdout, words


def test_without_unseen_rows_the_fields_are_null(invoke: Invoke, small_root: Path, tmp_path: Path) -> None:
    """Without a protocol every generator present is a class."""
    result = fit(small_root, tmp_path / "run")
    assert result.exit_code == 0, result.output
    done = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["protocol"] is None and document["auroc"] is None
    assert document["zero_shot"]["centres"]["split"] == "train", "one source has no validation rows"
    assert all(facts["unseen"] is None for facts in document["zero_shot"]["centres"]["levels"].values())
    assert all(at["unseen_rejection"] is None and at["per_generator"] is None for at in document["thresholds"].values())
    assert document["seen"]["n"] == 13 and len(document["confusion"]["classes"]) == 5
    assert (tmp_path / "run/eval/report.html").is_file()


def test_of_large_parts_the_controls_see_some_rows(
    invoke: Invoke, run: Path, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones each time, in no order of sources; the attributor sees all."""
    monkeypatch.setattr(control_rows, "CONTROL_ROWS", 8)
    seen: list[list[str]] = []
    extract = control_rows.extract

    def recorded(batches: Any, containers: Any) -> Rows:
        kept = list(batches)
        seen.append([key for batch in kept for key in batch["key"]])
        return extract(kept, containers)

    monkeypatch.setattr(control_rows, "extract", recorded)
    for name in ("a", "b"):
        done = invoke(evaluate.main, run, "--shards", small_root, "--json", "--device", "cpu", "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["controls"]["rows"] == {"train": [8, 21], "seen": [8, 9], "unseen": [3, 3]}
    assert document["seen"]["n"] == 9 and document["zero_shot"]["probe"]["levels"]["kind"]["seen"]["n"] == 8
    assert [len(keys) for keys in seen] == [8, 8, 3] * 2 and seen[:3] == seen[3:]
    assert len({key.split("/")[0] for key in seen[0]}) > 1


def test_without_training_rows_the_controls_are_null(
    invoke: Invoke, run: Path, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a shard set of test images alone: there is nothing to train the controls on."""
    select = ShardSet.select

    def without(shard_set: ShardSet, **wanted: Any) -> ShardSet:
        chosen = select(shard_set, **wanted)
        return chosen if wanted.get("split") in (None, "test") else select(chosen, generators=[])

    monkeypatch.setattr(ShardSet, "select", without)
    done = invoke(evaluate.main, run, "--shards", small_root, "--json", "--device", "cpu", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["controls"] is None
    found = document["zero_shot"]
    assert {name for name, value in found.items() if value is None} == {"text", "content", "probe"}
    assert found["centres"]["split"] == "train", "the run keeps what it said of its training rows"
    assert document["seen"]["n"] == 9 and (tmp_path / "report.html").is_file()


def test_zero_shot_by_the_prompts_of_each_level(
    invoke: Invoke, small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    result = fit(small_root, tmp_path / "run", "--protocol", small_protocol, "--set", "text_readout=levels")
    assert result.exit_code == 0, result.output
    done = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--device", "cpu")
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "run/eval/result.json").read_text())
    found = document["zero_shot"]["text"]
    assert set(found["levels"]) == {"authenticity", "kind", "family", "source"}
    assert found["levels"]["family"]["candidates"] == [
        "a photo captured by a camera", "a photo generated by the GAN-based model",
    ]  # fmt: skip
    assert found["levels"]["source"]["seen"]["n"] == 9
    assert found["levels"]["source"]["unseen"] == {"accuracy": None, "majority": None, "n": 0, "n_outside": 3,
                                                   "sources_right": [0, 0]}  # fmt: skip
    assert found["unread_names"] == ["sim-efs-gan-vq"]  # no trained prompt holds the token "vq"
    assert set(document["zero_shot"]["centres"]["levels"]) == {"authenticity", "kind", "family"}
    for words in ("text    kind ", "text    source ", "centres kind ", "no trained prompt has), not asked: 1"):
        assert words in done.stdout, words
    assert "no trained prompt has), not asked: 1" in (tmp_path / "run/eval/report.html").read_text()


@pytest.mark.slow
def test_what_training_aligned_is_read_at_every_level(
    invoke: Invoke, small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    """Three sources that their tint tells apart: the nearest prompt of each level is the true one of every seen image."""
    options = ("--set", "text_readout=levels", "--epochs", 40, "--set", "lr=3e-3")
    assert fit(small_root, tmp_path / "run", "--protocol", small_protocol, *options).exit_code == 0
    done = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--json", "--device", "cpu")
    levels = json.loads(done.stdout)["zero_shot"]["text"]["levels"]
    assert {level: facts["seen"]["accuracy"] for level, facts in levels.items()} == {
        "authenticity": 1.0, "kind": 1.0, "family": 1.0, "source": 1.0,
    }  # fmt: skip


def test_the_same_seed_gives_the_same_run(run: Path, small_root: Path, small_protocol: str, tmp_path: Path) -> None:
    assert fit(small_root, tmp_path / "again", "--protocol", small_protocol).exit_code == 0
    for name in ("best.safetensors", "last.safetensors", "calibration.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes(), name


def test_resume_of_a_finished_run_and_refusals(run: Path, small_root: Path, small_protocol: str) -> None:
    before = (run / "metrics.jsonl").read_bytes(), (run / "last.safetensors").read_bytes()
    assert fit(small_root, run, "--protocol", small_protocol, "--resume").exit_code == 0
    for options, words in (
        (("--protocol", small_protocol), "holds a run already; go on with --resume"),
        (("--resume",), "was trained with another class list"),
        (
            ("--protocol", small_protocol, "--resume", "--set", "lr=1"),
            "another settings (train.lr: 0.001, asked for 1.0)",
        ),
    ):
        result = fit(small_root, run, *options)
        assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.output
    assert ((run / "metrics.jsonl").read_bytes(), (run / "last.safetensors").read_bytes()) == before


def test_a_batch_larger_than_the_training_split(small_root: Path, tmp_path: Path) -> None:
    result = fit(small_root, tmp_path / "run", "--batch-size", 64)
    assert result.exit_code == 1 and "fewer samples than one batch of 64" in result.stderr


def test_a_protocol_of_other_classes_is_refused(invoke: Invoke, run: Path, small_root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("seen: [real, mystery]\n")
    result = invoke(evaluate.main, run, "--shards", small_root, "--protocol", other, "--device", "cpu")
    assert result.exit_code == 2 and "the run was trained on sim-fs-gan-near, real, sim-efs-gan-fir" in result.stderr
    other.write_text("seen: [real]\nunseen: [real]\n")
    result = invoke(evaluate.main, run, "--shards", small_root, "--protocol", other)
    assert result.exit_code == 2 and "real is both seen and unseen" in result.stderr


def test_a_folder_that_is_no_run(invoke: Invoke, small_root: Path, tmp_path: Path) -> None:
    result = invoke(evaluate.main, tmp_path, "--shards", small_root, "--device", "cpu")
    assert result.exit_code == 1 and "is no run of bmrl-train" in result.stderr


def test_attribute_agrees_with_the_shards(invoke: Invoke, run: Path, small_source: Path, tmp_path: Path) -> None:
    images = sorted((small_source / "test").rglob("*.*"))[:3]
    (tmp_path / "text.jpg").write_text("no image")
    result = invoke(attribute.main, run, *images, "--json", "--device", "cpu", "--threshold", 0)
    assert result.exit_code == 0
    answers = json.loads(result.stdout)["images"]
    assert [answer["image"] for answer in answers] == [str(path) for path in images]
    for answer in answers:
        shares = list(answer["probabilities"].values())
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1.0)
        assert answer["attributed_to"] == next(iter(answer["probabilities"]))
    unsure = invoke(attribute.main, run, images[0], "--json", "--device", "cpu", "--threshold", 1)
    assert json.loads(unsure.stdout)["images"][0]["attributed_to"] == "unknown source"
    bad = invoke(attribute.main, run, tmp_path / "text.jpg", images[0], "--device", "cpu")
    assert bad.exit_code == 1 and "cannot be read: not an image file" in bad.stdout


def test_an_interrupt_leaves_the_answers_that_were_found(
    invoke: Invoke, run: Path, small_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((small_source / "test").rglob("*.*"))[:3]
    read = attribution.inference_batch

    def interrupted(data: bytes, *rest: Any) -> Any:
        if data == images[2].read_bytes():
            raise KeyboardInterrupt
        return read(data, *rest)

    monkeypatch.setattr(attribution, "inference_batch", interrupted)
    done = invoke(attribute.main, run, *images, "--device", "cpu")
    assert done.exit_code == 130
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [str(path) for path in images[:2]]


def test_detection_over_a_protocol(invoke: Invoke, small_root: Path, small_protocol: str, tmp_path: Path) -> None:
    """Real or fake, trained and evaluated; a source that the shard set lacks is said everywhere."""
    own = tmp_path / "own.yaml"
    own.write_text(
        Path(small_protocol).read_text().replace("unseen: {", "published: {seed: unknown}\nunseen: {DDPM: MID, ")
    )
    result = fit(small_root, tmp_path / "run", "--protocol", f"{own}:detection")
    assert result.exit_code == 0, result.output
    sentence = "warning: the protocol names sources that the shard set lacks: DDPM"
    assert sentence in result.stderr
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["classes"] == ["real", "fake"] and config["data"]["missing_sources"] == ["DDPM"]
    done = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--json", "--device", "cpu")
    assert done.exit_code == 0 and sentence in done.stderr
    document = json.loads(done.stdout)
    assert (document["task"], document["protocol"]) == ("detection", "small:detection")
    assert document["data"]["missing_sources"] == ["DDPM"]
    found = document["detection"]
    assert found["n_real"] == 3 and found["always_fake"]["balanced_accuracy"] == 0.5
    assert {name: facts["part"] for name, facts in found["sources"].items()} == {
        "sim-efs-gan-fir": "seen", "sim-fs-gan-near": "seen", "sim-efs-gan-vq": "unseen",
    }  # fmt: skip
    assert found["unseen_auc"] == found["sources"]["sim-efs-gan-vq"]["auc"]
    assert "DDPM" in (tmp_path / "run/eval/report.html").read_text()
    table = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--device", "cpu").stdout
    assert "missing sources" in table and "real against fake" in table
    assert "published sizes: seed unknown; here: 7 training and 1 to 3 test images a source" in table


def test_what_was_not_trained_on_is_unseen(invoke: Invoke, small_root: Path, tmp_path: Path) -> None:
    """`detection` takes every source of a shard set; of another one only those that the run knows count as seen."""
    result = fit(small_root, tmp_path / "run", "--protocol", "detection")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run/config.json").read_text())
    del config["data"]["n_train"]["sim-efs-gan-fir"]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    done = invoke(evaluate.main, tmp_path / "run", "--shards", small_root, "--json", "--device", "cpu")
    parts = {name: facts["part"] for name, facts in json.loads(done.stdout)["detection"]["sources"].items()}
    assert parts == {"sim-efs-gan-vq": "seen", "sim-fs-gan-near": "seen", "sim-efs-gan-fir": "unseen"}


def test_the_judgement_after_a_training_shows_how_far_it_is(
    small_root: Path, small_protocol: str, tmp_path: Path
) -> None:
    done = fit(small_root, tmp_path / "run", "--protocol", small_protocol)
    assert done.exit_code == 0
    assert [what in done.stderr for what in ("judging the best weights: 100%", "leak controls: 100%")] == [True, True]
