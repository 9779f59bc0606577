"""From a dataset on disk to a shard set, and from a shard set to batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .shardset import ShardSet

__all__ = ["ShardSet"]


def __getattr__(name: str) -> Any:
    """Import late: the command line must not pay for torch to print its help."""
    if name == "ShardSet":
        from .shardset import ShardSet

        return ShardSet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
