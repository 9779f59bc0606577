"""Running the missing (view, shard) tasks of a plan on Ray. The only module that imports ray.

One task a shard writes its image, edge, noise and text columns; an actor of a pool, which keeps the network, writes its
parsing column. Tasks read and write files, no image passes through the object store, and a bounded window of them is
in flight.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import select
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..parsers.choice import TASK_BATCH, ParserChoice
from ..shards.finish import Finished, begin_changes, finalise, is_finished
from ..shards.plan import Plan, write_plan
from ..store.local import NO_LOCKS, RootBusyError, lock_root, remove_temporaries
from ..views.column import ARRAYS, ViewPlan
from .resolve import BuildOptions, Intake, clear, resolve
from .work import (
    ShardResult,
    ShardTask,
    build_cpu_views,
    build_parsing,
    build_parsing_from_maps,
    missing_views,
    trail_path,
)

MAX_ATTEMPTS = 3  # of a task whose worker died, the first included
NODE_DIED = "the Ray node died (out of memory, or killed); what is committed stays, the same command goes on"
STALL_S = 600.0  # without any task ending before it is said
TEXT_BYTES = 1100  # of a sample's two text members, roughly, for the estimate
SCORE_BYTES = 30  # of one patch's score in sidecar and index, roughly, for the estimate
MEMBER_OVERHEAD = 1024  # tar header and padding, roughly, for the estimate


class BuildError(RuntimeError):
    """The build cannot go on (exit code 1); the text is one clear sentence."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How to run; nothing of it decides a byte."""

    workers: int | None = None  # None: every core of this machine, or of the cluster
    ray_address: str | None = None  # None: a local Ray of our own


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


def build(
    options: BuildOptions, run: RunSettings, *, on_progress: OnProgress, on_message: Callable[[str], None]
) -> BuildReport:
    """Build or resume a shard set.

    Raises SourceError, BuildError, ParserError (exit code 1), PlanError (2) and KeyboardInterrupt (130).
    """
    start = time.perf_counter()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with lock_root(options.out) as held:
            if not held:
                on_message(NO_LOCKS.format(folder=options.out))
            return _build_locked(options, run, on_progress, on_message, start)
    except RootBusyError as error:
        raise BuildError(str(error)) from None
    except OSError as error:
        where = error.filename or options.out
        raise BuildError(f"cannot write {where}: {error.strerror or error}") from error


def _build_locked(
    options: BuildOptions,
    run: RunSettings,
    on_progress: OnProgress,
    on_message: Callable[[str], None],
    start: float,
) -> BuildReport:
    intake = resolve(options)
    for warning in intake.walk.warnings:
        on_message(f"warning: {warning}")
    for reason, count in sorted(intake.walk.unused.items()):
        on_message(f"left out: {count} files ({reason})")
    plan = intake.plan
    rows_per_shard = plan.shard_sizes()
    if options.overwrite:  # once it is known that there is something to put in its place, and room for it
        missing = {shard: set(plan.views) for shard in plan.shards}
        check_space(options.out, plan, rows_per_shard, missing, freed=used_bytes(options.out))
        clear(options.out)
    else:
        missing = {shard: missing_views(options.out, shard, plan.views) for shard in plan.shards}
        missing = {shard: views for shard, views in missing.items() if views}
        check_space(options.out, plan, {shard: rows_per_shard[shard] for shard in missing}, missing)
    remove_temporaries(options.out)  # not in a folder that `resolve` refuses: there they are somebody else's
    report = BuildReport(finished=Finished(num_samples=0, num_dropped=0, num_bytes=0), num_planned=plan.rows.num_rows)
    complete = not (intake.is_new or missing) and is_finished(options.out, plan)
    if not complete:
        begin_changes(options.out)
        write_plan(options.out, plan)  # on resume the same bytes again, in place of ones that were damaged or edited
    if missing:
        _run_tasks(options.out, intake, missing, run, on_progress, on_message, report)
    remove_temporaries(options.out)  # of workers that a killed driver left running
    report.finished = _describe(options.out) if complete else finalise(options.out, plan)
    report.seconds = time.perf_counter() - start
    _write_log(options.out, report)
    return report


def _describe(root: Path) -> Finished:
    document = json.loads((root / "dataset.json").read_bytes())
    return Finished(
        num_samples=document["counts"]["samples"],
        num_dropped=document["counts"]["dropped"],
        num_bytes=sum(sum(shard["bytes"].values()) for shard in document["shards"]),
    )


def estimate_bytes(views: dict[str, ViewPlan]) -> dict[str, int]:
    """Bytes a sample of each column, as raw arrays (an upper bound for the png codec)."""
    sizes = {"text": TEXT_BYTES}
    for name, plan in views.items():
        if array := plan.array:
            sizes[name] = np.dtype(array["dtype"]).itemsize * math.prod(array["shape"])
    if "noise" in views:  # at small patches their scores are most of it
        sizes["noise"] += SCORE_BYTES * (ARRAYS["image"]["shape"][0] // views["noise"].params["patch_size"]) ** 2
    return {name: sizes[name] + MEMBER_OVERHEAD for name in views}


def check_space(root: Path, plan: Plan, rows: dict[str, int], missing: dict[str, set[str]], *, freed: int = 0) -> None:
    """Compare the estimate with the free space, and with what will be `freed`. Raises BuildError."""
    per_sample = estimate_bytes(plan.views)
    needed = sum(rows[shard] * per_sample[view] for shard, views in missing.items() for view in views)
    free = free_bytes(root) + freed
    if needed > free:
        raise BuildError(
            f"the build needs about {needed / 1e9:.2f} GB and {root} has {free / 1e9:.2f} GB free; "
            "free some space, or use --limit, fewer --views or --codec png"
        )


def used_bytes(folder: Path) -> int:
    """That are free once a folder is deleted: of files that have no second name elsewhere."""
    found = [path.lstat() for path in folder.rglob("*") if path.is_file()]
    return sum(file.st_size for file in found if file.st_nlink == 1)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _run_tasks(
    root: Path,
    intake: Intake,
    missing: dict[str, set[str]],
    run: RunSettings,
    on_progress: OnProgress,
    on_message: Callable[[str], None],
    report: BuildReport,
) -> None:
    with _ray_session(run) as ray:
        workers = run.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        scheduler = _Scheduler(ray, root, intake, missing, workers)
        scheduler.run(on_progress, on_message, report)


class _Scheduler:
    """Submits shards in order: a shard's CPU views first, then its parsing before any other shard's CPU views."""

    def __init__(self, ray: Any, root: Path, intake: Intake, missing: dict[str, set[str]], workers: int) -> None:
        self._ray, self._root, self._intake, self._missing, self._workers = ray, root, intake, missing, workers
        self._plan_id = intake.plan.id
        self._cpu = deque(shard for shard, views in missing.items() if views - {"parsing"})
        self._parse = deque(shard for shard, views in missing.items() if views == {"parsing"})
        # Ray starts a waiting CPU task by itself when a core is free; a parsing task must not wait behind one.
        self._window = workers if any("parsing" in views for views in missing.values()) else workers + 1
        self._attempts: dict[tuple[str, str], int] = {}
        self._in_flight: dict[Any, tuple[str, str]] = {}  # object reference -> (stage, shard)
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._actor_of: dict[Any, Any] = {}
        self._cpu_task = ray.remote(num_cpus=1, max_retries=0)(_cpu_views_task)
        self._actor_class = ray.remote(num_cpus=0, max_restarts=0)(_ParsingActor)

    def run(self, on_progress: OnProgress, on_message: Callable[[str], None], report: BuildReport) -> None:
        rows = self._intake.plan.shard_sizes()
        total = sum(rows[shard] for shard in self._missing)
        done = dropped = 0
        last_end = time.monotonic()
        on_progress(Progress(done=0, total=total, dropped=0))
        while self._cpu or self._parse or self._in_flight:
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
                report.computed += len(result.views)
                dropped += result.num_dropped
                for name, seconds in result.seconds.items():
                    report.stage_seconds[name] = report.stage_seconds.get(name, 0.0) + seconds
                if stage == "cpu" and "parsing" in self._missing[shard]:
                    self._parse.append(shard)
                else:
                    done += rows[shard]
            on_progress(Progress(done=done, total=total, dropped=dropped))
        report.samples_built = total

    def _check_node(self) -> None:
        """Ray itself waits for ever when its node process (raylet) is gone."""
        own = self._ray.get_runtime_context().get_node_id()
        if not any(node["NodeID"] == own and node["Alive"] for node in self._ray.nodes()):
            raise BuildError(NODE_DIED)

    def _submit(self) -> None:
        # Parsing first: it ends whole shards. Actors are made when the first shard is ready for them.
        while self._parse and len(self._in_flight) < self._window:
            if not self._idle:
                if len(self._actors) >= self._workers:
                    break
                actor = self._actor_class.remote(self._intake.parser, self._intake.plan.views["parsing"])
                self._actors.append(actor)
                self._idle.append(actor)
            actor, shard = self._idle.pop(), self._parse.popleft()
            reference = actor.build.remote(self._task(shard, ("parsing",)))
            self._actor_of[reference] = actor
            self._in_flight[reference] = ("parsing", shard)
        while self._cpu and len(self._in_flight) < self._window:
            shard = self._cpu.popleft()
            views = tuple(view for view in ("image", "edge", "noise", "text") if view in self._missing[shard])
            self._in_flight[self._cpu_task.remote(self._task(shard, views))] = ("cpu", shard)

    def _collect(self, reference: Any, stage: str, shard: str) -> ShardResult | None:
        """The result of a task, or None where its worker died and it was put back."""
        ray = self._ray
        actor = self._actor_of.pop(reference, None)
        try:
            result: ShardResult = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, BaseException) else error
            raise BuildError(f"shard {shard}, {stage}: {_one_line(cause)}") from error
        except ray.exceptions.LocalRayletDiedError as error:
            raise BuildError(NODE_DIED) from error
        except ray.exceptions.RayError as error:  # the worker died, or its node
            self._check_node()
            attempts = self._attempts[stage, shard] = self._attempts.get((stage, shard), 1) + 1
            if attempts > MAX_ATTEMPTS:
                trail = trail_path(self._root, stage, shard)
                source = trail.read_text(errors="surrogateescape") if trail.exists() else "no source in particular"
                raise BuildError(
                    f"the worker of {stage} on shard {shard} died {MAX_ATTEMPTS} times (out of memory, killed, or crashed "
                    f"by what it read), the last time at {source}; try fewer --workers, or take the file away"
                ) from error
            if actor is not None:
                self._actors.remove(actor)
            (self._parse if stage == "parsing" else self._cpu).appendleft(shard)
            return None
        if actor is not None:
            self._idle.append(actor)
        return result

    def _task(self, shard: str, views: tuple[str, ...]) -> ShardTask:
        plan = self._intake.plan
        rows = plan.shard_rows(shard).to_pylist()
        return ShardTask(
            root=self._root.resolve(),
            source_root=self._intake.walk.root,
            shard=shard,
            rows=rows,
            plans=plan.views,
            views=views,
            plan_id=self._plan_id,
        )


def _cpu_views_task(task: ShardTask) -> ShardResult:
    _limit_threads(1)
    return build_cpu_views(task)


class _ParsingActor:
    """Keeps one network, and parses the shards it is given."""

    def __init__(self, choice: ParserChoice | None, plan: ViewPlan) -> None:
        assert choice is not None
        _limit_threads(int(plan.params["threads"]))
        self._choice = choice
        self._parser = None if choice.uses_maps else choice.open()

    def build(self, task: ShardTask) -> ShardResult:
        if self._parser is None:
            return build_parsing_from_maps(task, self._choice.read_map)
        return build_parsing(task, self._parser.parse, TASK_BATCH)


def _limit_threads(count: int) -> None:
    import cv2
    import torch

    cv2.setNumThreads(count)
    torch.set_num_threads(count)


@contextmanager
def _ray_session(run: RunSettings) -> Iterator[Any]:
    """A Ray of our own, or the cluster at `ray_address`; shut down on the way out."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # every error is raised here, once
    # Else ray.init waits for workers of its own accord, and for ever when one of them is killed before it has registered.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    import logging

    import ray

    local = run.ray_address is None
    try:
        with _own_sigterm():
            ray.init(
                address="local" if local else run.ray_address,
                num_cpus=(run.workers or os.cpu_count()) if local else None,
                object_store_memory=100 * 2**20 if local else None,  # tasks pass paths and rows, never images
                include_dashboard=False if local else None,
                configure_logging=True,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:  # Ray raises plain ones too, as when its node dies while it starts
        raise BuildError(f"Ray cannot be started or reached: {_one_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Around ray.init, which takes SIGTERM over: one that comes meanwhile is delivered to the handler from before.

    Ray's handler raises SystemExit, and an exception from a handler is lost where Python can only print it, as in what
    runs after a fork: the wakeup descriptor, which the interpreter itself writes to, loses none.
    """
    if threading.current_thread() is not threading.main_thread():  # Ray leaves it alone there
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    heard, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    previous = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        yield
        signal.signal(signal.SIGTERM, handler)  # runs what is pending first, still with Ray's handler
    except SystemExit:  # what Ray's handler does
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(previous)
        os.close(wakeup)
        numbers = os.read(heard, 1024) if select.select([heard], [], [], 0)[0] else b""
        os.close(heard)
        if signal.SIGTERM in numbers:
            signal.raise_signal(signal.SIGTERM)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _write_log(root: Path, report: BuildReport) -> None:
    """One log a run, outside the shard set's identity."""
    document = {
        "command": sys.argv[1:],
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
        "report": dataclasses.asdict(report),
    }
    path = root / ".log" / f"build-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
