"""benchmarks/hostile.py: a document is a function of its number, and what is wrong with an answer is seen."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/hostile.py"


def module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        return importlib.import_module(name)


def test_a_number_gives_the_same_document_again() -> None:
    change = module("hostile_mutations")
    document = {"a": [1, 2.5, "x", None, True], "b": {"c": ["y"] * 9, "d": {}}}

    def make(number: int) -> bytes:
        return change.mutate_json(document, random.Random(f"document {number}"), lambda one: json.dumps(one).encode())

    made = [make(number) for number in range(300)]
    assert made == [make(number) for number in range(300)]
    assert len(set(made)) > 200


def test_names_are_all_different_and_fit_a_file(tmp_path: Path) -> None:
    names = [module("hostile_names").name_of(number) for number in range(300)]
    assert len(set(names)) == 300
    for name in names:
        (tmp_path / name).touch()


def answer(name: str, code: int, **said: str) -> tuple[Any, Any]:
    commands = module("hostile_commands")
    return commands.Command("prep", [name, "root"], (0, 1)), commands.Outcome(name, code, **said)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            [
                ("verify", 1, {"stderr": "root: 1 damaged, missing or extra files"}),
                ("head", 1, {"stderr": "error: x\n"}),
            ],
            "",
        ),
        ([("verify", 0, {}), ("head", 1, {"stderr": "error: x\n"})], "verify (plain) says undamaged, head refuses"),
        ([("head", -1, {"error": "KeyError: 'a'"})], "head: traceback"),
        ([("head", 2, {"stderr": "error: x\n"})], "head: exit code 2"),
        ([("head", 1, {"stderr": ""})], "head: 0 sentences with exit code 1"),
        ([("head", 1, {"stderr": "error: 'NoneType' object is not iterable\n"})], "head: Python's words"),
        ([("head", 0, {"stdout": "a\x1b[2J\n"})], "head: unescaped"),
        ([("head", 0, {"stdout": "what stands outside of the folder\n"})], "head: printed what stands outside"),
    ],
)
def test_what_is_wrong_with_an_answer(answers: list[tuple[str, int, dict[str, str]]], expected: str) -> None:
    commands, documents = module("hostile_commands"), module("hostile_documents")
    here = Path()
    box = documents.Box(1, "sidecar", here, here, here, here, here, "raw")
    verdict = commands.Verdict(1, "sidecar", "functions")
    commands.judge(verdict, [answer(name, code, **said) for name, code, said in answers], box)
    assert [finding.startswith(expected) for finding in verdict.findings] == [True] * bool(expected)


def test_a_manifest_that_no_table_holds_is_a_document_too() -> None:
    change = module("hostile_mutations")
    rows = [{"path": f"{number}.png", "generator": "real", "split": "train"} for number in range(3)]
    made = [change.mutate_rows(rows, random.Random(number), "parquet") for number in range(500)]
    assert change.NO_TABLE in made


def test_what_has_no_end_is_tried_again_with_more_time(tmp_path: Path) -> None:
    """Children that sleep 0.2 s when 0.1 s are given, and one that sleeps for ever."""
    hostile = module("hostile")

    class Sleeping(hostile.Children):  # type: ignore[name-defined, misc]
        def _child(self, number: int) -> None:
            time.sleep({1: 0.0, 2: 0.2, 3: 60.0}[number])
            os._exit(0)

    (tmp_path / "jail/boxes").mkdir(parents=True)
    log = hostile.Log(tmp_path / "documents.jsonl")
    hostile.run_documents([1, 2, 3], log, Sleeping(None, tmp_path / "jail", None, 0.1), processes=2)
    log.close()
    assert {one["number"]: one["findings"] for one in log.verdicts} == {1: [], 2: [], 3: ["hang: more than 0 s"]}


@pytest.mark.slow
def test_some_documents_without_a_finding(tmp_path: Path) -> None:
    def run(count: int) -> str:
        command = [sys.executable, str(SCRIPT), "documents", "--work", str(tmp_path), "--documents", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "No finding." in run(30)
    assert "| all | 40 |" in run(40)  # of which 30 were in the log
    assert len((tmp_path / "documents.jsonl").read_text().splitlines()) == 40
