"""Wiring of `bmrl-eval`: loaders of the test rows, the run's attributor, the controls and the report meet here."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from ..model.attributor import Attributor
from ..model.evaluation.controls import Rows, control_tables, extract, level_controls
from ..model.evaluation.detection import detection_table
from ..model.evaluation.evaluate import Outputs, collect, counts, tabulate
from ..model.evaluation.report import Sample, render_report
from ..model.evaluation.zero_shot import ask, centre_questions, level_answers, text_questions
from ..model.training.checkpoint import RunError, write_atomic, write_json
from ..model.training.run import Run, load_attributor
from ..pipeline.describe.preview import spread_rows, view_pictures
from ..pipeline.protocols import Protocol, load_protocol
from ..pipeline.shardset import ShardSet, ShardSetError
from .attribution import read_calibration
from .training import WrongUseError, check_views, choose_device

BATCH = 64
CONTROL_ROWS = 20_000  # of training, seen and unseen rows each, at most: 19 kB of features a row, fits of minutes


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    run: Path
    out: Path
    protocol: Protocol | None
    thresholds: tuple[float, ...]
    device: str | None


def evaluate(shard_set: ShardSet, request: EvalRequest) -> tuple[dict[str, Any], Path]:
    """The result document, and the path of the report page; both are written into `out`."""
    device = choose_device(request.device)
    run, model = load_attributor(request.run, device)
    calibration = read_calibration(request.run)
    check_views(model, shard_set)
    other_views = _other_views(shard_set, run, model)
    protocol = request.protocol or _own_protocol(run)
    if protocol is not None:
        protocol = protocol.over(shard_set.document["generators"], trained=run.data["n_train"])
        _check_parts(protocol, shard_set, run)
    parts = _parts(shard_set, run, protocol)
    _prepare_out(request.out, shard_set)
    outputs: dict[str, Outputs] = {}
    for part, rows in parts.items():
        loader = rows.loader(views=model.inference_views, batch_size=BATCH, shuffle=False)
        outputs[part] = collect(model, tqdm(loader, desc=f"attributing {part}", unit="batches"), device)
    document = tabulate(
        outputs["seen"],
        outputs["unseen"],
        outputs["controls"],
        classes=run.classes,
        thresholds=request.thresholds,
    )
    control_rows, control_counts = _control_rows(shard_set, run, protocol, parts)
    document |= {
        "controls": control_tables(*control_rows, num_classes=len(run.classes)) | {"rows": control_counts}
        if control_rows
        else None,
        "protocol": protocol.name if protocol else None,
        "task": protocol.task if protocol else "attribution",
        "published": protocol.published if protocol else {},
        "detection": detection_table(outputs["seen"], outputs["unseen"])
        if protocol and protocol.task == "detection"
        else None,
        "zero_shot": _zero_shot(shard_set, run, model, outputs, device) | _zero_shot_controls(shard_set, control_rows),
        "relations": protocol.relations if protocol else {},
        "simulated": _is_simulated(shard_set, protocol),
        "attributor": run.config.attributor,
        "preset": run.config.preset,
        "semantics": run.config.semantics,
        "calibration": calibration,
        "data": {
            "name": shard_set.document["name"],
            "root_digest": shard_set.root_digest,
            "is_training_root": shard_set.root_digest == run.data["root_digest"],
            "n_per_generator": counts(*outputs.values()),
            "n_train": run.data["n_train"],
            "missing_sources": list(parts["seen"].missing_sources),
            "other_views": other_views,
        },
    }
    page = render_report(document, metrics=_metrics(request.run), samples=_samples(shard_set))
    report = request.out / "report.html"
    write_atomic(report, page)  # both at the end: what stops the work leaves the earlier pair
    write_json(request.out / "result.json", document)
    return document, report


def _own_protocol(run: Run) -> Protocol | None:
    """The protocol that the run was trained under. Raises RunError where its file is gone or was edited."""
    try:
        return load_protocol(run.protocol) if run.protocol else None
    except ValueError as error:
        raise RunError(f"the run's own protocol cannot be used: {error}; name one with --protocol") from error


def _other_views(shard_set: ShardSet, run: Run, model: Attributor) -> list[str]:
    """Views that the run was trained on with other parameters than the shard set's, `image` among them as the others
    are made from it; said aloud. Digests would differ by the codec too."""
    trained = run.data.get("params", {})
    read = [view for view in shard_set.views if view in ("image", *model.inference_views)]
    other = [view for view in read if view in trained and shard_set.views[view]["params"] != trained[view]]
    if other:
        click.echo(
            f"warning: views of {shard_set.root} have other parameters than those of the training: {', '.join(other)}",
            err=True,
        )
    return other


def _check_parts(protocol: Protocol, shard_set: ShardSet, run: Run) -> None:
    """Raises WrongUseError where a source trained on would count as unseen or, real or fake, one not trained on as seen.

    In attribution a class without training rows is none the less the run's own; training has said so.
    """
    trained = run.data["n_train"]
    if leaked := [name for name in (*protocol.unseen, *protocol.controls) if name in trained]:
        raise WrongUseError(
            f"protocol {protocol.name} has {', '.join(leaked)} outside its seen sources; the run was trained on it"
        )
    present = shard_set.document["generators"]
    untrained = [name for name in protocol.seen if name in present and name not in trained]
    if untrained and protocol.task == "detection":
        raise WrongUseError(
            f"protocol {protocol.name} counts {', '.join(untrained)} as seen; the run was not trained on it"
        )


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


def _parts(shard_set: ShardSet, run: Run, protocol: Protocol | None) -> dict[str, ShardSet]:
    """Test rows: seen, unseen, controls, all labelled by the run's classes."""
    test = shard_set.select(split="test")
    if protocol is None:
        absent = [name for name in run.classes if name not in shard_set.document["generators"]]
        if absent:
            raise ShardSetError(f"{shard_set.root} lacks the run's class {absent[0]}; evaluate on a set that has it")
        seen = test.select(generators=run.classes)
        none = seen.select(split="train").select(split="test")
        parts = {"seen": seen, "unseen": none, "controls": none}
    else:
        if protocol.classes != run.classes:
            raise WrongUseError(
                f"protocol {protocol.name} has the classes {', '.join(protocol.classes)}; the run was trained on "
                f"{', '.join(run.classes)}"
            )
        parts = {part: test.select(protocol=protocol, part=part) for part in ("seen", "unseen", "controls")}
    if len(parts["seen"]) == 0:
        raise ShardSetError(f"{shard_set.root} has no test rows of the run's classes; build the test split")
    if missing := parts["seen"].missing_sources:
        click.echo(f"warning: the protocol names sources that the shard set lacks: {', '.join(missing)}", err=True)
    return parts


def _zero_shot(
    shard_set: ShardSet, run: Run, model: Attributor, outputs: dict[str, Outputs], device: torch.device
) -> dict[str, Any]:
    """Authenticity, kind and family by text and by centre; null for the one that cannot be asked here."""
    known = shard_set.document["generators"]
    trained = [name for name in run.data["n_train"] if name in known]
    seen, unseen = outputs["seen"], outputs["unseen"]
    text = centres = None
    # Other prompts than those of the training are other questions.
    if shard_set.views.get("text", {}).get("digest") == run.data["views"].get("text", ""):
        found = text_questions(
            model,
            shard_set.document["prompts"],
            trained=trained,
            unseen=sorted(set(unseen.generators)),
            device=device,
        )
        if found is not None:
            text = {"levels": ask(found[0], seen, unseen), "unread_names": found[1]}
    for split in ("val", "train"):  # what was trained on lies closer together than any new image
        rows = shard_set.select(split=split, generators=trained)
        if len(rows.counts) == len(trained):
            loader = rows.loader(views=model.inference_views, batch_size=BATCH, shuffle=False)
            reference = collect(model, tqdm(loader, desc="class means", unit="batches"), device)
            centres = {"levels": ask(centre_questions(reference, known, trained=trained), seen, unseen), "split": split}
            break
    return {"text": text, "centres": centres}


def _zero_shot_controls(shard_set: ShardSet, rows: tuple[Rows, Rows, Rows] | None) -> dict[str, Any]:
    """What content and container, and the classical baseline, tell of authenticity, kind and family; null without rows."""
    if rows is None:
        return {"content": None, "probe": None}
    tables = level_controls(*rows, level_answers(shard_set.document["generators"]))
    return {way: {"levels": levels} if levels else None for way, levels in tables.items()}


def _control_rows(
    shard_set: ShardSet, run: Run, protocol: Protocol | None, parts: dict[str, ShardSet]
) -> tuple[tuple[Rows, Rows, Rows] | None, dict[str, list[int]]]:
    """Features for the leak controls and the classical baseline: of the run's training rows, seen and unseen test rows.

    Beside them, part -> [how many were used, of how many]: a large part is represented by CONTROL_ROWS of its rows.
    """
    train = shard_set.select(split="train")
    train = train.select(protocol=protocol, part="seen") if protocol else train.select(generators=run.classes)
    whole = {"train": train, "seen": parts["seen"], "unseen": parts["unseen"]}
    used = {name: _representatives(rows) for name, rows in whole.items()}
    counts = {name: [len(used[name]), len(rows)] for name, rows in whole.items()}
    if len(set(used["train"].labels.tolist())) < 2:
        return None, counts
    containers = _containers(shard_set)
    views = [view for view in ("image", "parsing") if view in shard_set.views]

    def features(name: str) -> Rows:
        loader = used[name].loader(views=views, batch_size=BATCH, shuffle=False)
        return extract(tqdm(loader, desc=f"controls, {name}", unit="batches"), containers)

    return (features("train"), features("seen"), features("unseen")), counts


def _representatives(rows: ShardSet) -> ShardSet:
    """CONTROL_ROWS of them at most, drawn alike from all, the same ones each time."""
    if len(rows) <= CONTROL_ROWS:
        return rows
    chosen = np.random.Generator(np.random.PCG64(0)).choice(len(rows), CONTROL_ROWS, replace=False)
    return rows.take(np.sort(chosen))


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


def _metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; a line that the trainer has not written whole (yet) is left out."""
    file = run / "metrics.jsonl"
    records = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "epoch" in record and {"step", "val_accuracy"} & set(record):
            records.append(record)
    return records


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
