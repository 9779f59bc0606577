"""TensorBoard's event files, read back by a plain reader of the format."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bmrl.model.training.events import crc32c, header, scalars
from bmrl.model.training.metrics import events_file, open_metrics


def records(data: bytes) -> Iterator[bytes]:
    """TFRecords, both checksums checked."""

    def check(part: bytes, stored: bytes) -> None:
        crc = crc32c(part)
        assert struct.unpack("<I", stored)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32

    while data:
        (length,) = struct.unpack("<Q", data[:8])
        check(data[:8], data[8:12])
        body = data[12 : 12 + length]
        check(body, data[12 + length : 16 + length])
        yield body
        data = data[16 + length :]


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer."""

    def varint() -> int:
        nonlocal message
        value = shift = 0
        while True:
            byte, message = message[0], message[1:]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while message:
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
        elif kind == 2:
            length = varint()
            yield key >> 3, message[:length]
            message = message[length:]
        else:
            size, code = {1: (8, "<d"), 5: (4, "<f")}[kind]
            yield key >> 3, struct.unpack(code, message[:size])[0]
            message = message[size:]


def read(data: bytes) -> list[tuple[int, dict[str, float]]]:
    """(step, tag -> value) of each event after the header."""
    found = []
    for number, record in enumerate(records(data)):
        event = dict(fields(record))
        assert event[1] > 1.7e9  # seconds since 1970
        if number == 0:
            assert event[3] == b"brain.Event:2"
            continue
        values = [dict(fields(value)) for _, value in fields(event[5])]
        found.append((event[2], {value[1].decode(): value[2] for value in values}))
    return found


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(b"") == 0  # RFC 3720's check value


def test_scalars_are_read_back() -> None:
    data = header() + scalars(3, {"train/loss": 0.5}) + scalars(70_000, {"a": -1.25, "b": 2.0})
    assert read(data) == [(3, {"train/loss": 0.5}), (70_000, {"a": -1.25, "b": 2.0})]


def test_a_resumed_log_and_its_events_are_cut_alike(tmp_path: Path) -> None:
    with open_metrics(tmp_path, 0, 0) as log:
        for step in (1, 2):
            log.write({"step": step, "epoch": 0, "loss": step / 4})
        log.write({"epoch": 0, "val_nll": 0.75, "val_accuracy": 0.5})
        log.write({"step": 3, "epoch": 1, "loss": 9.0})
    with open_metrics(tmp_path, 2, 1) as log:
        log.write({"step": 3, "epoch": 1, "loss": 0.125})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [1, 2, None, 3] and lines[-1]["loss"] == 0.125
    assert read(events_file(tmp_path).read_bytes()) == [
        (1, {"train/epoch": 0.0, "train/loss": 0.25}),
        (2, {"train/epoch": 0.0, "train/loss": 0.5}),
        (2, {"validation/epoch": 0.0, "validation/val_nll": 0.75, "validation/val_accuracy": 0.5}),
        (3, {"train/epoch": 1.0, "train/loss": 0.125}),
    ]


def test_what_is_not_finite_is_left_out_of_the_events(tmp_path: Path) -> None:
    with open_metrics(tmp_path, 0, 0) as log:
        log.write({"step": 1, "epoch": 0, "loss": 1.0, "accuracy": float("nan")})
    assert read(events_file(tmp_path).read_bytes()) == [(1, {"train/epoch": 0.0, "train/loss": pytest.approx(1.0)})]


def test_the_events_carry_the_run_s_name(tmp_path: Path) -> None:
    run = tmp_path / "first"
    (run / "tensorboard").mkdir(parents=True)
    (run / "tensorboard/events.out.tfevents.bmrl").touch()  # of version 0.1
    with open_metrics(run, 0, 0) as log:
        log.write({"step": 1, "epoch": 0, "loss": 1.0})
    assert [path.relative_to(run).as_posix() for path in run.rglob("events*")] == [
        "tensorboard/first/events.out.tfevents.bmrl"
    ]
    run.rename(tmp_path / "second")
    with open_metrics(tmp_path / "second", 1, 0):
        assert [path.parent.name for path in tmp_path.rglob("events*")] == ["second"]


def test_a_figure_beyond_float32_is_left_out(tmp_path: Path) -> None:
    """A run's metrics.jsonl came from outside."""
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "epoch": 0, "loss": 1e300}\n{"step": 2, "epoch": 0, "loss": NaN}\n'
    )
    with open_metrics(tmp_path, step=2, epoch=1):
        assert (tmp_path / "tensorboard").is_dir()
