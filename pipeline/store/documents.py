"""A JSON document that came from outside, held against its schema: depth, types and required keys in one place."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec


class DocumentError(ValueError):
    """A document is no JSON, is nested too deeply, or is not what its schema says; the text says where."""


def parse_json(data: bytes, *, non_finite: bool = False) -> Any:
    """The document. Raises DocumentError. non_finite: infinities as Python's json writes them are taken."""
    try:
        return json.loads(data) if non_finite else msgspec.json.decode(data)
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise DocumentError(f"it is no JSON: {error}") from None


def check_schema(document: Any, kind: Any) -> None:
    """Raises DocumentError where a value is none of `kind` (msgspec's types): nothing is converted but int to float. A dataclass
    takes no other names than its fields."""
    if dataclasses.is_dataclass(kind) and isinstance(document, dict):
        fields = {field.name for field in dataclasses.fields(kind)}
        if unknown := sorted(set(document) - fields):
            raise DocumentError(f"{unknown[0]!r} is none of {', '.join(sorted(fields))}")
    try:
        msgspec.convert(document, kind)
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None
    except (msgspec.MsgspecError, OverflowError) as error:
        raise DocumentError(str(error).replace("`", "")) from None
