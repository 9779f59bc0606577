"""Documents with something wrong in them: each a function of its random generator alone, so its number gives it again."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LONG = "x" * 100_000
STRINGS = (
    "", " ", "\n", "a\nb", "\r", "\x00", "\x1b[2J\x1b]0;owned\x07", "\u202egnp", "\u2028", "../../outside/secret", "/etc/passwd",
    "..", ".", "a/../../b", "a\\..\\b", "image", "edge", "real", "train", "None", "nan", "inf", "-1", "1e999", "true", "=cmd()",
    "<script>alert(1)</script>", "%s%n{0}", "\ud800", "\U0001f600", "é", "e\u0301", LONG, "hf://x", "file:///etc/passwd", "CON",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 5, 255, 2**15, 2**31, -(2**31) - 1, 2**32, 2**53 + 1, 2**62, 2**63, -(2**63), 2**64, 10**30, 0.5, -0.0, 1e308,
    -1e308, 1e-320, 1e9, 1_000_000_000, float("nan"), float("inf"), float("-inf"), 1.0, 4.0,
)  # fmt: skip


def hostile_value(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(STRINGS)
    if kind < 5:
        return rng.choice(NUMBERS)
    if kind == 5:
        return rng.choice([None, True, False])
    return rng.choice(
        [[], {}, [None], [[]], {"": None}, ["a", 1], {"name": "x"}, [0] * 1000, [[0, 1]] * 5, {"a": {"b": {}}}]
    )


def mutate_value(value: Any, rng: random.Random) -> Any:
    """A document's tree with one to three changes in it."""
    tree = json.loads(json.dumps(value))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        tree = _mutate_once(tree, rng)
    return tree


def _places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(container, key) of everything below a node; of a long list its ends and middle alone, so that all fields get a turn."""
    if isinstance(node, dict):
        keys: list[Any] = list(node)
    elif isinstance(node, list):
        keys = list(range(len(node))) if len(node) < 6 else [0, 1, len(node) // 2, len(node) - 1]
    else:
        return found
    for key in keys:
        found.append((node, key))
        _places(node[key], found)
    return found


def _mutate_once(tree: Any, rng: random.Random) -> Any:
    places = _places(tree, [])
    if not places or rng.random() < 0.01:
        return hostile_value(rng)
    # Half of the changes at a random depth first, since the leaves are many.
    if rng.random() < 0.4:
        places = [(holder, key) for holder, key in places if isinstance(holder[key], dict | list)] or places
    holder, key = rng.choice(places)
    change = rng.randrange(12)
    if change == 0:
        del holder[key]
    elif change in (1, 2):
        holder[key] = hostile_value(rng)
    elif change == 3:
        other, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[name])) if not _holds(other[name], holder) else None
    elif change == 4 and isinstance(holder, dict):
        holder[rng.choice(STRINGS)] = holder.pop(key)
    elif change == 4:
        holder.insert(key, holder[key])
    elif change == 5 and isinstance(holder, dict):
        holder[rng.choice(STRINGS)] = hostile_value(rng)
    elif change == 5:
        holder.extend([hostile_value(rng)] * rng.choice([1, 2, 1000]))
    else:
        holder[key] = _near(holder[key], rng)
    return tree


def _holds(node: Any, wanted: Any) -> bool:
    if node is wanted:
        return True
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return any(_holds(child, wanted) for child in children)


def _near(value: Any, rng: random.Random) -> Any:
    """Something of the same type that is not the same."""
    if isinstance(value, bool) or value is None:
        return rng.choice([not value, 0, 1, "true", "null"])
    if isinstance(value, int):
        return rng.choice(
            [value + 1, value - 1, -value, value * 2, value * 10**9, value * 10**20, float(value), str(value)]
        )
    if isinstance(value, float):
        return rng.choice([-value, value * 1e300, value + 1, f"{value:.0f}", str(value), value * 1e-300])
    if isinstance(value, str):
        place = rng.randrange(len(value) + 1)
        odd = rng.choice(["\n", "\x00", "/", "../", "\x1b[31m", " ", "A", "\u202e", "'", '"', "\\", "{}", "%"])
        return rng.choice(
            [
                value[:place],
                value[place:],
                value[:place] + odd + value[place:],
                value.upper(),
                value + value,
                value[::-1],
                odd,
            ]
        )
    if isinstance(value, list):
        return rng.choice([value[:-1], value[1:], value[::-1], value + value, value * 50, [value], value[:1]])
    if isinstance(value, dict):
        names = list(value)
        return rng.choice(
            [
                dict(list(value.items())[:-1]),
                dict(zip(names, [value[name] for name in names[1:] + names[:1]], strict=True)),
                list(value.values()),
                {name.upper(): one for name, one in value.items()},
                {**value, "extra": value},
            ]
        )
    return value


def mutate_json(document: Any, rng: random.Random, write: Callable[[Any], bytes]) -> bytes:
    """Nine of ten in the tree, the others in the text."""
    if rng.random() < 0.1:
        return mutate_text(write(document), rng)
    changed = mutate_value(document, rng)
    if rng.random() < 0.05 and isinstance(changed, dict) and changed:  # a name twice
        name = rng.choice(list(changed))
        text = json.dumps(changed)
        return (text[:-1] + f", {json.dumps(name)}: {json.dumps(hostile_value(rng))}}}").encode(
            "utf-8", "surrogatepass"
        )
    try:
        return write(changed)
    except (ValueError, OverflowError, UnicodeEncodeError, RecursionError):
        return json.dumps(changed).encode()


def mutate_text(data: bytes, rng: random.Random) -> bytes:
    """Bytes that are no document any more, or another one."""
    place = rng.randrange(len(data) + 1)
    other = rng.randrange(len(data) + 1)
    low, high = min(place, other), max(place, other)
    line = data.split(b"\n")
    number = rng.randrange(len(line))
    return rng.choice(
        [
            lambda: data[:place],
            lambda: data[place:],
            lambda: data[:low] + data[high:],
            lambda: data[:high] + data[low:],
            lambda: data[:place] + rng.randbytes(rng.choice([1, 4, 1000])) + data[place:],
            lambda: data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :],
            lambda: b"",
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data.decode("utf-8", "replace").encode("utf-16"),
            lambda: b"[" * 100_000,
            lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            lambda: data + b"\n" + data,
            lambda: data + b"\x00",
            lambda: b"null",
            lambda: b"\x00" * 4096,
            lambda: data.replace(b"\n", b"\r\n"),
            lambda: b"\n".join(line[:number] + line[number + 1 :]),
            lambda: b"\n".join([*line[:number], line[number], *line[number:]]),
            lambda: b"\n".join(line[::-1]),
            lambda: b"\n".join(
                [*line[:number], rng.choice(STRINGS).encode("utf-8", "surrogatepass"), *line[number + 1 :]]
            ),
        ]
    )()


def mutate_table(data: bytes, rng: random.Random) -> bytes:
    """A parquet file whose rows, columns, types or bytes are others."""
    kind = rng.randrange(20)
    if kind == 0:
        return mutate_text(data, rng)
    if kind in (1, 2):  # single bytes, in the footer twice as often
        changed = bytearray(data)
        start = rng.choice([0, max(0, len(data) - 4000), max(0, len(data) - 4000)])
        for _ in range(rng.choice([1, 2, 8])):
            changed[rng.randrange(start, len(data))] = rng.randrange(256)
        return bytes(changed)
    table = pq.read_table(io.BytesIO(data))
    for _ in range(rng.choice([1, 1, 2])):
        try:
            table = _mutate_columns(table, rng)
        except (pa.ArrowException, ValueError, OverflowError, TypeError, UnicodeEncodeError):
            continue
    buffer = io.BytesIO()
    try:
        pq.write_table(
            table, buffer, compression=rng.choice(["snappy", "zstd", "none"]), use_dictionary=rng.random() < 0.7
        )
    except (pa.ArrowException, ValueError, OverflowError):
        return data[: len(data) // 2]
    return buffer.getvalue()


def _mutate_columns(table: pa.Table, rng: random.Random) -> pa.Table:
    number = rng.randrange(table.num_columns)
    name = table.column_names[number]
    column = table.column(number)
    kind = rng.randrange(12)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        return table.append_column(rng.choice([name, "", "extra", "key", "\x1b[2J"]), column)
    if kind == 2:
        return table.rename_columns([rng.choice(STRINGS[:30]) if one == name else one for one in table.column_names])
    if kind == 3:
        types = [
            pa.string(),
            pa.int64(),
            pa.int8(),
            pa.float64(),
            pa.binary(),
            pa.large_string(),
            pa.null(),
            pa.list_(pa.int8()),
        ]
        kind_of = rng.choice(types)
        try:
            return table.set_column(number, name, column.cast(kind_of))
        except (pa.ArrowException, ValueError):
            return table.set_column(number, name, pa.nulls(table.num_rows, kind_of))
    if kind == 4:
        return table.take(pa.array(rng.sample(range(table.num_rows), table.num_rows)))
    if kind == 5:
        rows = rng.choice([0, 1, table.num_rows - 1])
        return table.slice(0, rows)
    if kind == 6:
        return pa.concat_tables([table, table.slice(0, rng.randrange(1, table.num_rows + 1))])
    if kind == 7:
        return table.replace_schema_metadata({"ARROW:schema": rng.choice(["x", ""]), "bmrl": "[" * 1000})
    values = column.to_pylist()
    for _ in range(rng.choice([1, 1, len(values)])):
        row = rng.randrange(len(values))
        values[row] = _cell(values[row], column.type, rng)
    return table.set_column(number, table.schema.field(number), pa.array(values, column.type))


def _cell(value: Any, kind: pa.DataType, rng: random.Random) -> Any:
    if rng.random() < 0.15:
        return None
    if pa.types.is_integer(kind):
        return rng.choice(
            [0, -1, value + 1 if value is not None else 1, 2**15 - 1, -(2**15), 10**6, 2**31 - 1, 2**63 - 1]
        )
    if pa.types.is_floating(kind):
        return rng.choice([0.0, float("nan"), float("inf"), -1.0, 1e308])
    if pa.types.is_boolean(kind):
        return not value
    if pa.types.is_list(kind):
        return rng.choice([[], [0.0] * 4, [float("nan")] * 4, [None], [1e308] * 1000])
    text = rng.choice([one for one in STRINGS if one != "\ud800"])
    return rng.choice([text, text, str(_near(str(value or "a"), rng))])


NO_TABLE = b"PAR1"


def mutate_rows(records: list[dict[str, Any]], rng: random.Random, suffix: str) -> bytes:
    """A manifest as a csv, jsonl or parquet file."""
    changed = [dict(record) for record in records]
    for _ in range(rng.choice([1, 1, 2, 3])):
        row = rng.choice(changed)
        name = rng.choice([*row, "synthetic", "licence", "group", "source_id", "kind", "family", "mask"])
        kind = rng.randrange(8)
        if kind == 0:
            row.pop(name, None)
        elif kind == 1:
            changed.append(dict(row))
        elif kind == 2:
            for one in changed:
                one[rng.choice(["Split", "spilt", "grup", "path ", "path", "generator", *STRINGS[:10]])] = one.pop(
                    name, None
                )
        elif kind == 3:
            value = hostile_value(rng)
            for one in changed:
                one[name] = value
        elif kind == 4 and name in row:
            row[name] = _near(row[name], rng)
        else:
            row[name] = hostile_value(rng)
        if not changed:
            break
    names = list(dict.fromkeys(name for record in changed for name in record))
    if suffix == "jsonl":
        data = "".join(json.dumps(record) + "\n" for record in changed).encode()
    elif suffix == "csv":
        text = io.StringIO(newline="")
        writer = csv.writer(text, quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        writer.writerow(names)
        writer.writerows(
            [["" if record.get(name) is None else str(record.get(name)) for name in names] for record in changed]
        )
        data = text.getvalue().encode("utf-8", "surrogatepass")
    else:
        data = _parquet_of(changed, names)
        return mutate_table(data, rng) if rng.random() < 0.3 and data != NO_TABLE else data
    return mutate_text(data, rng) if rng.random() < 0.15 else data


def _parquet_of(records: list[dict[str, Any]], names: list[str]) -> bytes:
    columns: dict[str, Any] = {}
    for name in names:
        values = [record.get(name) for record in records]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeEncodeError):
            columns[name] = pa.array([str(one).encode("utf-8", "replace").decode() for one in values])
    buffer = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), buffer)
    except (pa.ArrowException, ValueError):
        return NO_TABLE
    return buffer.getvalue()


def mutate_sums(data: bytes, rng: random.Random) -> bytes:
    """Lines of SHA256SUMS."""
    if rng.random() < 0.3:
        return mutate_text(data, rng)
    lines = data.decode().splitlines()
    for _ in range(rng.choice([1, 1, 2])):
        number = rng.randrange(len(lines))
        digest, name = (*lines[number].split("  ", 1), "")[:2]
        new = rng.choice(
            [name, *STRINGS[:30], "plan.json", "image/999999.tar", "image/000000.tar", "../outside/secret", "extra"]
        )
        kind = rng.randrange(6)
        if kind == 0:
            del lines[number]
        elif kind == 1:
            lines.append(f"{digest}  {new}")
        elif kind == 2:
            lines[number] = f"{digest}  {new}"
        elif kind == 3:
            lines[number] = f"{rng.choice([digest.upper(), digest[:-1], '0' * 64, digest + digest])}  {name}"
        elif kind == 4:
            lines[number] = lines[number].replace("  ", rng.choice([" ", " *", "\t", "   "]))
        else:
            lines.insert(number, lines[number])
        if not lines:
            break
    if rng.random() < 0.6:
        lines.sort(key=lambda line: line.split("  ", 1)[-1])
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The length, the header or the end of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = rng.randrange(12)
    if kind == 0:
        new = rng.choice([0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1, len(data), len(data) - 8, 99_999_999])
        return new.to_bytes(8, "little") + data[8:]
    if kind == 1:
        return data[: rng.choice([0, 4, 8, 9, 8 + length, 8 + length + 1, len(data) - 1])]
    if kind == 2:
        text = mutate_text(data[8 : 8 + length], rng)
        return len(text).to_bytes(8, "little") + text + rest
    if kind == 3:
        return data + rng.randbytes(rng.choice([1, 8, 4096]))
    if kind == 4:  # the values
        changed = bytearray(rest)
        for _ in range(64):
            changed[rng.randrange(len(changed))] = rng.choice([0x7F, 0xFF, 0x80, 0])
        return data[: 8 + length] + bytes(changed)
    if kind in (5, 6, 7):
        name = rng.choice([one for one in header if one != "__metadata__"])
        tensor = header[name]
        field = rng.choice(["dtype", "shape", "data_offsets"])
        if field == "dtype":
            tensor["dtype"] = rng.choice(
                ["F16", "I32", "F64", "BF16", "U8", "BOOL", "F8_E4M3", "C64", "x", "", 1, None]
            )
        elif field == "shape":
            old = tensor["shape"]
            tensor["shape"] = rng.choice(
                [[], [0], old[::-1], [*old, 1], [2**40], [2**63], [-1], [2**32, 2**32], [1.5], "x", [int(np.prod(old))]]
            )
        else:
            low, high = tensor["data_offsets"]
            choices = [
                [high, low],
                [0, 2**62],
                [low, high + 1],
                [low, low],
                [-1, high],
                [low + 1, high],
                [0, 0],
                [low],
                "x",
            ]
            tensor["data_offsets"] = rng.choice(choices)
    elif kind == 8:
        header["__metadata__"] = rng.choice(
            [{}, None, {"bmrl_meaning": "0" * 64}, {"bmrl_meaning": ""}, {"a": 1}, [], "x"]
        )
    else:
        header = mutate_value(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest
