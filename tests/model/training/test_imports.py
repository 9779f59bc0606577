"""What a training does not import."""

from __future__ import annotations

import subprocess
import sys


def test_a_training_does_without_scikit_learn_and_matplotlib() -> None:
    """They cost a second at every start; evaluation alone needs them."""
    code = "import sys; from bmrl.model.runs import train; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"torch", "bmrl"} <= loaded
    assert not loaded & {"sklearn", "matplotlib", "ray"}
