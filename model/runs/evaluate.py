"""Evaluation: the test rows of a shard set, a run's attributor and the controls meet here, and a Result comes out."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...pipeline.describe.preview import spread_rows, view_pictures
from ...pipeline.protocols import Protocol, load_protocol
from ...pipeline.shardset import ShardSet
from ...pipeline.store.local import write_bytes, write_readable_json
from ..attributor import Attributor
from ..documents import read_calibration
from ..errors import RunError, WrongUseError
from ..evaluation.case import About, Case, Track, untracked
from ..evaluation.controls.features import Rows, extract
from ..evaluation.evaluate import THRESHOLDS
from ..evaluation.evaluate import evaluate as evaluate_case
from ..evaluation.predictions import Predictions, collect, counts
from ..evaluation.question import Question
from ..evaluation.result import Result
from ..evaluation.zero_shot import centre_questions, text_questions
from ..report.html import Sample, render_page
from .calibrate import representatives
from .device import choose_device
from .folder import Run, load_attributor, read_metrics
from .parts import check_parts, own_protocol, test_parts
from .views import check_views

BATCH = 64
CONTROL_ROWS = 20_000  # of training, seen and unseen rows each, at most: 19 kB of features a row, fits of minutes


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A run's attributor and the shard set that it is evaluated on."""

    run: Run
    model: Attributor
    device: torch.device
    shard_set: ShardSet
    protocol: Protocol | None
    track: Track


def evaluate(
    run: str | Path,
    shards: ShardSet | str | Path,
    *,
    protocol: str | None = None,
    thresholds: Iterable[float] | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    with_controls: bool = True,
    track: Track | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Result:
    """Evaluate a run on the test rows of a shard set; with `out`, write result.json and report.html there.

    protocol: a name or file; None: the run's own. thresholds: of the max softmax, in [0, 1]; None: the
    paper's, 0.7 and 0.9. with_controls=False leaves out
    the classifiers that are trained beside the run (leak controls, classical baseline), which may take longer than all
    else. track(steps, what) may show how far the work is; on_message gets warnings (they are logged by default).

    Raises WrongUseError, RunError, ShardSetError or DamagedShardError, each of one sentence.
    """
    say = on_message or logging.getLogger(__name__).warning
    try:
        chosen = load_protocol(protocol) if protocol else None
    except ValueError as error:
        raise WrongUseError(str(error)) from error
    folder, where = Path(run), None if out is None else Path(out)
    shard_set = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
    on = choose_device(device)
    trained, model = load_attributor(folder, on, say=say)
    calibration = read_calibration(folder / "calibration.json")
    check_views(model, shard_set)
    other_views = _other_views(shard_set, trained, model, say)
    chosen = chosen or own_protocol(trained)
    if chosen is not None:
        chosen = chosen.over(shard_set.document["generators"], trained=trained.data["n_train"])
        check_parts(chosen, shard_set, trained)
    parts = test_parts(shard_set, trained, chosen, say=say)
    if where is not None:
        _prepare_out(where, shard_set)
    asked = _Asked(run=trained, model=model, device=on, shard_set=shard_set, protocol=chosen, track=track or untracked)
    said = {part: _collect(asked, rows, f"attributing {part}") for part, rows in parts.items()}
    data = {
        "name": shard_set.document["name"],
        "root_digest": shard_set.root_digest,
        "is_training_root": shard_set.root_digest == trained.data["root_digest"],
        "n_per_generator": counts(*said.values()),
        "n_train": trained.data["n_train"],
        "missing_sources": list(parts["seen"].missing_sources),
        "other_views": other_views,
    }
    control_rows, control_counts = _control_rows(asked, parts) if with_controls else (None, {})
    case = Case(
        **said,
        classes=trained.classes,
        thresholds=tuple(sorted(set(thresholds or THRESHOLDS))),
        about=About(
            attributor=trained.config.attributor,
            preset=trained.config.preset,
            semantics=trained.config.semantics,
            protocol=chosen.name if chosen else None,
            task=chosen.task if chosen else "attribution",
            published=chosen.published if chosen else {},
            relations=chosen.relations if chosen else {},
            simulated=_is_simulated(shard_set, chosen),
            calibration=None if calibration is None else _without_confidences(calibration),
            data=data,
        ),
        sources=shard_set.document["generators"],
        text=_text_questions(asked, said["unseen"]),
        centres=_centre_questions(asked),
        control_rows=control_rows,
        control_counts=control_counts,
        track=asked.track,
    )
    result = evaluate_case(case)
    if where is not None:
        for _ in asked.track(("page",), "drawing the page"):
            page = render_page(result, metrics=read_metrics(folder), samples=_samples(shard_set))
        write_bytes(where / "report.html", page)  # both at the end: what stops the work leaves the earlier pair
        write_readable_json(where / "result.json", result.document)
    return result


def _collect(asked: _Asked, rows: ShardSet, what: str) -> Predictions:
    loader = rows.loader(views=asked.model.inference_views, batch_size=BATCH, shuffle=False)
    return collect(asked.model, asked.track(loader, what), asked.device)


def _trained_sources(asked: _Asked) -> list[str]:
    return [name for name in asked.run.data["n_train"] if name in asked.shard_set.document["generators"]]


def _text_questions(asked: _Asked, unseen: Predictions) -> tuple[list[Question], list[str]] | None:
    """Authenticity, kind and family by the prompts; other prompts than those of the training are other questions."""
    if asked.shard_set.views.get("text", {}).get("digest") != asked.run.data["views"].get("text", ""):
        return None
    return text_questions(
        asked.model,
        asked.shard_set.document["prompts"],
        trained=_trained_sources(asked),
        unseen=unseen.sources,
        device=asked.device,
    )


def _centre_questions(asked: _Asked) -> tuple[list[Question], str] | None:
    """The same by the means of validation rows, else of training rows; None where a trained source has neither."""
    trained = _trained_sources(asked)
    for split in ("val", "train"):  # what was trained on lies closer together than any new image
        rows = asked.shard_set.select(split=split, generators=trained)
        if len(rows.counts) == len(trained):
            reference = _collect(asked, rows, "class means")
            return centre_questions(reference, asked.shard_set.document["generators"], trained=trained), split
    return None


def _other_views(shard_set: ShardSet, run: Run, model: Attributor, say: Callable[[str], None]) -> list[str]:
    """Views that the run was trained on with other parameters than the shard set's, `image` among them as the others
    are made from it; said aloud. Digests would differ by the codec too."""
    trained = run.data.get("params", {})
    read = [view for view in shard_set.views if view in ("image", *model.inference_views)]
    other = [view for view in read if view in trained and shard_set.views[view]["params"] != trained[view]]
    if other:
        say(f"warning: views of {shard_set.root} have other parameters than those of the training: {', '.join(other)}")
    return other


def _without_confidences(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """A thousand numbers that no reader of a result asks for."""
    return {name: value for name, value in calibration.items() if name != "confidences"}


def _prepare_out(out: Path, shard_set: ShardSet) -> None:
    """Make the folder; whatever would stop its files at the end is said before the work."""
    if out.exists() and not out.is_dir():
        raise WrongUseError(f"--out {out} is a file")
    if out.resolve().is_relative_to(shard_set.root.resolve()):
        raise WrongUseError(f"--out {out} lies in the shard set {shard_set.root}, which holds its own files alone")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RunError(f"--out {out} cannot be written: {error.strerror}") from error


def _control_rows(
    asked: _Asked, parts: dict[str, ShardSet]
) -> tuple[tuple[Rows, Rows, Rows] | None, dict[str, list[int]]]:
    """Features for the leak controls and the classical baseline: of the run's training rows, seen and unseen test rows.

    Beside them, part -> [how many were used, of how many]: a large part is represented by CONTROL_ROWS of its rows.
    """
    shard_set, protocol = asked.shard_set, asked.protocol
    train = shard_set.select(split="train")
    train = train.select(protocol=protocol, part="seen") if protocol else train.select(generators=asked.run.classes)
    whole = {"train": train, "seen": parts["seen"], "unseen": parts["unseen"]}
    used = {name: representatives(rows, CONTROL_ROWS) for name, rows in whole.items()}
    counts = {name: [len(used[name]), len(rows)] for name, rows in whole.items()}
    if len(set(used["train"].labels.tolist())) < 2:
        return None, counts
    containers = _containers(shard_set)
    views = [view for view in ("image", "parsing") if view in shard_set.views]

    def features(name: str) -> Rows:
        loader = used[name].loader(views=views, batch_size=BATCH, shuffle=False)
        return extract(asked.track(loader, f"controls, {name}"), containers)

    return (features("train"), features("seen"), features("unseen")), counts


def _containers(shard_set: ShardSet) -> dict[str, tuple[float, ...]]:
    names = ("source_width", "source_height", "source_format", "source_quality")
    columns = [shard_set.index[name].to_pylist() for name in names]
    formats = {name: float(i) for i, name in enumerate(sorted(set(columns[2])))}
    return {
        key: (float(width), float(height), formats[kind], float(quality))
        for key, width, height, kind, quality in zip(shard_set.index["key"].to_pylist(), *columns, strict=True)
    }


def _is_simulated(shard_set: ShardSet, protocol: Protocol | None) -> bool:
    return bool(protocol and protocol.simulated) or any(shard_set.index["synthetic"].to_pylist())


def _samples(shard_set: ShardSet) -> list[Sample]:
    """The views of one sample of every source, test rows before others."""
    test = shard_set.select(split="test")
    shown = test if len(test) else shard_set
    rows = spread_rows(shown, len(shown.counts))
    records = [shown.index.slice(row, 1).to_pylist()[0] for row in rows]
    return [
        Sample(generator=record["generator"], key=record["key"], views=pictures)
        for record, pictures in zip(records, view_pictures(shown, rows), strict=True)
    ]
