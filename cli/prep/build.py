"""`bmrl-prep build`: a data set in, a shard set out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..exits import DROPPED, say, sentences, tell, terminal_width
from ..options import COUNT, PATH, SEED, WORKERS, Share, names

if TYPE_CHECKING:
    from ...pipeline.sources import Walk

ADVICE = "images of one person belong into one split: name the person by --group-regex, or sort them into split folders"


@click.command()
@click.option("--dataset", required=True, help="A name of `bmrl-prep datasets`.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="ROOT, the folder of the shard set."
)
@click.option("--root", type=PATH, help="Folder (or manifest file) of the sources.")
@click.option("--views", help="Comma-separated: image,edge,noise,parsing,text (default: all five).")
@click.option("--splits", help="Comma-separated: train,val,test (default: all).")
@click.option("--limit", type=COUNT, help="Samples per generator and split.")
@click.option("--shard-size", type=COUNT, help="Samples a shard (default: 256).")
@click.option("--workers", type=WORKERS, help="Parallel tasks (default: every core); 0: here, without Ray.")
@click.option("--ray-address", help="Join this Ray cluster instead of starting a local Ray.")
@click.option("--generators", type=PATH, help="YAML file with generators of your own.")
@click.option("--resize", metavar="KERNEL", help="bilinear (antialiased, default), bicubic, area, or linear (aliases).")
@click.option("--parser", metavar="bisenet|bisenet-lite|FILE|maps:ORDER:DIR", help="Face parser (default: bisenet).")
@click.option("--parser-engine", type=click.Choice(["auto", "torch", "onnx", "cuda"]), help="What runs the parser.")
@click.option(
    "--patch-size",
    type=click.IntRange(2, 224),
    metavar="P",
    help="Side of the noise view's patch (default: 112 pixels).",
)
@click.option("--codec", type=click.Choice(["raw", "png"]), help="raw arrays (default) or PNG, for publishing.")
@click.option("--max-failures", type=Share(), default=0.01, show_default=True, help="Dropped share allowed.")
@click.option("--skip-links", is_flag=True, help="Leave out links that lead nowhere or out of --root.")
@click.option("--retry-failed", is_flag=True, help="Try sources that failed once more, as new shards at the end.")
@click.option("--extend", is_flag=True, help="Take in sources that are new since the plan, as new shards at the end.")
@click.option("--replace", multiple=True, metavar="VIEW", help="Compute this column anew under other settings.")
@click.option("--accept-duplicates", type=PATH, metavar="FILE", help="Paths that may have copies in another split.")
@click.option("--exclude", type=PATH, metavar="FILE", help="Source paths or keys to leave out, one a line.")
@click.option(
    "--exclude-licence", "exclude_licences", multiple=True, metavar="LICENCE", help="Leave out rows of this licence."
)
@click.option(
    "--group-regex",
    metavar="RE",
    help="Of a folder: its groups, or its whole match, in a file's path below --root are the identities (default: the stem).",
)
@click.option(
    "--split-by", type=click.Choice(["group", "stem"]), help="Of a folder without splits: what the hash takes (group)."
)
@click.option("--seed", type=SEED, help="Seed of the mixing of samples over shards (default: 0).")
@click.option("--dry-run", is_flag=True, help="Print what would be built; write nothing under ROOT.")
@click.option("--overwrite", is_flag=True, help="Remove the shard set in ROOT first.")
def build(
    dataset: str,
    out: Path,
    root: Path | None,
    workers: int | None,
    ray_address: str | None,
    max_failures: float,
    dry_run: bool,
    views: str | None,
    splits: str | None,
    **options: Any,
) -> None:
    """Build, resume or extend a shard set."""
    from ...pipeline.build.build import build as run_build
    from ...pipeline.build.drawn import draw_source
    from ...pipeline.build.options import BuildOptions, RunSettings, check_names
    from ...pipeline.build.report import BuildError
    from ...pipeline.parsers.errors import ParserError
    from ...pipeline.shards.plan import PlanError
    from ...pipeline.sources import DATASETS, SourceError
    from ..progress import BuildBar, counting

    asked_views, asked_splits = names(views), names(splits)
    with sentences(failed=(SourceError, BuildError, ParserError, ValueError, OSError), wrong_use=(PlanError,)):
        check_names(
            dataset=dataset,
            views=asked_views,
            splits=asked_splits,
            resize=options["resize"],
            replace=options["replace"],
        )
        if DATASETS[dataset].drawn:
            with counting("drawing faces") as update:
                root = draw_source(dataset, out, root, workers=workers, progress=update)
        chosen = BuildOptions(
            dataset=dataset, out=out, source_root=root, views=asked_views, splits=asked_splits, **options
        )
        if dry_run:
            from ...pipeline.build.dry_run import describe_plan

            inspect = _alike_sources if DATASETS[dataset].grouped else None
            tell(describe_plan(chosen, workers=workers, inspect=inspect, width=terminal_width()))
            return
        with BuildBar() as bar:
            report = run_build(
                chosen,
                RunSettings(workers=workers, ray_address=ray_address),
                on_progress=bar.update,
                on_message=bar.message,
            )
        if DATASETS[dataset].grouped and report.computed:
            for warning in _alike_samples(out):
                say(f"warning: {warning}")
    _say_built(out, report, max_failures)


def _alike_sources(walk: Walk) -> list[str]:
    """Look-alikes across splits before the build, by the files that were found."""
    from ...pipeline.describe.near_duplicates import duplicate_warnings
    from ...pipeline.describe.near_sources import find_alike
    from ..progress import counting

    with counting("comparing images") as update:
        found = find_alike(walk, progress=update)
    return [f"{warning}; {ADVICE}" for warning in duplicate_warnings(found)]


def _alike_samples(out: Path) -> list[str]:
    """The same after it, by the stored images."""
    from ...pipeline.describe.near_duplicates import audit_near_duplicates, duplicate_warnings
    from ...pipeline.describe.near_sources import MAX_SOURCES
    from ...pipeline.shardset import ShardSet

    found = audit_near_duplicates(ShardSet.open(out), MAX_SOURCES)
    return [f"{warning}; {ADVICE}" for warning in duplicate_warnings(found)]


def _say_built(out: Path, report: Any, max_failures: float) -> None:
    finished = report.finished
    if report.stage_seconds:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(report.stage_seconds.items()))
        say(f"seconds per stage, summed over workers: {stages}")
    tell(
        f"{out}: {finished.num_samples} samples, {finished.num_dropped} dropped, {finished.num_bytes / 1e6:.1f} MB, "
        f"{report.computed} columns of shards written in {report.seconds:.1f} s"
    )
    total = finished.num_samples + finished.num_dropped
    if finished.num_dropped > max_failures * total:
        say(
            f"warning: {finished.num_dropped} of {total} samples were dropped, more than --max-failures {max_failures}; "
            f"the reasons are in {out / 'failures.parquet'}"
        )
        raise SystemExit(DROPPED)
