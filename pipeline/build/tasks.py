"""The one list of tasks that either runner goes through: which columns of which shards a plan still misses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shards.plan import Plan
from ..shards.tars import is_done, read_sidecar
from ..views import VIEWS
from ..views.column import ViewPlan, ordered
from ..views.view import rows_view
from .work import ShardTask

CPU = "cpu"  # the stage of the views that need no tool; any other stage is the view that a tool computes


@dataclass(frozen=True, kw_only=True)
class TaskList:
    """The missing columns by shard. A task is made when it is started: the rows of a whole plan would fill memory."""

    root: Path
    source_root: Path
    plan: Plan
    missing: Mapping[str, set[str]]  # shard -> views, in shard order
    tools: Mapping[str, Any]  # view -> what opens its tool

    def stages(self, shard: str) -> list[str]:
        """What is to be done for a shard, in this order: the CPU views together, then each view of a tool."""
        views = ordered(self.missing[shard])
        tooled = [view for view in views if VIEWS[view].tool]
        return [*([CPU] if len(tooled) < len(views) else []), *tooled]

    def task(self, shard: str, stage: str) -> ShardTask:
        views = [view for view in ordered(self.missing[shard]) if not VIEWS[view].tool] if stage == CPU else [stage]
        return ShardTask(
            root=self.root.resolve(),
            source_root=self.source_root,
            shard=shard,
            rows=self.plan.shard_rows(shard).to_pylist(),
            plans=self.plan.views,
            views=tuple(views),
            plan_id=self.plan_id,
            records=dict(VIEWS),
        )

    @property
    def plan_id(self) -> str:
        return self.plan.id


def missing_views(root: Path, shard: str, plans: dict[str, ViewPlan]) -> set[str]:
    """The views of this shard that are not committed under the plan's digest and the rows they must follow."""
    sidecars = {view: read_sidecar(root, view, shard) for view in plans}
    followed = sidecars.get(rows_view(VIEWS).name)
    missing = set()
    for view, plan in plans.items():
        sidecar = sidecars[view]
        follows = followed is not None and sidecar is not None and followed["keys_sha256"] == sidecar["keys_sha256"]
        if not is_done(root, sidecar, plan.digest) or not follows:
            missing.add(view)
    return missing
