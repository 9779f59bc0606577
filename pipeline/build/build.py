"""Building a shard set: lock ROOT, resolve the plan, run the missing tasks in this process or on Ray, finish."""

from __future__ import annotations

import time
from contextlib import ExitStack

from ..shards.complete import read_finished
from ..shards.finish import Finished, begin_changes, finalise
from ..shards.plan import PlanError, write_plan
from ..store.local import remove_temporaries
from ..store.lock import NO_LOCKS, RootBusyError, lock_root
from .clear import clear
from .options import BuildOptions, RunSettings
from .ray_runner import run_on_ray
from .ray_session import ray_session
from .report import BuildError, BuildReport, OnMessage, OnProgress, Tally, write_log
from .resolve import resolve
from .serial import run_serial
from .space import check_space, used_bytes
from .tasks import TaskList, missing_views


def build(options: BuildOptions, run: RunSettings, *, on_progress: OnProgress, on_message: OnMessage) -> BuildReport:
    """Build or resume a shard set.

    Raises SourceError, BuildError, ParserError (exit code 1), PlanError (2) and KeyboardInterrupt (130).
    """
    start = time.perf_counter()
    if run.workers == 0 and run.ray_address is not None:
        raise PlanError("--workers 0 builds in this process; leave --ray-address out")
    try:
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
    on_message: OnMessage,
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
    finished = None if intake.is_new or missing else read_finished(options.out, plan)
    with ExitStack() as stack:
        # A Ray that cannot be started or joined leaves ROOT as it was.
        ray = stack.enter_context(ray_session(run)) if missing and run.workers != 0 else None
        if finished is None:
            begin_changes(options.out)
            # On resume the same bytes again, in place of ones that were damaged or edited.
            write_plan(options.out, plan)
        if missing:
            tasks = TaskList(
                root=options.out, source_root=intake.walk.root, plan=plan, missing=missing, tools=intake.tools
            )
            tally = Tally(tasks, report, on_progress)
            if ray is None:
                run_serial(tasks, tally)
            else:
                run_on_ray(ray, tasks, tally, workers=run.workers, on_message=on_message)
    remove_temporaries(options.out)  # of workers that a killed driver left running
    report.finished = finished or finalise(options.out, plan)
    report.seconds = time.perf_counter() - start
    write_log(options.out, report)
    return report
