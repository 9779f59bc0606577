"""The same bytes whatever the number of workers, the order of shards and the steps in which a set was extended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import build, content, run_command

from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.build.work import ShardTask, build_views, build_with_tool
from bmrl.pipeline.shards.finish import finalise
from bmrl.pipeline.shards.plan import PlanError, write_plan
from bmrl.pipeline.shards.verify import verify
from bmrl.pipeline.views import VIEWS, text
from bmrl.pipeline.views.column import plan_view
from bmrl.pipeline.views.image import ImageParams

Options = Callable[..., BuildOptions]
Build = Callable[[BuildOptions], Path]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 7])
def test_any_number_of_workers(workers: int, small_source: Path, small_root: Path, tmp_path: Path) -> None:
    maps = f"maps:bisenet:{small_source.with_name('maps')}"
    done = build(small_source, tmp_path / "out", "--shard-size", "8", "--parser", maps, "--workers", workers)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == content(small_root)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_shards_and_views(seed: int, small_options: Options, small_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    root.mkdir()
    intake = resolve(small_options(root))
    plan = intake.plan
    write_plan(root, plan)
    rng = np.random.default_rng(seed)
    for shard in rng.permutation(plan.shards):

        def task(*views: str, shard: str = str(shard)) -> ShardTask:
            rows = plan.shard_rows(shard).to_pylist()
            return ShardTask(
                root=root, source_root=intake.walk.root, shard=shard, rows=rows, plans=plan.views, views=views,
                plan_id=plan.id,
            )  # fmt: skip

        build_views(task("image"))
        for view in rng.permutation(["edge", "noise", "text", "parsing"]):
            if view == "parsing":
                build_with_tool(task("parsing"), intake.tools["parsing"].open())
            else:
                build_views(task(str(view)))
    finalise(root, plan)
    assert content(root) == content(small_root)


def test_extended_twice_and_the_same_steps_again(
    small_source: Path, small_options: Options, build_here: Build, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    steps = (("train",), ("val", "mystery"), ("test",))
    maps = f"maps:bisenet:{small_source.with_name('maps')}"

    def extended(out: Path) -> Path:
        shutil.rmtree(source, ignore_errors=True)
        for number, parts in enumerate(steps):
            for path in sorted(small_source.rglob("*.*")):
                relative = path.relative_to(small_source)
                if relative.parts[0] in parts or (relative.parts[1] == "mystery") == ("mystery" in parts):
                    (source / relative).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, source / relative)
            build_here(small_options(out, source_root=source, parser=maps, extend=number > 0))
        return out

    first, again = extended(tmp_path / "first"), extended(tmp_path / "again")
    assert content(first) == content(again)
    assert len(content(first)) > 30
    assert verify(first, deep=True, source_root=source) == []


def changed_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    sobel = cv2.Sobel
    monkeypatch.setattr(cv2, "Sobel", lambda *arguments, **options: sobel(*arguments, **options) + 1)


def changed_image(monkeypatch: pytest.MonkeyPatch) -> None:
    interpolate = torch.nn.functional.interpolate

    def off_by_one(*arguments: Any, **options: Any) -> torch.Tensor:
        out = interpolate(*arguments, **options)
        out[..., 5, 5] ^= 1
        return out

    monkeypatch.setattr(torch.nn.functional, "interpolate", off_by_one)


def changed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    convolve = cv2.filter2D
    monkeypatch.setattr(cv2, "filter2D", lambda *arguments, **options: convolve(*arguments, **options) + 1)


def changed_text(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenize = text.tokenize
    monkeypatch.setattr(text, "tokenize", lambda lines: tokenize(lines) + 1)


CHANGES = {"image": changed_image, "edge": changed_edge, "noise": changed_noise, "text": changed_text}


@pytest.mark.parametrize("view", CHANGES)
def test_a_library_that_computes_something_else_changes_the_digest(
    view: str, small_options: Options, small_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digests() -> dict[str, str]:
        source = plan_view(VIEWS["image"], ImageParams())
        others = (plan_view(VIEWS[name], VIEWS[name].params(), image_plan=source) for name in ("edge", "noise", "text"))
        plans = (source, *others)
        return {plan.name: plan.digest for plan in plans}

    before = digests()
    CHANGES[view](monkeypatch)
    after = digests()
    assert after[view] != before[view]
    follows = {"edge", "noise"} if view == "image" else set()  # they read it
    assert {name for name in after if after[name] != before[name]} == {view, *follows}
    with pytest.raises(PlanError, match=rf"view {view}: a library here computes something else") as refusal:
        resolve(small_options(small_root))
    assert f"--replace {view}" in str(refusal.value)


def test_a_parser_that_computes_something_else_changes_the_digest(
    shards: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bmrl.pipeline.parsers.parser import Parser

    labels = Parser.labels

    def other(self: Parser, crops: Any) -> Any:
        return [np.where(found == 1, 2, found) for found in labels(self, crops)]

    monkeypatch.setattr(Parser, "labels", other)
    monkeypatch.setattr(Parser, "parse", lambda self, crops: [np.zeros((224, 224), np.uint8) for _ in crops])
    with pytest.raises(PlanError, match="view parsing: a library here computes something else"):
        resolve(BuildOptions(dataset="folder", source_root=faces, out=shards, parser="bisenet-lite"))


def test_replacing_a_view_writes_its_column_alone(
    small_source: Path, small_options: Options, small_copy: Path, build_here: Build
) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_copy.rglob("*.tar")}
    maps = small_source.with_name("maps")
    build_here(small_options(small_copy, parser=f"maps:celebamask-hq:{maps}", replace=("parsing",)))
    changed = {path.parent.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {"parsing"}
    assert verify(small_copy, deep=True) == []


def test_retried_sources_come_as_new_shards(
    small_source: Path, small_options: Options, build_here: Build, tmp_path: Path
) -> None:
    source = shutil.copytree(small_source, tmp_path / "source")
    broken = source / "train/real/Face train0.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"torn")
    out = build_here(small_options(tmp_path / "out", source_root=source))
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*.tar")}
    build_here(small_options(out, source_root=source, retry_failed=True))  # still torn: attempt 1 fails as well
    broken.write_bytes(whole)
    build_here(small_options(out, source_root=source, retry_failed=True))
    failures = pq.read_table(out / "failures.parquet").to_pylist()
    assert [(row["source_path"], row["attempt"]) for row in failures] == [
        ("train/real/Face train0.png", n) for n in (0, 1)
    ]
    index = pq.read_table(out / "index.parquet").to_pylist()
    (row,) = [row for row in index if row["source_path"] == "train/real/Face train0.png"]
    assert row["shard"] == max(one["shard"] for one in index)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    assert verify(out, deep=True, source_root=source) == []
    assert run_command("prep", "verify", out).returncode == 0
