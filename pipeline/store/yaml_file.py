"""A user's YAML file: bounded in bytes, in depth, and in what its aliases stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .reading import read_text

YAML_BYTES = 2**23
MAX_NODES = 1_000_000  # aliases written out; nine lines of aliases stand for a thousand million


def read_yaml(path: Path) -> Any:
    """The document. Raises ValueError with the file's name where it cannot be read or is not YAML."""
    try:
        text = read_text(path, limit=YAML_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        if _count(node, {}) > MAX_NODES:
            raise ValueError("its aliases stand for too much")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # such as a date of month 13
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError:
        raise ValueError(f"{path} is not valid YAML: it is nested too deeply") from None


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """Nodes of the document with every alias written out. Raises ValueError for one that holds itself."""
    if id(node) in counted:
        if counted[id(node)] < 0:
            raise ValueError("an alias stands in what it names")
        return counted[id(node)]
    counted[id(node)] = -1
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_count(child, counted) for child in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_count(key, counted) + _count(value, counted) for key, value in node.value)
    counted[id(node)] = min(total, MAX_NODES + 1)
    return counted[id(node)]


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
