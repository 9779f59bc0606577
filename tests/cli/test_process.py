"""What a command sets for its own process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has these settings")

# Rounds as of training steps: several large tensors live at once, then all are freed.
SCRIPT = """
import resource, sys, torch
from bmrl.cli.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for round in range(10):
    if round == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(40 << 20, dtype=torch.uint8) for _ in range(4)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, **variables: str) -> int:
    """Page faults of the last five rounds."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode], env={**plain, **variables}, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_freed_memory_is_used_again_without_faults_unless_the_user_set_malloc() -> None:
    default, kept = faults("default"), faults("keep")
    own = faults("keep", MALLOC_MMAP_MAX_="1000", MALLOC_TRIM_THRESHOLD_="0")
    assert kept < default / 2
    assert own > default / 2
