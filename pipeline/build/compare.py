"""What was asked for against the plan in ROOT: sources that came, went or changed, and views of other settings."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..shards.finish import still_failing
from ..shards.names import DATASET_JSON
from ..shards.plan import Plan, PlanError
from ..shards.planning import apply_limit, extend_plan
from ..shards.tars import read_sidecar
from ..sources import SourceRow, Walk
from ..sources.duplicates import Source, check_copies, read_accepted
from ..views import VIEWS
from ..views.column import ViewPlan, ordered
from ..views.view import rows_view
from .options import BuildOptions

LABELS = ("generator", "kind", "family", "split", "group")  # of a row, in plan and walk
REMARKS = ("synthetic", "licence")  # of a row as well, but no result depends on them


def follow_sources(plan: Plan, walk: Walk, options: BuildOptions) -> Plan:
    """Compare the walked sources with the planned ones; `--extend` takes in new ones, anything else is refused."""
    chosen = {row.path: row for row in walk.rows if row.split in plan.settings.splits}
    labels = attrgetter(*LABELS)
    columns = (plan.rows[name].to_pylist() for name in ("source_path", *LABELS))
    planned = {path: tuple(values) for path, *values in zip(*columns, strict=True)}
    gone = sorted(path for path in planned if path not in chosen)
    moved = sorted(path for path, values in planned.items() if path in chosen and values != labels(chosen[path]))
    new = [row for path, row in chosen.items() if path not in planned]
    new = _within_limit(plan, new)
    if gone or moved:
        lines = _listed([f"{path} was planned and is gone, or is left out now" for path in gone]) + _listed(
            [f"{path} changed its {_changed(LABELS, planned[path], labels(chosen[path]))}" for path in moved]
        )
        advice = "restore them (and give the same --generators), build into another --out, or use --overwrite"
        raise PlanError(refusal(options.out, lines, advice))
    if new and not options.extend:
        lines = _listed(sorted(f"{row.path} came in since the plan" for row in new))
        raise PlanError(refusal(options.out, lines, "take them in with --extend"))
    _check_remarks(plan, walk, chosen)
    return extend_plan(plan, new, cause="extend") if new else plan


def _check_remarks(plan: Plan, walk: Walk, chosen: dict[str, SourceRow]) -> None:
    """A licence may be worded anew, in a manifest or by a newer version: that is said, and refuses nothing."""
    remarks = attrgetter(*REMARKS)
    columns = (plan.rows[name].to_pylist() for name in ("source_path", *REMARKS))
    stale = [(path, tuple(old)) for path, *old in zip(*columns, strict=True) if tuple(old) != remarks(chosen[path])]
    if stale:
        path, old = stale[0]
        walk.warnings.append(
            f"{len(stale)} planned sources changed, the shard set keeps what was planned (--overwrite starts anew): {path} "
            f"changed its {_changed(REMARKS, old, remarks(chosen[path]))}"
        )


def _changed(names: tuple[str, ...], before: tuple[Any, ...], now: tuple[Any, ...]) -> str:
    return ", ".join(
        f"{name} (it was {old!r}, now {new!r})" for name, old, new in zip(names, before, now, strict=True) if old != new
    )


def check_duplicates(plan: Plan, walk: Walk, options: BuildOptions, *, num_planned: int) -> None:
    """Byte-identical files in different splits are refused; the first `num_planned` rows were compared when they came in."""
    accepted = read_accepted(options.accept_duplicates, {row.path for row in walk.rows})
    if plan.rows.num_rows == num_planned:
        return
    rows = zip(plan.rows["source_path"].to_pylist(), plan.rows["split"].to_pylist(), strict=True)
    sources = [Source(path=path, part=split, is_new=n >= num_planned) for n, (path, split) in enumerate(rows)]
    if count := check_copies(sources, walk.root, accepted):
        walk.warnings.append(
            f"{count} files have a byte-identical copy in another split, accepted by --accept-duplicates"
        )


def _within_limit(plan: Plan, new: list[SourceRow]) -> list[SourceRow]:
    if not plan.settings.limit:
        return new
    taken = Counter(zip(plan.rows["generator"].to_pylist(), plan.rows["split"].to_pylist(), strict=True))
    kept = []
    for row in apply_limit(new, plan.settings):
        if taken[row.generator, row.split] < plan.settings.limit:
            taken[row.generator, row.split] += 1
            kept.append(row)
    return kept


def retry_failed(plan: Plan, existing: Plan, walk: Walk, root: Path) -> Plan:
    """Sources whose last attempt failed become new rows at the end of `plan`, one round further.

    What failed is known of the shards of `existing`; a round that was interrupted goes on, and none is added to it.
    """
    if existing.segments[-1].cause == "retry" and not (root / DATASET_JSON).exists():
        return plan
    if not all(read_sidecar(root, rows_view(VIEWS).name, shard) for shard in existing.shards):
        raise PlanError(f"the build in {root} is not complete yet; run it to its end before --retry-failed")
    failing = still_failing(root, existing)
    by_attempt: dict[int, list[SourceRow]] = {}
    for row in walk.rows:
        if row.path in failing:
            by_attempt.setdefault(failing[row.path] + 1, []).append(row)
    for attempt, rows in sorted(by_attempt.items()):
        plan = extend_plan(plan, rows, cause="retry", attempt=attempt)
    return plan


def check_replacements(options: BuildOptions, before: dict[str, ViewPlan], planned: dict[str, ViewPlan]) -> None:
    """Raises PlanError where a view of the plan would be another one, and is not to be replaced."""
    differing = [name for name in before if before[name].digest != planned[name].digest]
    refused = [name for name in differing if name not in options.replace]
    if refused:
        lines = [f"view {name}: {_view_difference(before[name], planned[name])}" for name in refused]
        flags = " ".join(f"--replace {name}" for name in ordered(differing))
        raise PlanError(refusal(options.out, lines, f"give the same options, or replace the columns with {flags}"))


def _view_difference(old: ViewPlan, new: ViewPlan) -> str:
    if old.reads != new.reads:
        return f"it reads the {rows_view(VIEWS).name} column, which changes"
    for name in sorted({*old.params, *new.params}):
        if old.params.get(name) != new.params.get(name):
            return f"the plan has {name} {old.params.get(name)!r}, asked for {new.params.get(name)!r}"
    if old.codec != new.codec:
        return f"the plan has codec {old.codec}, asked for {new.codec}"
    if old.version != new.version or old.weights_sha256 != new.weights_sha256:
        return "its code version or weights changed"
    return "a library here computes something else than the one that built it (the probe differs)"


def _listed(lines: list[str]) -> list[str]:
    return lines[:5] + ([f"... and {len(lines) - 5} more"] if len(lines) > 5 else [])


def refusal(out: Path, lines: list[str], advice: str) -> str:
    """The sentence that ends a build whose plan is another one."""
    return f"{out} was planned differently: " + "; ".join(lines) + f". {advice[0].upper()}{advice[1:]}."
