"""A parquet file's bytes -> a table, once its metadata say that it fits into memory."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from .memory import check_memory

_OFFSET_BYTES = 4  # a row of a text column takes at least its offset


def parse_table(data: bytes, *, columns: Sequence[str] | None = None, max_rows: int | None = None) -> pa.Table:
    """Raises pa.ArrowException for what is no parquet file, and ValueError for too many rows: a file of a few kilobytes
    can hold thousands of millions of equal ones."""
    file = pq.ParquetFile(pa.BufferReader(data))
    metadata = file.metadata
    if max_rows is not None and metadata.num_rows > max_rows:
        raise ValueError(f"it has {metadata.num_rows} rows, expected {max_rows}")
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    check_memory(max(unpacked, metadata.num_rows * metadata.num_columns * _OFFSET_BYTES), f"{metadata.num_rows} rows")
    return file.read(columns=None if columns is None else list(columns))
