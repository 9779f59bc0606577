"""metrics.jsonl, one line a step and one a validation, and the same figures as a TensorBoard event file."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ...pipeline.store.local import write_bytes
from ...pipeline.store.reading import check_no_link, read_file
from ..documents import read_record
from . import events

NAME = "metrics.jsonl"
METRICS_BYTES = 2**32  # some 20 million steps
EVENTS = "events.out.tfevents.bmrl"


def events_file(run: Path) -> Path:
    """TensorBoard calls a run by the folder of its events below --logdir: RUN's own name."""
    return run / "tensorboard" / run.resolve().name / EVENTS


class MetricsLog:
    """Appends to a run's metrics; nothing is buffered, so a line is written whole or the error comes at once."""

    def __init__(self, run: Path) -> None:
        self._lines: BinaryIO = (run / NAME).open("ab", buffering=0)
        self._events: BinaryIO = events_file(run).open("ab", buffering=0)
        self._step = 0

    def write(self, record: dict[str, Any]) -> None:
        """record: `step` for a training step, none for a validation."""
        _write(self._lines, (json.dumps(record) + "\n").encode())
        self._step = record.get("step", self._step)
        _write(self._events, _event(record, self._step))

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._events.close()


def open_metrics(run: Path, step: int, epoch: int) -> MetricsLog:
    """The log of a run that stands at a checkpoint: lines after it are dropped, steps beyond it and validations of epochs
    not finished by it; the event file is written anew from what is left."""
    for path in (run / NAME, events_file(run)):
        check_no_link(run, path.relative_to(run).as_posix(), of="a run")
    lines, kept = _read(run / NAME), []
    for line, record in lines:
        if record is not None and (record["step"] <= step if "step" in record else record["epoch"] < epoch):
            kept.append((line, record))
    if len(kept) < len(lines):
        write_bytes(run / NAME, b"".join(line for line, _ in kept))
    file = events_file(run)
    for old in (run / "tensorboard").rglob(EVENTS):  # of an older version, or of before RUN was renamed
        if old != file:
            old.unlink()
    file.parent.mkdir(parents=True, exist_ok=True)
    at, data = 0, [events.header()]
    for _, record in kept:
        at = record.get("step", at)
        data.append(_event(record, at))
    write_bytes(file, b"".join(data))
    return MetricsLog(run)


def _read(path: Path) -> list[tuple[bytes, dict[str, Any] | None]]:
    """Lines with their records; None for one that a crash tore or that is none of ours."""
    lines = read_file(path, limit=METRICS_BYTES).splitlines(keepends=True) if path.exists() else []
    return [(line, read_record(line) if line.endswith(b"\n") else None) for line in lines]


def _event(record: dict[str, Any], step: int) -> bytes:
    part = "train" if "step" in record else "validation"
    values = {f"{part}/{name}": float(value) for name, value in record.items() if name != "step"}
    return events.scalars(step, {tag: value for tag, value in values.items() if abs(value) <= events.LARGEST})


def _write(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
