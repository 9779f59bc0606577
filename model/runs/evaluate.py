"""Evaluation: the test rows of a shard set, a run's attributor and the controls meet here, and a Result comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...pipeline.describe.preview import spread_rows, view_pictures
from ...pipeline.protocols import Protocol, load_protocol
from ...pipeline.shardset import ShardSet
from ..attributor import Attributor
from ..documents import read_calibration
from ..errors import RunError, WrongUseError
from ..evaluation.case import Case, Track, untracked
from ..evaluation.evaluate import THRESHOLDS, completed, render
from ..evaluation.operating import ACCEPTED, OperatingPoint
from ..evaluation.predictions import Predictions, counts
from ..evaluation.predictions_file import about_of
from ..evaluation.question import Question
from ..evaluation.result import Result
from ..evaluation.scores import PAPERS_SCORE
from ..evaluation.statistics import DISTANCE_SCORES, TRAIN_ROWS
from ..report.html import Sample
from ..report.write import Report, prepare_out, write_report
from .calibrate import BATCH, VALIDATION_ROWS, groups_of, representatives
from .collect import collect
from .control_rows import Asked, control_rows_of
from .device import choose_device
from .fitted import STATISTICS, about_run, read_rows, read_statistics
from .folder import Run, load_attributor, read_metrics
from .halves import halves
from .parts import check_parts, own_protocol, test_parts
from .text_questions import text_questions
from .views import check_views


def evaluate(
    run: str | Path,
    shards: ShardSet | str | Path,
    *,
    protocol: str | None = None,
    thresholds: Iterable[float] | None = None,
    left_out: Iterable[str | Path] = (),
    out: str | Path | None = None,
    device: str | None = None,
    with_controls: bool = True,
    track: Track | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Result:
    """Evaluate a run on the test rows of a shard set; with `out`, write result.json, report.html and predictions.parquet there.

    protocol: a name or file; None: the run's own. thresholds: of the max softmax, in [0, 1]; None: the
    paper's, 0.7 and 0.9. left_out: runs that were trained without one of the run's sources each (`--protocol
    NAME:without=SOURCE`), for likelihood ratios. with_controls=False leaves out
    the classifiers that are trained beside the run (leak controls, classical baseline), which may take longer than all
    else. track(steps, what) may show how far the work is; on_message gets warnings (they are logged by default).

    Raises WrongUseError, RunError, ShardSetError or DamagedShardError, each of one sentence.
    """
    report = judge(
        run,
        shards,
        protocol=protocol,
        thresholds=thresholds,
        left_out=left_out,
        out=out,
        device=device,
        with_controls=with_controls,
        track=track,
        on_message=on_message,
    )
    if out is not None:
        write_report(Path(out), report)
    return report.result


def judge(
    run: str | Path,
    shards: ShardSet | str | Path,
    *,
    protocol: str | None = None,
    thresholds: Iterable[float] | None = None,
    left_out: Iterable[str | Path] = (),
    out: str | Path | None = None,
    device: str | None = None,
    with_controls: bool = True,
    track: Track | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Report:
    """As `evaluate`, with all that its page and its files are made of; `out` is made, nothing is written there yet."""
    say = on_message or logging.getLogger(__name__).warning
    try:
        chosen = load_protocol(protocol) if protocol else None
    except ValueError as error:
        raise WrongUseError(str(error)) from error
    folder = Path(run)
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
    if out is not None:
        _check_out(Path(out), shard_set)
        prepare_out(Path(out))
    asked = Asked(
        folder=folder,
        run=trained,
        model=model,
        device=on,
        shard_set=shard_set,
        protocol=chosen,
        track=track or untracked,
    )
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
    about = about_run(
        trained,
        protocol=chosen.name if chosen else None,
        data_digest=shard_set.root_digest,
        task=chosen.task if chosen else "attribution",
        simulated=_is_simulated(shard_set, chosen),
        relations=dict(chosen.relations) if chosen else {},
        published=dict(chosen.published) if chosen else {},
        data=data,
        calibration=None if calibration is None else _told_calibration(calibration),
    )
    control_rows, control_counts = control_rows_of(asked, parts) if with_controls else (None, {})
    fitted, statistics, operating = _fitted_rows(asked), read_statistics(folder), _operating(calibration)
    if operating is not None and operating.score in DISTANCE_SCORES and statistics is None:
        raise RunError(
            f"{folder} lacks {STATISTICS}, which its score {operating.score} needs; restore it, or train again"
        )
    case = Case(
        seen=said["seen"],
        unseen=said["unseen"],
        controls=said["controls"],
        train=fitted.get("train"),
        validation=fitted.get("validation"),
        classes=trained.classes,
        thresholds=tuple(sorted(set(thresholds or THRESHOLDS))),
        about=about_of(about, data),
        left_out=_left_out(asked, left_out),
        statistics=statistics,
        operating=operating,
        sources=shard_set.document["generators"],
        text=_text_questions(asked, said["unseen"]),
        control_rows=control_rows,
        control_counts=control_counts,
        track=asked.track,
    )
    case = completed(case)
    return Report(
        case=case,
        result=render(case),
        about=about,
        metrics=read_metrics(folder),
        samples=lambda: _samples(shard_set),
    )


def _fitted_rows(asked: Asked) -> dict[str, Predictions]:
    """What the run says of its own training and validation rows, as its training left it; a run of version 0.1 is asked
    again where the shards are those it was trained on."""
    if (found := read_rows(asked.folder, asked.run)) is not None:
        return found
    if asked.shard_set.root_digest != asked.run.data["root_digest"]:
        return {}
    own = own_protocol(asked.run)
    part = "seen" if own else None
    rows = asked.shard_set.select(protocol=own, part=part, generators=None if own else asked.run.classes)
    train, validation = rows.select(split="train"), halves(rows.select(split="val"))[1]
    if not len(train) or not len(validation):
        return {}
    return {
        "train": _collect(asked, representatives(train, TRAIN_ROWS), "attributing training rows"),
        "validation": _collect(asked, representatives(validation, VALIDATION_ROWS), "attributing validation rows"),
    }


def _left_out(asked: Asked, folders: Iterable[str | Path]) -> dict[str, Predictions]:
    """Source -> its validation rows, as a run says of them that was trained without it alone."""
    found: dict[str, Predictions] = {}
    for folder in map(Path, folders):
        other, model = load_attributor(folder, asked.device)
        lacks = [name for name in asked.run.classes if name not in other.classes]
        if len(lacks) != 1 or len(other.classes) != len(asked.run.classes) - 1:
            raise WrongUseError(
                f"--left-out {folder} must have the run's classes but one; it lacks {len(lacks)} of them"
            )
        check_views(model, asked.shard_set)
        rows = asked.shard_set.select(split="val", generators=lacks)
        if not len(rows):
            raise WrongUseError(f"--left-out {folder}: {asked.shard_set.root} has no validation rows of {lacks[0]}")
        one = replace(asked, model=model)
        found[lacks[0]] = _collect(one, rows, f"attributing {lacks[0]}, left out")
    return found


def _operating(calibration: Mapping[str, Any] | None) -> OperatingPoint | None:
    """As the training declared it, so as `bmrl-attribute` works; None of a run without calibration."""
    if calibration is None:
        return None
    if "operating_point" not in calibration:
        threshold = float(calibration["threshold_95"])
        return OperatingPoint(
            score=PAPERS_SCORE,
            thresholds={PAPERS_SCORE: threshold},
            n=int(calibration.get("n", 1)),
            acceptance=float(calibration.get("threshold_95_acceptance", ACCEPTED)),
            reason="a run of an older version, which declared no other",
        )
    return OperatingPoint.of(calibration["operating_point"])


def _collect(asked: Asked, rows: ShardSet, what: str) -> Predictions:
    loader = rows.loader(views=asked.model.inference_views, batch_size=BATCH, shuffle=False)
    return collect(asked.model, asked.track(loader, what), asked.device, groups_of(rows))


def _trained_sources(asked: Asked) -> list[str]:
    return [name for name in asked.run.data["n_train"] if name in asked.shard_set.document["generators"]]


def _text_questions(asked: Asked, unseen: Predictions) -> tuple[list[Question], list[str]] | None:
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


def _other_views(shard_set: ShardSet, run: Run, model: Attributor, say: Callable[[str], None]) -> list[str]:
    """Views that the run was trained on with other parameters than the shard set's, `image` among them as the others
    are made from it; said aloud. Digests would differ by the codec too."""
    trained = run.data.get("params", {})
    read = [view for view in shard_set.views if view in ("image", *model.inference_views)]
    other = [view for view in read if view in trained and shard_set.views[view]["params"] != trained[view]]
    if other:
        say(f"warning: views of {shard_set.root} have other parameters than those of the training: {', '.join(other)}")
    return other


def _told_calibration(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Without a thousand numbers that no reader of a result asks for, and what stands in its main row."""
    return {name: value for name, value in calibration.items() if name not in ("confidences", "operating_point")}


def _check_out(out: Path, shard_set: ShardSet) -> None:
    if out.resolve().is_relative_to(shard_set.root.resolve()):
        raise WrongUseError(f"--out {out} lies in the shard set {shard_set.root}, which holds its own files alone")


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
