"""From what was asked for to a plan: walk the dataset, compare with the plan in ROOT, resolve every view's parameters.

Options that are None were not given: on resume they come from plan.json, otherwise they take the defaults below.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..parsers.choice import ParserChoice, choose_parser, engine_warning
from ..parsers.errors import UnnamedParserError
from ..shards.exclude import exclude_rows
from ..shards.plan import Plan, PlanError, PlanSettings, read_plan, settings_differences
from ..shards.planning import new_plan
from ..sources import DATASETS, SourceError, Walk
from ..sources.grouping import Grouping
from ..sources.rows import SPLITS, check_root
from ..taxonomy import Taxonomy
from ..views import VIEWS
from ..views.column import ViewPlan, codec_set_of, ordered, plan_view
from ..views.view import View, rows_view
from .clear import check_empty
from .compare import check_duplicates, check_replacements, follow_sources, refusal, retry_failed
from .options import BuildOptions

DEFAULT_PARSER = "bisenet"
DRAWN_PARSER = "bisenet-lite"  # only the embedded dataset defaults to it


@dataclass(frozen=True, kw_only=True)
class Intake:
    """A resolved plan with what was found on disk."""

    plan: Plan
    walk: Walk
    tools: dict[str, ParserChoice]  # of the views that need one
    is_new: bool  # the plan is not yet what plan.json says


def resolve(options: BuildOptions) -> Intake:
    """Raises SourceError (exit 1), PlanError (exit 2) or ParserError (exit 1); writes nothing."""
    existing = None if options.overwrite else read_plan(options.out)
    if existing is None and not options.overwrite:
        check_empty(options.out)
    settings = _settings(options, existing)
    if existing and (differences := settings_differences(existing, settings)):
        raise PlanError(refusal(options.out, differences, "build into another --out, or start anew with --overwrite"))
    if not DATASETS[options.dataset].drawn:
        check_root(options.source_root, options.dataset)  # before weights are fetched
    views, tools = _views(options, existing)
    walk = _walk(options, settings, existing)
    if not options.skip_links:
        walk.check_links()
    exclude_rows(walk, licences=options.exclude_licences, file=options.exclude)
    before = existing.views if existing else {}
    if same := [name for name in options.replace if name in before and before[name].digest == views[name].digest]:
        walk.warnings.append(f"--replace {', '.join(ordered(same))}: the plan has these settings already")
    new_tools = {name: choice for name, choice in tools.items() if name not in before}
    warnings = (engine_warning(choice, options.parser_engine) for choice in new_tools.values())
    walk.warnings += [warning for warning in warnings if warning]
    parsed = next(view.name for view in VIEWS.values() if view.tool == "parser")
    if (options.parser or options.parser_engine) and parsed not in views:
        walk.warnings.append(f"--parser and --parser-engine are of the {parsed} view, which is not built here")
    if existing is None:
        plan = new_plan(walk.rows, settings, views)
        if not plan.rows.num_rows:
            raise SourceError(f"{walk.root} has no images in the splits {', '.join(settings.splits)}")
        check_duplicates(plan, walk, options, num_planned=0)
        return Intake(plan=plan, walk=walk, tools=tools, is_new=True)
    plan = Plan(settings=existing.settings, views=views, segments=existing.segments, rows=existing.rows)
    plan = follow_sources(plan, walk, options)
    check_duplicates(plan, walk, options, num_planned=existing.rows.num_rows)
    if options.retry_failed:
        plan = retry_failed(plan, existing, walk, options.out)
    return Intake(plan=plan, walk=walk, tools=tools, is_new=plan.document() != existing.document())


def _walk(options: BuildOptions, settings: PlanSettings, existing: Plan | None) -> Walk:
    """The sources as they are now, grouped as the plan's are."""
    dataset, taxonomy = DATASETS[options.dataset], Taxonomy.load(options.generators)
    if not dataset.grouped:
        if settings.group_regex or settings.split_by:
            raise PlanError("--group-regex and --split-by are of --dataset folder; a manifest has the column `group`")
        return dataset.walk(options.source_root, taxonomy)
    # A plan of version 0.1 took every `a+b` for a swap; a later one has a plus only where a pattern put it.
    is_old = (
        existing is not None and not settings.group_regex and any("+" in g for g in existing.rows["group"].to_pylist())
    )
    try:
        grouping = Grouping.of(settings.group_regex, settings.split_by, has_pairs=is_old)
    except ValueError as error:
        raise PlanError(str(error)) from None
    walk = dataset.walk(options.source_root, taxonomy, grouping=grouping)
    if settings.split_by and not settings.group_regex:
        walk.warnings.append("--split-by changes nothing without --group-regex: the group is the file's stem")
    return walk


def _settings(options: BuildOptions, existing: Plan | None) -> PlanSettings:
    base = existing.settings if existing else PlanSettings(dataset=options.dataset)
    given = {
        name: getattr(options, name)
        for name in ("seed", "shard_size", "splits", "limit", "group_regex", "split_by")
        if getattr(options, name) is not None
    }
    if options.splits is not None:  # a set: in any order, and twice, they are the same
        given["splits"] = tuple(split for split in SPLITS if split in options.splits)
    return PlanSettings(**{**asdict(base), **given, "dataset": options.dataset})


def _views(options: BuildOptions, existing: Plan | None) -> tuple[dict[str, ViewPlan], dict[str, ParserChoice]]:
    """Every view's plan, the ones in ROOT and the ones asked for, and what opens the tool of those that need one.

    Raises PlanError where one differs and is not replaced.
    """
    before = existing.views if existing else {}
    asked = options.views or (tuple(before) if before else tuple(VIEWS))
    decisive = rows_view(VIEWS).name
    names = ordered({decisive, *asked, *before})
    codec_set = options.codec or codec_set_of(before) or "raw"
    params = {name: _params(view, options, before.get(name), names) for name, view in VIEWS.items() if not view.tool}
    planned: dict[str, ViewPlan] = {}
    tools: dict[str, ParserChoice] = {}
    for name in (decisive, *(name for name in names if name != decisive)):
        view = VIEWS[name]
        if view.tool:
            planned[name], tools[name] = TOOLS[view.tool](options, before.get(name), codec_set)
        else:
            image_plan = planned.get(decisive)
            planned[name] = plan_view(view, params[name], codec_set=codec_set, image_plan=image_plan)
    planned = {name: planned[name] for name in names}
    check_replacements(options, before, planned)
    return planned, tools


def _params(view: View, options: BuildOptions, before: ViewPlan | None, names: list[str]) -> Any:
    """A view's parameters: what the options set, else what the plan in ROOT has, else the defaults."""
    params = view.params_of(before.params) if before is not None and view.options else view.params()
    for option, field in view.options.items():
        value = getattr(options, option)
        if value is None:
            continue
        if view.name not in names:
            flag = f"--{option.replace('_', '-')}"
            raise PlanError(f"{flag} {value} is of the {view.name} view, which is not built here; add it to --views")
        params = replace(params, **{field: value})
    return params


def _choose_parser(options: BuildOptions, before: ViewPlan | None, codec_set: str) -> tuple[ViewPlan, ParserChoice]:
    default = DRAWN_PARSER if DATASETS[options.dataset].drawn else DEFAULT_PARSER
    try:
        return choose_parser(options.parser, options.parser_engine, before, codec_set, default)
    except UnnamedParserError as error:
        raise PlanError(str(error)) from None


TOOLS = {"parser": _choose_parser}  # a view's tool -> what chooses it
