"""Plans: the rows of a shard."""

from __future__ import annotations

import pyarrow.compute as pc

from bmrl.pipeline.shards.plan import PlanSettings
from bmrl.pipeline.shards.planning import extend_plan, new_plan
from bmrl.pipeline.sources import SourceRow


def rows(first: int, count: int) -> list[SourceRow]:
    return [
        SourceRow(
            path=f"real/{n}.png", generator="real", kind="real", family="real", split=("train", "val", "test")[n % 3],
            group=str(n), synthetic=False, licence="unknown",
        )
        for n in range(first, first + count)
    ]  # fmt: skip


def test_the_rows_of_each_shard() -> None:
    """Found by their place; a filter over all rows for each shard is quadratic over a build."""
    plan = new_plan(rows(0, 50), PlanSettings(dataset="folder", shard_size=4), {})
    plan = extend_plan(plan, rows(50, 9), cause="extend")
    assert len(plan.shards) == 17
    for shard in plan.shards:
        assert plan.shard_rows(shard).equals(plan.rows.filter(pc.equal(plan.rows["shard"], shard)))
        assert plan.shard_rows(shard)["row"].to_pylist() == list(range(plan.shard_sizes()[shard]))
