"""Is a shard set what it says? Sizes and the exact set of files; with deep, every hash and re-derived samples."""

from __future__ import annotations

import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..parsers.choice import choice_of
from ..store.local import TEMPORARY_PREFIX, file_digests, file_sha256
from ..store.reading import open_regular, read_file
from ..views import VIEWS
from ..views.column import ViewPlan
from ..views.view import Sample, rows_view
from .arrays import ends_beyond, header_problem, member_problem
from .names import DATASET_JSON, INDEX, LOG, PLAN_JSON, PLAN_ROWS, SUMS, TABLES, is_column_file, sidecar_name, tar_name
from .opening import TableError, keys_by_shard, read_tables
from .plan import Plan, PlanError, read_plan
from .sums import read_sums
from .tars import KEY_PATTERN, Sidecar, read_sidecar

TOOLS = {"parser": choice_of}  # a view's tool -> what finds it again by the view's plan
NUM_REDERIVED = 32  # samples


@dataclass(frozen=True)
class Damage:
    """One file and what is wrong with it."""

    path: str  # relative to the root
    problem: str


def verify(root: Path, *, deep: bool = False, source_root: Path | None = None) -> list[Damage]:
    """All damages of a shard set, sorted by path. An incomplete build is one damage: dataset.json is missing."""
    if not (root / DATASET_JSON).is_file():
        return [Damage(DATASET_JSON, "missing: the build is not complete, run it again")]
    try:
        sums = read_sums(root)
    except ValueError as error:
        return [Damage(SUMS, f"{error}; run the build again to write it anew")]
    damages = _check_file_set(root, sums)
    missing = {damage.path for damage in damages}
    damages += _check_small_files(root, {name: digest for name, digest in sums.items() if name not in missing})
    broken = {damage.path for damage in damages}
    if not {PLAN_JSON, PLAN_ROWS, DATASET_JSON} & broken:
        damages += _check_columns(root, sums, broken, deep=deep)
    else:
        damages += _check_names(sums)
    if deep and not damages:
        damages += _rederive(root, source_root)
    return sorted(damages, key=lambda damage: damage.path)


def _check_file_set(root: Path, sums: dict[str, str]) -> list[Damage]:
    found = set()
    for path in root.rglob("*"):
        relative = path.relative_to(root).as_posix()
        if relative.split("/", 1)[0] == LOG or (path.is_dir() and not path.is_symlink()):
            continue
        found.add(relative)
    expected = {*sums, SUMS}
    damages = [Damage(name, "missing") for name in expected - found]
    for name in found - expected:
        left_over = Path(name).name.startswith(TEMPORARY_PREFIX)
        damages.append(Damage(name, "left over by a killed build; the next build removes it" if left_over else "extra"))
    damages += [
        Damage(name, "is a link; a shard set holds plain files") for name in found if (root / name).is_symlink()
    ]
    return damages


def _check_names(sums: dict[str, str]) -> list[Damage]:
    """What can be said without a plan: SHA256SUMS must list the tables and no name that no shard set has."""
    strange = [name for name in sums if name not in TABLES and not is_column_file(name)]
    absent = [name for name in TABLES if name not in sums]
    return [Damage(SUMS, f"lists {name}, which no shard set has") for name in strange] + [
        Damage(SUMS, f"does not list {name}") for name in absent
    ]


def _check_small_files(root: Path, sums: dict[str, str]) -> list[Damage]:
    """Everything but the tars is small enough to be hashed always."""
    damages = []
    for name, digest in sums.items():
        if name.endswith(".tar"):
            continue
        try:
            if file_sha256(root / name) != digest:
                damages.append(Damage(name, "its content is not what SHA256SUMS says"))
        except OSError as error:
            damages.append(_unreadable(name, error))
    return damages


def _unreadable(name: str, error: OSError) -> Damage:
    return Damage(name, f"cannot be read: {error.strerror}")


def _check_columns(root: Path, sums: dict[str, str], broken: set[str], *, deep: bool) -> list[Damage]:
    try:
        plan = read_plan(root)
    except PlanError as error:
        return [Damage(PLAN_JSON, str(error))]
    assert plan is not None
    damages: list[Damage] = []
    kept: dict[str, list[str]] | None = None
    if not {DATASET_JSON, INDEX} & broken:
        try:
            tables = read_tables(root)
        except TableError as error:
            return [Damage(error.name, error.problem)]
        kept = keys_by_shard(tables)
        damages += _check_same(tables.document, plan)
    named = set(TABLES)
    for view, view_plan in plan.views.items():
        for shard in plan.shards:
            named |= {sidecar_name(view, shard)}
            sidecar = None
            if sidecar_name(view, shard) not in broken and (sidecar := read_sidecar(root, view, shard)) is None:
                damages.append(Damage(sidecar_name(view, shard), "damaged"))
            if sidecar is None:
                named |= {tar_name(view, shard)} & sums.keys()
                continue
            if VIEWS[view].decides_rows:
                planned = set(plan.shard_rows(shard)["key"].to_pylist())
                if {*sidecar["keys"], *(drop["key"] for drop in sidecar["drops"])} != planned:
                    damages.append(Damage(sidecar_name(view, shard), "its samples are not the plan's"))
            if kept is not None and sidecar["keys"] != kept.get(shard, []):
                damages.append(Damage(sidecar_name(view, shard), "its samples are not those of index.parquet"))
            elif problem := member_problem(view_plan, sidecar):
                damages.append(Damage(sidecar_name(view, shard), problem))
            if ends_beyond(sidecar):
                damages.append(Damage(tar_name(view, shard), "ends before a member that its sidecar names"))
            if sidecar["num_samples"]:
                named |= {tar_name(view, shard)}
                damages += _check_tar(root, view_plan, sidecar, sums, broken, deep=deep)
            if sidecar["digest"] != view_plan.digest:
                damages.append(Damage(sidecar_name(view, shard), "its digest is not the plan's"))
    damages += [Damage(SUMS, f"lists {name}, which the plan does not") for name in set(sums) - named]
    damages += [Damage(SUMS, f"does not list {name}") for name in named - set(sums)]
    return damages


def _check_same(document: dict[str, Any], plan: Plan) -> list[Damage]:
    """Whether dataset.json is of this plan."""
    if document["plan_id"] != plan.id:
        return [Damage(DATASET_JSON, "is of another plan than plan.json")]
    digests = {name: view.digest for name, view in plan.views.items()}
    if {name: view["digest"] for name, view in document["views"].items()} != digests:
        return [Damage(DATASET_JSON, "has other views than plan.json")]
    if [shard["name"] for shard in document["shards"]] != plan.shards:
        return [Damage(DATASET_JSON, "has other shards than plan.json")]
    return []


def _check_tar(
    root: Path, plan: ViewPlan, sidecar: Sidecar, sums: dict[str, str], broken: set[str], *, deep: bool
) -> list[Damage]:
    name = tar_name(sidecar["view"], sidecar["shard"])
    if name in broken:
        return []
    path = root / name
    if path.stat().st_size != sidecar["bytes"]:
        return [Damage(name, f"has {path.stat().st_size} bytes, its sidecar says {sidecar['bytes']}")]
    if sums.get(name) != sidecar["sha256"]:
        return [Damage(SUMS, f"and the sidecar of {name} disagree")]
    if not deep:
        return []
    try:
        sha256, xxh3 = file_digests(path)
        if sha256 != sidecar["sha256"]:
            return [Damage(name, "damaged: its sha256 is not the sidecar's")]
        if xxh3 != sidecar["xxh3_128"]:  # what the loader and an export compare
            return [Damage(sidecar_name(sidecar["view"], sidecar["shard"]), f"its xxh3 is not that of {name}")]
        return _check_members(path, name, plan, sidecar)
    except tarfile.TarError as error:
        return [Damage(name, f"is no tar: {error}")]
    except OSError as error:
        return [_unreadable(name, error)]


def _check_members(path: Path, name: str, plan: ViewPlan, sidecar: Sidecar) -> list[Damage]:
    """Regular members under the names, at the offsets and of the sizes that the sidecar gives; no PAX headers."""
    places = {suffix: iter(sidecar["members"][suffix]) for suffix in plan.codec}
    expected = [
        (f"{key}.{suffix}", *next(places[suffix], (-1, -1))) for key in sidecar["keys"] for suffix in sorted(plan.codec)
    ]
    number = 0
    with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for number, member in enumerate(tar, start=1):
            if number > len(expected) or (member.name, member.offset_data, member.size) != expected[number - 1]:
                return [Damage(name, f"member {number} is {member.name!r}, which the sidecar does not say")]
            key = member.name.split(".", 1)[0]
            if not member.isreg() or member.pax_headers or not KEY_PATTERN.fullmatch(key):
                return [Damage(name, f"member {member.name!r} is not a plain file of the allowed form")]
    if number < len(expected):
        return [Damage(name, f"has {number} members, its sidecar says {len(expected)}")]
    problem = header_problem(path, plan, sidecar)
    return [Damage(name, problem)] if problem else []


@dataclass(frozen=True)
class _Place:
    """One sample of a shard set on disk."""

    root: Path
    plans: dict[str, ViewPlan]
    shard: str
    number: int  # of its row in the shard

    def sidecar(self, view: str) -> Sidecar:
        found = read_sidecar(self.root, view, self.shard)
        assert found is not None
        return found

    def member(self, view: str, suffix: str) -> bytes:
        offset, size = self.sidecar(view)["members"][suffix][self.number]
        with open_regular(self.root / tar_name(view, self.shard)) as file:
            file.seek(offset)
            return file.read(size)

    def holds(self, view: str, value: Any) -> bool:
        """Whether what is stored is this array, whatever its codec's bytes, or these members."""
        plan = self.plans[view]
        if isinstance(value, dict):
            return all(self.member(view, suffix) == data for suffix, data in value.items())
        return np.array_equal(value, plan.decode(self.member(view, plan.suffix)))


def _rederive(root: Path, source_root: Path | None) -> list[Damage]:
    """Compute a random sample of the views again: from the shards, and those that read a source where it is given."""
    plan = read_plan(root)
    assert plan is not None
    chooser = random.Random(0)
    shards = plan.shards
    damages = []
    tools: dict[str, Any] = {}  # view -> its tool, opened once
    for shard in chooser.sample(shards, min(len(shards), NUM_REDERIVED)):
        sidecar = read_sidecar(root, rows_view(VIEWS).name, shard)
        if sidecar is None or not sidecar["num_samples"]:
            continue
        number = chooser.randrange(sidecar["num_samples"])
        rows = {row["key"]: row for row in plan.shard_rows(shard).to_pylist()}
        place = _Place(root, plan.views, shard, number)
        damages += _rederive_sample(place, rows[sidecar["keys"][number]], source_root, tools)
    return damages


def _rederive_sample(
    place: _Place, row: dict[str, Any], source_root: Path | None, tools: dict[str, Any]
) -> list[Damage]:
    decisive = rows_view(VIEWS)
    plan = place.plans[decisive.name]
    source = None
    if source_root is not None:
        assert decisive.decode is not None
        try:
            source = decisive.decode(read_file(source_root / row["source_path"]), decisive.params_of(plan.params))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            name = tar_name(decisive.name, place.shard)
            return [Damage(name, f"its source {row['source_path']} cannot be read: {reason}")]
    sample = Sample(
        row=row,
        facts=place.sidecar(decisive.name)["rows"][place.number],
        source=source,
        image=plan.decode(place.member(decisive.name, plan.suffix)),
    )
    damages = []
    for name, view_plan in place.plans.items():
        view = VIEWS[name]
        if view.reads == "source" and source is None:
            continue
        params = view.params_of(view_plan.params)
        if view.compute is not None:
            computed = view.compute(sample, params)
        elif view.compute_batch is not None and view.tool_name is not None and view.tool_name(view_plan.params):
            if name not in tools:
                tools[name] = TOOLS[view.tool](view_plan).open()
            (computed,) = view.compute_batch([sample], params, tools[name])
        else:
            continue
        if not place.holds(name, computed.value):
            damages.append(Damage(tar_name(name, place.shard), f"sample {place.number} is not what its view computes"))
    return damages
