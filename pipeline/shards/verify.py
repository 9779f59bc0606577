"""Is a shard set what it says? Sizes and the exact set of files; with deep, every hash and re-derived samples."""

from __future__ import annotations

import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..parsers.weights import file_sha256
from ..store.local import TEMPORARY_PREFIX
from ..views import edge, image, noise, text
from ..views.column import ViewPlan
from .finish import TABLES
from .plan import PlanError, read_plan
from .sums import read_sums
from .tars import COLUMN_FILE, KEY_PATTERN, Sidecar, read_members, read_sidecar

NUM_REDERIVED = 32  # samples


@dataclass(frozen=True)
class Damage:
    """One file and what is wrong with it."""

    path: str  # relative to the root
    problem: str


def verify(root: Path, *, deep: bool = False, source_root: Path | None = None) -> list[Damage]:
    """All damages of a shard set, sorted by path. An incomplete build is one damage: dataset.json is missing."""
    if not (root / "dataset.json").is_file():
        return [Damage("dataset.json", "missing: the build is not complete, run it again")]
    try:
        sums = read_sums(root)
    except ValueError as error:
        return [Damage("SHA256SUMS", f"{error}; run the build again to write it anew")]
    damages = _check_file_set(root, sums)
    missing = {damage.path for damage in damages}
    damages += _check_small_files(root, {name: digest for name, digest in sums.items() if name not in missing})
    broken = {damage.path for damage in damages}
    if not {"plan.json", "plan.parquet", "dataset.json"} & broken:
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
        if relative.split("/", 1)[0] == ".log" or (path.is_dir() and not path.is_symlink()):
            continue
        found.add(relative)
    expected = {*sums, "SHA256SUMS"}
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
    strange = [name for name in sums if name not in TABLES and not COLUMN_FILE.fullmatch(name)]
    absent = [name for name in TABLES if name not in sums]
    return [Damage("SHA256SUMS", f"lists {name}, which no shard set has") for name in strange] + [
        Damage("SHA256SUMS", f"does not list {name}") for name in absent
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
        return [Damage("plan.json", str(error))]
    assert plan is not None
    damages: list[Damage] = []
    if not {"dataset.json"} & broken:
        document = json.loads((root / "dataset.json").read_bytes())
        if document["plan_id"] != plan.id:
            damages.append(Damage("dataset.json", "is of another plan than plan.json"))
    named = set(TABLES)
    for view, view_plan in plan.views.items():
        for shard in plan.shards:
            named |= {f"{view}/{shard}.json"}
            sidecar = None
            if f"{view}/{shard}.json" not in broken and (sidecar := read_sidecar(root, view, shard)) is None:
                damages.append(Damage(f"{view}/{shard}.json", "damaged"))
            if sidecar is None:
                named |= {f"{view}/{shard}.tar"} & sums.keys()
                continue
            if view == "image":
                planned = set(plan.shard_rows(shard)["key"].to_pylist())
                if {*sidecar["keys"], *(drop["key"] for drop in sidecar["drops"])} != planned:
                    damages.append(Damage(f"image/{shard}.json", "its samples are not the plan's"))
            if sidecar["num_samples"]:
                named |= {f"{view}/{shard}.tar"}
                damages += _check_tar(root, view_plan, sidecar, sums, broken, deep=deep)
            if sidecar["digest"] != view_plan.digest:
                damages.append(Damage(f"{view}/{shard}.json", "its digest is not the plan's"))
    damages += [Damage("SHA256SUMS", f"lists {name}, which the plan does not") for name in set(sums) - named]
    damages += [Damage("SHA256SUMS", f"does not list {name}") for name in named - set(sums)]
    return damages


def _check_tar(
    root: Path, plan: ViewPlan, sidecar: Sidecar, sums: dict[str, str], broken: set[str], *, deep: bool
) -> list[Damage]:
    name = f"{sidecar['view']}/{sidecar['shard']}.tar"
    if name in broken:
        return []
    path = root / name
    if path.stat().st_size != sidecar["bytes"]:
        return [Damage(name, f"has {path.stat().st_size} bytes, its sidecar says {sidecar['bytes']}")]
    if sums.get(name) != sidecar["sha256"]:
        return [Damage("SHA256SUMS", f"and the sidecar of {name} disagree")]
    if not deep:
        return []
    try:
        if file_sha256(path) != sidecar["sha256"]:
            return [Damage(name, "damaged: its sha256 is not the sidecar's")]
        return _check_members(path, name, plan, sidecar)
    except OSError as error:
        return [_unreadable(name, error)]


def _check_members(path: Path, name: str, plan: ViewPlan, sidecar: Sidecar) -> list[Damage]:
    """Regular members under the names, at the offsets and of the sizes that the sidecar gives; no PAX headers."""
    places = {suffix: iter(sidecar["members"][suffix]) for suffix in plan.codec}
    expected = [
        (f"{key}.{suffix}", *next(places[suffix], (-1, -1))) for key in sidecar["keys"] for suffix in sorted(plan.codec)
    ]
    number = 0
    with tarfile.open(path) as tar:
        for number, member in enumerate(tar, start=1):
            if number > len(expected) or (member.name, member.offset_data, member.size) != expected[number - 1]:
                return [Damage(name, f"member {number} is {member.name!r}, which the sidecar does not say")]
            key = member.name.split(".", 1)[0]
            if not member.isreg() or member.pax_headers or not KEY_PATTERN.fullmatch(key):
                return [Damage(name, f"member {member.name!r} is not a plain file of the allowed form")]
    if number < len(expected):
        return [Damage(name, f"has {number} members, its sidecar says {len(expected)}")]
    return []


def _rederive(root: Path, source_root: Path | None) -> list[Damage]:
    """Compute a random sample of edge, noise and text again from the shards; image and parsing from the sources."""
    plan = read_plan(root)
    assert plan is not None
    chooser = random.Random(0)
    shards = plan.shards
    damages = []
    for shard in chooser.sample(shards, min(len(shards), NUM_REDERIVED)):
        sidecar = read_sidecar(root, "image", shard)
        if sidecar is None or not sidecar["num_samples"]:
            continue
        number = chooser.randrange(sidecar["num_samples"])
        rows = {row["key"]: row for row in plan.shard_rows(shard).to_pylist()}
        damages += _rederive_sample(root, plan.views, shard, number, rows[sidecar["keys"][number]], source_root)
    return damages


def _rederive_sample(
    root: Path,
    plans: dict[str, ViewPlan],
    shard: str,
    number: int,
    row: dict[str, Any],
    source_root: Path | None,
) -> list[Damage]:
    stored = {view: _stored(root, plans[view], shard, number) for view in plans if view != "text"}
    again: dict[str, Any] = {}
    rgb = stored["image"]
    if "edge" in plans:
        again["edge"] = edge.compute_edge(rgb)
    if "noise" in plans:
        again["noise"] = noise.compute_noise(rgb, noise.NoiseParams(**plans["noise"].params)).numerators
    if source_root is not None:
        try:
            source = image.read_source(
                (source_root / row["source_path"]).read_bytes(), image.ImageParams(**plans["image"].params)
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return [Damage(f"image/{shard}.tar", f"its source {row['source_path']} cannot be read: {reason}")]
        again["image"] = image.compute_image(source, image.ImageParams(**plans["image"].params))
        if "parsing" in plans and plans["parsing"].params["parser"] not in ("file", "maps"):
            again["parsing"] = _parse(plans["parsing"], source.rgb)
    damages = [
        Damage(f"{view}/{shard}.tar", f"sample {number} is not what its view computes")
        for view, array in again.items()
        if not np.array_equal(array, stored[view])
    ]
    if "text" in plans:
        sidecar = read_sidecar(root, "text", shard)
        assert sidecar is not None
        labels = text.Labels(**{name: row[name] for name in text.Labels.__dataclass_fields__})
        lines = text.encode_text(text.sentences(labels, plans["text"].params["prompts"]))
        if read_members(root, sidecar, "txt")[number] != lines:
            damages.append(Damage(f"text/{shard}.tar", f"sample {number} is not what its view computes"))
    return damages


def _stored(root: Path, plan: ViewPlan, shard: str, number: int) -> Any:
    sidecar = read_sidecar(root, plan.name, shard)
    assert sidecar is not None
    offset, size = sidecar["members"][plan.suffix][number]
    with (root / plan.name / f"{shard}.tar").open("rb") as file:
        file.seek(offset)
        return plan.decode(file.read(size))


def _parse(plan: ViewPlan, rgb: image.RGB) -> Any:
    from ..parsers.choice import ParserChoice
    from ..parsers.specs import resolve

    choice = ParserChoice(spec=resolve(str(plan.params["parser"])), plan=plan)
    return choice.open().parse([rgb])[0]
