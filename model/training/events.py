"""TensorBoard event files: records of protocol buffers with CRC-32C, written without the `tensorboard` package.

Format: tensorflow/core/util/event.proto, summary.proto and lib/io/record_writer.h (length and its checksum, data and
its checksum; a checksum is rotated right by 15 bits and offset).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)  # Castagnoli's polynomial, reflected
        table.append(crc)
    return table


_CRC = _table()


LARGEST = 3.4028234e38  # that a float32 holds; no NaN is below it


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def header() -> bytes:
    """The first record of a file."""
    return _record(_event(0, _field(3, b"brain.Event:2")))


def scalars(step: int, values: Mapping[str, float]) -> bytes:
    """One record: tag -> value at a step."""
    summary = b"".join(_field(1, _field(1, tag.encode()) + struct.pack("<Bf", 0x15, v)) for tag, v in values.items())
    return _record(_event(step, _field(5, summary)))


def _event(step: int, payload: bytes) -> bytes:
    return struct.pack("<Bd", 0x09, time.time()) + b"\x10" + _varint(step) + payload


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes, a string or a message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
