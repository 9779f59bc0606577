"""`--workers 0`: the tasks one after another in this process, without Ray; the same bytes, and a debugger can step in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .report import BuildError, Tally, one_line
from .tasks import CPU, TaskList
from .work import ShardResult, build_views, build_with_tool


def run_serial(tasks: TaskList, tally: Tally) -> None:
    """Write every missing column. Raises BuildError with the sentence that a Ray worker's error would give."""
    tools: dict[str, Any] = {}  # stage -> its tool, opened once
    for shard in tasks.missing:
        for stage in tasks.stages(shard):
            try:
                result = _run_stage(tasks, shard, stage, tools)
            except Exception as error:  # whatever a view or a library raises, as from a worker
                raise BuildError(f"shard {shard}, {stage}: {one_line(error)}") from error
            tally.add(stage, result)
            tally.show()


def _run_stage(tasks: TaskList, shard: str, stage: str, tools: dict[str, Any]) -> ShardResult:
    task = tasks.task(shard, stage)
    if stage == CPU:
        with limited_threads(1):
            return build_views(task)
    choice = tasks.tools[stage]
    with limited_threads(choice.threads):
        if stage not in tools:
            tools[stage] = choice.open()
        return build_with_tool(task, tools[stage])


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """OpenCV and torch with `count` threads, and what they had before put back."""
    import cv2
    import torch

    before = cv2.getNumThreads(), torch.get_num_threads()
    limit_threads(count)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


def limit_threads(count: int) -> None:
    """OpenCV and torch with `count` threads from now on."""
    import cv2
    import torch

    cv2.setNumThreads(count)
    torch.set_num_threads(count)
