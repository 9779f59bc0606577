"""What a build says: progress while it runs, a report and a log at its end, one sentence where it fails."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..shards.finish import Finished
from ..shards.names import LOG
from ..store.local import write_bytes
from .tasks import TaskList
from .work import ShardResult


class BuildError(RuntimeError):
    """The build cannot go on (exit code 1); the text is one clear sentence."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a progress bar shows."""

    done: int  # samples whose missing views are all committed
    total: int
    dropped: int


@dataclass(kw_only=True)
class BuildReport:
    """What a build did."""

    finished: Finished
    num_planned: int
    computed: int = 0  # (view, shard) columns written now
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)  # summed over workers
    samples_built: int = 0


OnProgress = Callable[[Progress], None]
OnMessage = Callable[[str], None]


class Tally:
    """Counts what a runner has done, for the progress bar and the report."""

    def __init__(self, tasks: TaskList, report: BuildReport, on_progress: OnProgress) -> None:
        self._tasks, self._report, self._on_progress = tasks, report, on_progress
        self._sizes = tasks.plan.shard_sizes()
        self._total = sum(self._sizes[shard] for shard in tasks.missing)
        self._done = self._dropped = 0
        self.show()

    def show(self) -> None:
        """To be called at least once a second where a runner waits: an interrupt that a library swallowed is raised here."""
        self._on_progress(Progress(done=self._done, total=self._total, dropped=self._dropped))

    def add(self, stage: str, result: ShardResult) -> None:
        """A stage of a shard has ended."""
        self._report.computed += len(result.views)
        self._dropped += result.num_dropped
        for name, seconds in result.seconds.items():
            self._report.stage_seconds[name] = self._report.stage_seconds.get(name, 0.0) + seconds
        if stage == self._tasks.stages(result.shard)[-1]:
            self._done += self._sizes[result.shard]
            self._report.samples_built += self._sizes[result.shard]


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def write_log(root: Path, report: BuildReport) -> None:
    """One log a run, outside the shard set's identity."""
    document = {
        "command": sys.argv[1:],
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
        "report": dataclasses.asdict(report),
    }
    path = root / LOG / f"build-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())
