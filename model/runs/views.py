"""Where a run's settings meet the views of a shard set: what it reads must be there, built with the same parameters."""

from __future__ import annotations

from collections.abc import Collection

from ...pipeline.shardset import ShardSet, ShardSetError
from ..attributor import Attributor
from ..config import RunConfig, replace_setting, settings_of
from ..errors import WrongUseError
from ..rules import check_config


def check_views(model: Attributor, shard_set: ShardSet) -> None:
    """Raises ShardSetError where the shards lack a view that a trained attributor reads, WrongUseError where one was built
    with other parameters than the settings say."""
    for view in model.inference_views:
        if view not in shard_set.views:
            raise ShardSetError(
                f"{shard_set.root} has no view {view!r}, which the run reads; add it with `bmrl-prep build --views {view}`"
            )
    for one in settings_of(model.config):
        if (source := one.from_view) is None or source.view not in model.inference_views:
            continue
        stored = shard_set.views[source.view]["params"][source.param]
        if stored != one.value:
            raise WrongUseError(
                f"the run was trained on {source.phrase.format(one.value)}, {shard_set.root} holds "
                f"{source.short.format(stored)}; use a shard set built with {source.option} {one.value}"
            )


def follow_views(config: RunConfig, shard_set: ShardSet, *, asked: Collection[str]) -> RunConfig:
    """Settings that are what a view was built with are taken from the shards; raises WrongUseError where another value was
    asked for by its key, or where no attributor of these settings can be made for them."""
    for one in settings_of(config):
        source = one.from_view
        if source is None or source.view not in config.own.inference_views or source.view not in shard_set.views:
            continue
        stored = shard_set.views[source.view]["params"][source.param]
        held = f"{shard_set.root} holds {source.phrase.format(stored)}"
        if one.key in asked and one.value != stored:
            raise WrongUseError(f"{one.key} {one.value}: {held}")
        config = replace_setting(config, one.key, stored)
        try:
            check_config(config)
        except ValueError as error:
            raise WrongUseError(f"{held}: {error}") from error
    return config
