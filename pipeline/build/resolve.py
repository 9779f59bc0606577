"""From what was asked for to a plan: walk the dataset, compare with the plan in ROOT, resolve every view's parameters.

Options that are None were not given: on resume they come from plan.json, otherwise they take the defaults below.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..parsers.choice import ParserChoice, plan_parsing_view
from ..shards.exclude import exclude_rows
from ..shards.finish import TABLES, still_failing
from ..shards.plan import (
    Plan,
    PlanError,
    PlanSettings,
    apply_limit,
    extend_plan,
    new_plan,
    ordered,
    read_plan,
    settings_differences,
)
from ..shards.tars import COLUMN_FILE, read_sidecar
from ..sources import DATASETS, SourceError, SourceRow, Walk
from ..sources.duplicates import Source, check_copies, read_accepted
from ..sources.rows import SPLITS, check_root
from ..store.local import TEMPORARY_PREFIX
from ..taxonomy import Taxonomy
from ..views.column import VIEWS, ViewPlan, plan_edge, plan_image, plan_noise, plan_text
from ..views.image import RESIZE_KERNELS, ImageParams
from ..views.noise import NoiseParams

LABELS = ("generator", "kind", "family", "split", "group")  # of a row, in plan and walk
REMARKS = ("synthetic", "licence")  # of a row as well, but no result depends on them
DEFAULT_PARSER = "bisenet"
DRAWN_PARSER = "bisenet-lite"  # only the embedded dataset defaults to it


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What `bmrl-prep build` was asked for; None: not given."""

    dataset: str
    out: Path
    source_root: Path | None = None
    views: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    limit: int | None = None
    shard_size: int | None = None
    seed: int | None = None
    resize: str | None = None
    codec: str | None = None
    patch_size: int | None = None
    parser: str | None = None
    parser_engine: str | None = None
    generators: Path | None = None
    retry_failed: bool = False
    extend: bool = False
    replace: tuple[str, ...] = ()
    overwrite: bool = False
    accept_duplicates: Path | None = None
    exclude: Path | None = None
    exclude_licences: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Intake:
    """A resolved plan with what was found on disk."""

    plan: Plan
    walk: Walk
    parser: ParserChoice | None
    is_new: bool  # the plan is not yet what plan.json says


def resolve(options: BuildOptions) -> Intake:
    """Raises SourceError (exit 1), PlanError (exit 2) or ParserError (exit 1); writes nothing."""
    existing = None if options.overwrite else read_plan(options.out)
    if existing is None and not options.overwrite:
        _check_empty(options.out)
    settings = _settings(options, existing)
    if existing and (differences := settings_differences(existing, settings)):
        raise PlanError(_refusal(options.out, differences, "build into another --out, or start anew with --overwrite"))
    if not DATASETS[options.dataset].drawn:
        check_root(options.source_root, options.dataset)  # before weights are fetched
    views, parser = _views(options, existing)
    walk = DATASETS[options.dataset].walk(options.source_root, Taxonomy.load(options.generators))
    exclude_rows(walk, licences=options.exclude_licences, file=options.exclude)
    before = existing.views if existing else {}
    if same := [name for name in options.replace if name in before and before[name].digest == views[name].digest]:
        walk.warnings.append(f"--replace {', '.join(ordered(same))}: the plan has these settings already")
    if (options.parser or options.parser_engine) and "parsing" not in views:
        walk.warnings.append("--parser and --parser-engine are of the parsing view, which is not built here")
    if existing is None:
        plan = new_plan(walk.rows, settings, views)
        if not plan.rows.num_rows:
            raise SourceError(f"{walk.root} has no images in the splits {', '.join(settings.splits)}")
        _check_duplicates(plan, walk, options, num_planned=0)
        return Intake(plan=plan, walk=walk, parser=parser, is_new=True)
    plan = Plan(settings=existing.settings, views=views, segments=existing.segments, rows=existing.rows)
    plan = _follow_sources(plan, walk, options)
    _check_duplicates(plan, walk, options, num_planned=existing.rows.num_rows)
    if options.retry_failed:
        plan = _retry_failed(plan, existing, walk, options.out)
    return Intake(plan=plan, walk=walk, parser=parser, is_new=plan.document() != existing.document())


def _settings(options: BuildOptions, existing: Plan | None) -> PlanSettings:
    base = existing.settings if existing else PlanSettings(dataset=options.dataset)
    given = {
        name: getattr(options, name)
        for name in ("seed", "shard_size", "splits", "limit")
        if getattr(options, name) is not None
    }
    if options.splits is not None:  # a set: in any order, and twice, they are the same
        given["splits"] = tuple(split for split in SPLITS if split in options.splits)
    return PlanSettings(**{**asdict(base), **given, "dataset": options.dataset})


def _views(options: BuildOptions, existing: Plan | None) -> tuple[dict[str, ViewPlan], ParserChoice | None]:
    """Every view's plan: the ones in ROOT and the ones asked for. Raises PlanError where one differs and is not replaced."""
    before = existing.views if existing else {}
    asked = options.views or (tuple(before) if before else VIEWS)
    names = ordered({"image", *asked, *before})
    codec_set = options.codec or _codec_set(before) or "raw"
    planned: dict[str, ViewPlan] = {}
    parser: ParserChoice | None = None
    image_params = ImageParams(**before["image"].params) if "image" in before else ImageParams()
    if options.resize is not None:
        image_params = ImageParams(**{**asdict(image_params), "resize": options.resize})
    noise_params = NoiseParams(**before["noise"].params) if "noise" in before else NoiseParams()
    if options.patch_size is not None:
        if "noise" not in names:
            raise PlanError(
                f"--patch-size {options.patch_size} is of the noise view, which is not built here; add it to --views"
            )
        noise_params = NoiseParams(**{**asdict(noise_params), "patch_size": options.patch_size})
    make: dict[str, Callable[[], ViewPlan]] = {
        "image": lambda: plan_image(image_params, codec_set),
        "edge": lambda: plan_edge(planned["image"], codec_set),
        "noise": lambda: plan_noise(noise_params, planned["image"], codec_set),
        "text": plan_text,
    }
    for name in names:
        if name == "parsing":
            default = DRAWN_PARSER if DATASETS[options.dataset].drawn else DEFAULT_PARSER
            planned[name], parser = plan_parsing_view(
                options.parser, options.parser_engine, before.get("parsing"), codec_set, default
            )
        else:
            planned[name] = make[name]()
    _check_replacements(options, before, planned)
    return planned, parser


def _check_replacements(options: BuildOptions, before: dict[str, ViewPlan], planned: dict[str, ViewPlan]) -> None:
    differing = [name for name in before if before[name].digest != planned[name].digest]
    refused = [name for name in differing if name not in options.replace]
    if refused:
        lines = [f"view {name}: {_view_difference(before[name], planned[name])}" for name in refused]
        flags = " ".join(f"--replace {name}" for name in ordered(differing))
        raise PlanError(_refusal(options.out, lines, f"give the same options, or replace the columns with {flags}"))


def _view_difference(old: ViewPlan, new: ViewPlan) -> str:
    if old.reads != new.reads:
        return "it reads the image column, which changes"
    for name in sorted({*old.params, *new.params}):
        if old.params.get(name) != new.params.get(name):
            return f"the plan has {name} {old.params.get(name)!r}, asked for {new.params.get(name)!r}"
    if old.codec != new.codec:
        return f"the plan has codec {old.codec}, asked for {new.codec}"
    if old.version != new.version or old.weights_sha256 != new.weights_sha256:
        return "its code version or weights changed"
    return "a library here computes something else than the one that built it (the probe differs)"


def _codec_set(before: dict[str, ViewPlan]) -> str | None:
    if "image" not in before:
        return None
    return "raw" if before["image"].suffix == "npy" else "png"


def _follow_sources(plan: Plan, walk: Walk, options: BuildOptions) -> Plan:
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
        raise PlanError(_refusal(options.out, lines, advice))
    if new and not options.extend:
        lines = _listed(sorted(f"{row.path} came in since the plan" for row in new))
        raise PlanError(_refusal(options.out, lines, "take them in with --extend"))
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


def _check_duplicates(plan: Plan, walk: Walk, options: BuildOptions, *, num_planned: int) -> None:
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


def _retry_failed(plan: Plan, existing: Plan, walk: Walk, root: Path) -> Plan:
    """Sources whose last attempt failed become new rows at the end of `plan`, one round further.

    What failed is known of the shards of `existing`; a round that was interrupted goes on, and none is added to it.
    """
    if existing.segments[-1].cause == "retry" and not (root / "dataset.json").exists():
        return plan
    if not all(read_sidecar(root, "image", shard) for shard in existing.shards):
        raise PlanError(f"the build in {root} is not complete yet; run it to its end before --retry-failed")
    failing = still_failing(root, existing)
    by_attempt: dict[int, list[SourceRow]] = {}
    for row in walk.rows:
        if row.path in failing:
            by_attempt.setdefault(failing[row.path] + 1, []).append(row)
    for attempt, rows in sorted(by_attempt.items()):
        plan = extend_plan(plan, rows, cause="retry", attempt=attempt)
    return plan


def _check_empty(out: Path) -> None:
    found = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    # plan.parquet alone: killed between plan.parquet and plan.json
    if {name for name in found if not name.startswith(TEMPORARY_PREFIX)} - {".log", "plan.parquet"}:
        raise PlanError(f"--out {out} is not empty and holds no shard set; give another folder, or --overwrite")


def clear(out: Path) -> None:
    """`--overwrite`: remove what a build writes, and refuse to remove anything else."""
    if not out.exists():
        return
    ours = {*VIEWS, *TABLES, "SHA256SUMS", ".log"}
    entries = [entry for entry in out.iterdir() if not entry.name.startswith(TEMPORARY_PREFIX)]
    foreign = sorted(
        [entry.name for entry in entries if entry.name not in ours]
        + [
            f"{folder.name}/{entry.name}"
            for folder in entries
            if folder.name in VIEWS and folder.is_dir()
            for entry in folder.iterdir()
            if not entry.name.startswith(TEMPORARY_PREFIX) and not COLUMN_FILE.fullmatch(f"{folder.name}/{entry.name}")
        ]
    )
    if foreign:
        raise PlanError(f"--overwrite would delete {foreign[0]!r} in {out}, which no build wrote; remove it by hand")
    for name in ("dataset.json", "plan.json"):  # first what makes it a shard set
        (out / name).unlink(missing_ok=True)
    for entry in out.iterdir():
        if entry.name == ".log":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _listed(lines: list[str]) -> list[str]:
    return lines[:5] + ([f"... and {len(lines) - 5} more"] if len(lines) > 5 else [])


def _refusal(out: Path, lines: list[str], advice: str) -> str:
    return f"{out} was planned differently: " + "; ".join(lines) + f". {advice[0].upper()}{advice[1:]}."


def check_names(
    *,
    dataset: str,
    views: tuple[str, ...] | None,
    splits: tuple[str, ...] | None,
    resize: str | None,
    replace: tuple[str, ...],
) -> None:
    """Names that the command line passes on. Raises PlanError (exit 2) naming the known ones."""
    for name, value, known in (
        ("--dataset", (dataset,), tuple(DATASETS)),
        ("--views", views or (), VIEWS),
        ("--splits", splits or (), SPLITS),
        ("--resize", (resize,) if resize is not None else (), tuple(RESIZE_KERNELS)),
        ("--replace", replace, VIEWS),
    ):
        if not value and (name, value) in (("--views", views), ("--splits", splits)):
            raise PlanError(f"{name} names nothing; known are {', '.join(known)}")
        for one in value:
            if one not in known:
                raise PlanError(f"unknown {name} {one!r}; known are {', '.join(known)}")
