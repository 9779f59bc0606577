"""`bmrl-prep`: datasets in, shard sets out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .exits import DROPPED, FAILED, WRONG_USE, Group, sentences, stop
from .options import Share

_PATH = click.Path(path_type=Path)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bmrl")
def main() -> None:
    """Turn collections of real and generated faces into cached multi-view shard sets."""


@main.command()
def datasets() -> None:
    """List the datasets: name, expected layout, licence, how to obtain."""
    from ..pipeline.sources import DATASETS

    for dataset in DATASETS.values():
        click.echo(
            f"{dataset.name}\n  layout:  {dataset.layout}\n  licence: {dataset.licence}\n  obtain:  {dataset.obtain}"
        )


@main.command()
@click.argument("root", type=_PATH, required=False)
def protocols(root: Path | None) -> None:
    """List the protocols: task, classes, unseen sources, published sizes; with ROOT, which of their sources it lacks."""
    from ..pipeline.protocols import describe_protocols
    from ..pipeline.shardset import ShardSet, ShardSetError

    with sentences(failed=(ShardSetError,)):
        present = None if root is None else ShardSet.open(root).document["generators"]
    click.echo(describe_protocols(present))


@main.command()
@click.option("--dataset", required=True, help="A name of `bmrl-prep datasets`.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="ROOT, the folder of the shard set."
)
@click.option("--root", type=_PATH, help="Folder (or manifest file) of the sources.")
@click.option("--views", help="Comma-separated: image,edge,noise,parsing,text (default: all five).")
@click.option("--splits", help="Comma-separated: train,val,test (default: all).")
@click.option("--limit", type=click.IntRange(min=1), help="Samples per generator and split.")
@click.option("--shard-size", type=click.IntRange(min=1), help="Samples a shard (default: 256).")
@click.option(
    "--workers", type=click.IntRange(min=0), help="Parallel tasks (default: every core); 0: here, without Ray."
)
@click.option("--ray-address", help="Join this Ray cluster instead of starting a local Ray.")
@click.option("--generators", type=_PATH, help="YAML file with generators of your own.")
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
@click.option("--retry-failed", is_flag=True, help="Try sources that failed once more, as new shards at the end.")
@click.option("--extend", is_flag=True, help="Take in sources that are new since the plan, as new shards at the end.")
@click.option("--replace", multiple=True, metavar="VIEW", help="Compute this column anew under other settings.")
@click.option("--accept-duplicates", type=_PATH, metavar="FILE", help="Paths that may have copies in another split.")
@click.option("--exclude", type=_PATH, metavar="FILE", help="Source paths or keys to leave out, one a line.")
@click.option(
    "--exclude-licence", "exclude_licences", multiple=True, metavar="LICENCE", help="Leave out rows of this licence."
)
@click.option("--seed", type=int, help="Seed of the mixing of samples over shards (default: 0).")
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
    from ..pipeline.build.build import build as run_build
    from ..pipeline.build.options import BuildOptions, RunSettings, check_names
    from ..pipeline.build.report import BuildError
    from ..pipeline.parsers.errors import ParserError
    from ..pipeline.shards.plan import PlanError
    from ..pipeline.sources import DATASETS, SourceError
    from .progress import BuildBar

    asked_views, asked_splits = _names(views), _names(splits)
    with sentences(failed=(SourceError, BuildError, ParserError, ValueError, OSError), wrong_use=(PlanError,)):
        check_names(
            dataset=dataset,
            views=asked_views,
            splits=asked_splits,
            resize=options["resize"],
            replace=options["replace"],
        )
        if DATASETS[dataset].drawn:
            named = out if out.name not in ("", "..") else out.resolve()  # --out .
            root = root or named.with_name(named.name + "-source")
            _draw(dataset, root, workers)
        chosen = BuildOptions(
            dataset=dataset, out=out, source_root=root, views=asked_views, splits=asked_splits, **options
        )
        if dry_run:
            from ..pipeline.build.dry_run import describe_plan

            click.echo(describe_plan(chosen, workers=workers))
            return
        with BuildBar() as bar:
            report = run_build(
                chosen,
                RunSettings(workers=workers, ray_address=ray_address),
                on_progress=bar.update,
                on_message=bar.message,
            )
    _say_built(out, report, max_failures)


def _say_built(out: Path, report: Any, max_failures: float) -> None:
    finished = report.finished
    if report.stage_seconds:
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(report.stage_seconds.items()))
        click.echo(f"seconds per stage, summed over workers: {stages}", err=True)
    click.echo(
        f"{out}: {finished.num_samples} samples, {finished.num_dropped} dropped, {finished.num_bytes / 1e6:.1f} MB, "
        f"{report.computed} columns of shards written in {report.seconds:.1f} s"
    )
    total = finished.num_samples + finished.num_dropped
    if finished.num_dropped > max_failures * total:
        click.echo(
            f"warning: {finished.num_dropped} of {total} samples were dropped, more than --max-failures {max_failures}; "
            f"the reasons are in {out / 'failures.parquet'}",
            err=True,
        )
        raise SystemExit(DROPPED)


def _draw(dataset: str, root: Path, workers: int | None) -> None:
    """Draw an embedded dataset into `root`; what is there is reused."""
    import os
    from concurrent.futures.process import BrokenProcessPool

    from ..pipeline.build.report import BuildError
    from ..pipeline.demo.draw import DemoSettings, draw_demo
    from .progress import counting

    try:
        with counting("drawing faces") as update:
            draw_demo(
                root,
                num_workers=(os.cpu_count() or 1) if workers is None else workers,
                progress=update,
                settings=DemoSettings.of(dataset),
            )
    except OSError as error:
        raise BuildError(f"cannot draw into {root}: {error.strerror or error}") from error
    except BrokenProcessPool as error:
        raise BuildError(
            "a process that draws died (out of memory, or killed); what is drawn stays, the same command goes on"
        ) from error


@main.command()
@click.argument("root", type=_PATH)
@click.option("--deep", is_flag=True, help="Re-hash everything and re-derive a random sample of the views.")
@click.option("--root", "source_root", type=_PATH, help="The sources, to re-derive image and parsing too.")
def verify(root: Path, deep: bool, source_root: Path | None) -> None:
    """Check sidecars, sizes and the exact set of files; exit 1 on any damage, each file named."""
    from ..pipeline.parsers.errors import ParserError
    from ..pipeline.shards.verify import verify as run_verify
    from ..pipeline.shardset import ShardSetError

    with sentences(failed=(ShardSetError, ParserError, OSError)):
        if not root.is_dir():
            raise ShardSetError(f"{root} does not exist or is no folder")
        if source_root is not None and not source_root.is_dir():
            raise ShardSetError(
                f"--root {source_root} does not exist or is no folder; give the one that the sources' paths start from"
            )
        damages = run_verify(root, deep=deep, source_root=source_root)
    for damage in damages:
        click.echo(f"{damage.path}: {damage.problem}")
    if damages:
        stop(
            f"{root}: {len(damages)} damaged, missing or extra files; take them away (but for plan.*) and run the same build "
            "again",
            FAILED,
        )
    checked = "sizes, file set and the hashes of the small files" + ("; --root needs --deep" if source_root else "")
    if deep:
        checked = "every hash, and a random sample of edge, noise and text computed again" + (
            ", image and a network's parsing from their sources too"
            if source_root
            else "; image and parsing need --root"
        )
    click.echo(f"{root}: complete and undamaged ({checked})")


@main.command()
@click.argument("root", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--card", type=_PATH, metavar="DIR", help="Write a dataset card there: README.md and grid.png.")
def info(root: Path, as_json: bool, card: Path | None) -> None:
    """Counts, bytes, digests, licences and the leak audit of a shard set."""
    from ..pipeline.describe.card import CardError, check_folder, write_card
    from ..pipeline.describe.info import describe, render
    from ..pipeline.shards.tars import DamagedShardError
    from ..pipeline.shardset import ShardSet, ShardSetError

    with sentences(failed=(ShardSetError, DamagedShardError, OSError), wrong_use=(CardError,)):
        shard_set = ShardSet.open(root)
        if card is not None:
            check_folder(card, root)
        document = describe(shard_set)
        if card is not None:
            click.echo(f"dataset card: {write_card(shard_set, document, card)}", err=True)
    click.echo(json.dumps(document, indent=2) if as_json else render(document))


@main.command()
@click.argument("root", type=_PATH)
@click.option("-n", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Samples to show.")
@click.option("--grid", type=_PATH, metavar="FILE.png", help="Write all views of the samples side by side.")
def head(root: Path, count: int, grid: Path | None) -> None:
    """Show the first samples of a shard set; with --grid as a picture, one sample of every source first."""
    from ..pipeline.describe.preview import GridError, describe_rows, write_grid
    from ..pipeline.shards.tars import DamagedShardError
    from ..pipeline.shardset import ShardSet, ShardSetError

    with sentences(failed=(ShardSetError, DamagedShardError, OSError), wrong_use=(GridError,)):
        shard_set = ShardSet.open(root)
        if grid is None:
            click.echo(describe_rows(shard_set, count))
        else:
            write_grid(shard_set, count, grid)
            click.echo(str(grid))


@main.command()
@click.argument("root", type=_PATH)
@click.option("--views", help="Comma-separated columns to join into single tars.")
@click.option(
    "--for", "reader", type=click.Choice(["deepfakebench", "open_clip"]), help="Write what this program reads instead."
)
@click.option("--out", required=True, type=_PATH, help="Folder of the exported tars, or of what --for writes.")
def export(root: Path, views: str | None, reader: str | None, out: Path) -> None:
    """Join chosen columns into single tars (OUT/<shard>.tar) that any WebDataset reader opens, or write for a program."""
    from ..pipeline.export.deepfakebench import export_deepfakebench
    from ..pipeline.export.open_clip import export_open_clip
    from ..pipeline.export.tars import ExportError, export_tars
    from ..pipeline.shards.tars import DamagedShardError
    from ..pipeline.shardset import ShardSet, ShardSetError

    with sentences(failed=(ShardSetError, DamagedShardError, OSError), wrong_use=(ExportError,)):
        if (views is None) == (reader is None):
            raise ExportError("give either --views or --for")
        if reader is not None:
            writers = {"deepfakebench": export_deepfakebench, "open_clip": export_open_clip}
            click.echo(f"{out}: {writers[reader](ShardSet.open(root), out)} samples")
            return
        count = export_tars(ShardSet.open(root), _names(views) or (), out)
    click.echo(f"{out}: {count} shards")


@main.command()
@click.option("--real-dir", required=True, type=_PATH, help="Folder of photographs of real faces.")
@click.option(
    "--out", required=True, type=_PATH, help="Folder to write; build it with `--dataset manifest --root OUT`."
)
@click.option(
    "--parser", metavar="bisenet|bisenet-lite|FILE", default="bisenet", show_default=True, help="Finds the regions."
)
@click.option(
    "--sources", type=click.Choice(["seen", "all"]), default="all", show_default=True, help="Simulators to run."
)
@click.option("--seed", type=int, default=0, show_default=True)
def synth(real_dir: Path, out: Path, parser: str, sources: str, seed: int) -> None:
    """Run the simulated generators of the embedded dataset on photographs: an attribution benchmark of your own faces."""
    from ..pipeline.demo.photographs import synthesise
    from ..pipeline.parsers.errors import ParserError
    from ..pipeline.parsers.parser import Parser
    from ..pipeline.parsers.specs import resolve
    from .progress import counting

    if parser.startswith("maps:"):
        stop("error: synth parses enlarged crops: --parser takes bisenet, bisenet-lite or a weight file", WRONG_USE)
    with sentences(failed=(ParserError, ValueError, OSError)):
        network = Parser.open(resolve(parser))
        with counting("simulating") as update:
            result = synthesise(real_dir, out, parse=network.labels, sources=sources, seed=seed, progress=update)
    for reason, count in sorted(result.dropped.items()):
        click.echo(f"left out: {count} ({reason})", err=True)
    click.echo(
        f"{out}: {result.num_images} images from {result.num_photographs} photographs; build {result.manifest.parent}"
    )


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text is not None else None
