"""The short form of benchmarks/kill_matrix.py: killed and interrupted builds lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_builds_lose_nothing(tmp_path: Path) -> None:
    script, log = Path(__file__).parents[3] / "benchmarks/kill_matrix.py", tmp_path / "trials.jsonl"
    command = [sys.executable, str(script), "--random", "1", "--steps", "1", "--samples", "15", "--log", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = [json.loads(line) for line in log.read_text().splitlines()]
    assert [trial["problems"] for trial in trials if trial["problems"]] == []
    assert len({trial["fault"] for trial in trials}) == 4
    assert len(trials) == 4 * (1 + 1)
