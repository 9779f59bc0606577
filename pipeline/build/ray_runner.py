"""Running the missing tasks on Ray.

A task of a shard writes the columns that need no tool; an actor of a pool, which keeps a tool, writes the column of one
view. Tasks read and write files, no image passes through the object store, and a bounded window of them is in flight.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from .report import BuildError, OnMessage, Tally, one_line
from .serial import limit_threads
from .tasks import CPU, TaskList
from .work import ShardResult, ShardTask, build_views, build_with_tool, trail_path

MAX_ATTEMPTS = 3  # of a task whose worker died, the first included
NODE_DIED = "the Ray node died (out of memory, or killed); what is committed stays, the same command goes on"
VITAL = ("gcs_server", "raylet")  # processes of a local Ray
STALL_S = 600.0  # without any task ending before it is said


def run_on_ray(ray: Any, tasks: TaskList, tally: Tally, *, workers: int | None, on_message: OnMessage) -> None:
    """Write every missing column, in a session of `ray_session`. Raises BuildError."""
    if workers is None:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    _Scheduler(ray, tasks, workers).run(tally, on_message)


class _Scheduler:
    """Submits shards in order: a shard's CPU views first, then its tools before any other shard's CPU views."""

    def __init__(self, ray: Any, tasks: TaskList, workers: int) -> None:
        self._ray, self._tasks, self._workers = ray, tasks, workers
        self._stages = {shard: deque(tasks.stages(shard)) for shard in tasks.missing}  # what is not yet started
        self._cpu = deque(shard for shard, stages in self._stages.items() if stages[0] == CPU)
        self._tooled = deque(shard for shard, stages in self._stages.items() if stages[0] != CPU)
        # Ray starts a waiting CPU task by itself when a core is free; a task of a tool must not wait behind one.
        self._window = workers if any(stages[-1] != CPU for stages in self._stages.values()) else workers + 1
        self._attempts: dict[tuple[str, str], int] = {}
        self._in_flight: dict[Any, tuple[str, str]] = {}  # object reference -> (stage, shard)
        self._actors: dict[str, list[Any]] = {}  # stage -> its pool
        self._idle: dict[str, list[Any]] = {}
        self._actor_of: dict[Any, Any] = {}
        self._cpu_task = ray.remote(num_cpus=1, max_retries=0)(_cpu_views_task)
        self._actor_class = ray.remote(num_cpus=0, max_restarts=0)(_ToolActor)

    def run(self, tally: Tally, on_message: OnMessage) -> None:
        last_end = time.monotonic()
        while self._cpu or self._tooled or self._in_flight:
            self._submit()
            ready, _ = self._ray.wait(list(self._in_flight), num_returns=1, timeout=1.0)
            if ready:
                last_end = time.monotonic()
            else:
                self._check_node()
                if time.monotonic() - last_end > STALL_S:
                    tasks = ", ".join(f"{stage} of shard {shard}" for stage, shard in self._in_flight.values())
                    on_message(f"warning: nothing has ended for {STALL_S / 60:.0f} minutes; still at work: {tasks}")
                    last_end = time.monotonic()
            for reference in ready:
                stage, shard = self._in_flight.pop(reference)
                result = self._collect(reference, stage, shard)
                if result is None:
                    continue
                tally.add(stage, result)
                if self._stages[shard]:
                    self._tooled.append(shard)
            tally.show()

    def _check_node(self) -> None:
        """Ray itself waits for ever when its node process (raylet) is gone, and ends this process, with words of its own, a
        minute after the process that keeps its tables (gcs_server) went."""
        if _lost_processes():
            raise BuildError(NODE_DIED)
        own = self._ray.get_runtime_context().get_node_id()
        if not any(node["NodeID"] == own and node["Alive"] for node in self._ray.nodes()):
            raise BuildError(NODE_DIED)

    def _submit(self) -> None:
        # Tools first: they end whole shards. Actors are made when the first shard is ready for them.
        while self._tooled and len(self._in_flight) < self._window:
            stage = self._stages[self._tooled[0]][0]
            actor = self._free_actor(stage)
            if actor is None:
                break
            shard = self._tooled.popleft()
            self._stages[shard].popleft()
            reference = actor.build.remote(self._tasks.task(shard, stage))
            self._actor_of[reference] = actor
            self._in_flight[reference] = (stage, shard)
        while self._cpu and len(self._in_flight) < self._window:
            shard = self._cpu.popleft()
            self._stages[shard].popleft()
            self._in_flight[self._cpu_task.remote(self._tasks.task(shard, CPU))] = (CPU, shard)

    def _free_actor(self, stage: str) -> Any:
        """An idle actor of a pool, a new one where there is room for it, or None."""
        idle, pool = self._idle.setdefault(stage, []), self._actors.setdefault(stage, [])
        if idle:
            return idle.pop()
        if len(pool) >= self._workers:
            return None
        pool.append(self._actor_class.remote(self._tasks.tools[stage]))
        return pool[-1]

    def _collect(self, reference: Any, stage: str, shard: str) -> ShardResult | None:
        """The result of a task, or None where its worker died and it was put back."""
        ray = self._ray
        actor = self._actor_of.pop(reference, None)
        try:
            result: ShardResult = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            raise BuildError(f"shard {shard}, {stage}: {one_line(cause)}") from error
        except ray.exceptions.LocalRayletDiedError as error:
            raise BuildError(NODE_DIED) from error
        except ray.exceptions.RayError as error:  # the worker died, or its node
            self._check_node()
            attempts = self._attempts[stage, shard] = self._attempts.get((stage, shard), 1) + 1
            if attempts > MAX_ATTEMPTS:
                trail = trail_path(self._tasks.root, stage, shard)
                source = trail.read_text(errors="surrogateescape") if trail.exists() else "no source in particular"
                raise BuildError(
                    f"the worker of {stage} on shard {shard} died {MAX_ATTEMPTS} times (out of memory, killed, or crashed "
                    f"by what it read), the last time at {source}; try fewer --workers, or take the file away"
                ) from error
            if actor is not None:
                self._actors[stage].remove(actor)
            self._stages[shard].appendleft(stage)
            (self._cpu if stage == CPU else self._tooled).appendleft(shard)
            return None
        if actor is not None:
            self._idle[stage].append(actor)
        return result


def _cpu_views_task(task: ShardTask) -> ShardResult:
    limit_threads(1)
    return build_views(task)


class _ToolActor:
    """Keeps one tool open, and computes its view for the shards it is given."""

    def __init__(self, choice: Any) -> None:
        limit_threads(choice.threads)
        self._tool = choice.open()

    def build(self, task: ShardTask) -> ShardResult:
        return build_with_tool(task, self._tool)


def _lost_processes() -> list[str]:
    """Those of a Ray of our own that have ended and that it cannot go on without."""
    from ray._private import worker

    node = worker._global_node  # None where the cluster is somebody else's
    ended = [] if node is None else [kind for kind, _ in node.dead_processes()]
    return [kind for kind in ended if kind in VITAL]
