"""The schemas of plan.json, dataset.json and the sidecars, and what must hold between the parts of each."""

from __future__ import annotations

import math
import tarfile
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta, Struct, defstruct

from ..store.documents import DocumentError, check_schema
from ..views import VIEWS
from ..views.codec import CODECS
from ..views.column import ViewPlan, array_bytes
from ..views.view import View, rows_view

BLOCK = tarfile.BLOCKSIZE
MAX_SAMPLE_BYTES = 2**24  # of an array view; the largest of ours takes 150 kB
Count = Annotated[int, Meta(ge=0, lt=2**48)]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
MaybeHash = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Digest = Annotated[str, Meta(max_length=64)]  # compared with others
Key = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,90}\Z")]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Split = Literal["train", "val", "test"]
Span = tuple[Count, Count]  # offset and size of a member


class _View(Struct, frozen=True):
    name: str
    version: int
    params: dict[str, Any]
    codec: dict[str, str]
    reads: MaybeHash
    weights_sha256: MaybeHash
    probe: MaybeHash
    digest: Hash


class _Settings(Struct, frozen=True, forbid_unknown_fields=True):
    dataset: str
    seed: int
    shard_size: Annotated[int, Meta(ge=1)]
    splits: list[Split]
    limit: Count
    group_regex: Annotated[str, Meta(max_length=10_000)] = ""  # these two where they were given
    split_by: str = ""


class _Segment(Struct, frozen=True, forbid_unknown_fields=True):
    cause: str
    first_shard: Count
    num_shards: Count
    num_rows: Count


class _Plan(Struct, frozen=True):
    settings: _Settings
    views: dict[str, _View]
    segments: list[_Segment]
    num_rows: Count
    rows_sha256: Hash


class _Generator(Struct, frozen=True):
    kind: Name
    family: Name
    licence: str


class _Counts(Struct, frozen=True):
    samples: Count
    planned: Count
    dropped: Count
    per_generator: dict[str, dict[Split, Count]]


class _Shard(Struct, frozen=True):
    name: str
    split: Split
    num_samples: Count
    bytes: dict[str, Count]


class _Dataset(Struct, frozen=True):
    name: str
    classes: list[Name]
    generators: dict[Name, _Generator]
    prompts: dict[str, dict[str, Any]]
    views: dict[str, _View]
    counts: _Counts
    shards: list[_Shard]
    plan_id: Hash


class _Drop(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    source_path: str
    stage: str
    reason: str
    attempt: Count


class _Sidecar(Struct, frozen=True, forbid_unknown_fields=True):
    view: str
    shard: str
    digest: Digest
    num_samples: Count
    bytes: Count
    sha256: MaybeHash
    xxh3_128: Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")]
    keys: list[Key]
    keys_sha256: Digest
    members: dict[str, list[Span]]
    rows: list[dict[str, Any]]
    drops: list[_Drop]


class _Prompt(TypedDict):
    sentences: NotRequired[list[str]]
    tokens: NotRequired[list[list[Annotated[int, Meta(ge=0, lt=49408)]]]]  # CLIP's vocabulary


_FACTS: dict[str, Any] = {
    "string": str,
    "name": str,
    "int16": Annotated[int, Meta(ge=-(2**15), lt=2**15)],
    "int32": Annotated[int, Meta(ge=-(2**31), lt=2**31)],
    "int64": Annotated[int, Meta(ge=-(2**62), lt=2**62)],
    "float64 list": list[float],
}


@cache
def _facts(view: str) -> Any:
    """The schema of what a view records of each sample."""
    return list[defstruct("Facts", [(name, _FACTS[kind]) for name, kind in VIEWS[view].facts.items()])]  # type: ignore[misc]


def check_sidecar(document: Any, view: str) -> None:
    """Raises DocumentError."""
    check_schema(document, _Sidecar)
    check_schema(document["rows"], _facts(view))
    count = document["num_samples"]
    if not len(document["keys"]) == len(document["rows"]) == count or len(set(document["keys"])) < count:
        raise DocumentError("its keys and rows are not as many as its samples")
    for suffix, spans in document["members"].items():
        if len(spans) != count:
            raise DocumentError(f"it has {len(spans)} members {suffix!r} of {count} samples")
    if count:
        _check_members(document, VIEWS[view])


def _check_members(document: Mapping[str, Any], view: View) -> None:
    """The suffixes are those of one of the view's codecs, an allow-list without any pickle; and the members follow each other as
    they are written, sample by sample, with nothing between them."""
    members = document["members"]
    known = [set(view.members)] if view.array is None else [{view.suffix(codec)} for codec in view.codecs.values()]
    if set(members) not in known:
        strange = sorted(set(members) - set().union(*known)) or sorted(members)
        raise DocumentError(
            f"its members are {', '.join(map(repr, strange))[:100]}, which the view {view.name} does not store"
        )
    end = 0
    for spans in zip(*(members[suffix] for suffix in sorted(members)), strict=True):
        for offset, size in spans:
            if offset != end + BLOCK:
                raise DocumentError(f"the member at byte {offset} does not follow the one before it")
            end = offset + size + -size % BLOCK


def check_plan(document: Any) -> None:
    """Raises DocumentError. No list is made of what it counts: it may say a thousand million shards."""
    check_schema(document, _Plan)
    check_views(document["views"])
    first = num_rows = 0
    for segment in document["segments"]:
        if segment["first_shard"] != first or segment["num_shards"] > segment["num_rows"]:
            raise DocumentError("its segments do not follow each other, or have more shards than rows")
        first, num_rows = first + segment["num_shards"], num_rows + segment["num_rows"]
    if num_rows != document["num_rows"]:
        raise DocumentError(f"its segments have {num_rows} rows, num_rows is {document['num_rows']}")


def check_dataset(document: Any) -> None:
    """Raises DocumentError."""
    check_schema(document, _Dataset)
    check_views(document["views"])
    generators, counts, shards = document["generators"], document["counts"], document["shards"]
    if document["classes"] != sorted(generators) or set(counts["per_generator"]) != set(generators):
        raise DocumentError("classes, generators and counts.per_generator name different sources")
    for name in generators:
        if name.splitlines() != [name]:
            raise DocumentError(f"the name of a source, {name!r}, is no line")
    totals = {
        sum(shard["num_samples"] for shard in shards),
        sum(sum(by_split.values()) for by_split in counts["per_generator"].values()),
    }
    if totals != {counts["samples"]}:
        raise DocumentError(f"counts.samples is {counts['samples']}, its shards or sources have others")
    if any(set(shard["bytes"]) != set(document["views"]) for shard in shards):
        raise DocumentError("a shard's bytes are not of its views")
    for name in document["views"]:
        _check_catalogue(document, VIEWS[name])


def check_views(views: Mapping[str, Any]) -> None:
    """Every entry is what its own parameters make of it, so that dtype and shape can be trusted."""
    if unknown := sorted(set(views) - set(VIEWS)):
        raise DocumentError(f"{unknown[0]!r} is not a name of a view")
    if rows_view(VIEWS).name not in views:
        raise DocumentError(f"views lacks {rows_view(VIEWS).name}, which decides the rows")
    for name, entry in views.items():
        where = f"views.{name}"
        if entry["name"] != name:
            raise DocumentError(f"{where}.name is {entry['name']!r}")
        view, plan = VIEWS[name], ViewPlan.from_json(entry)
        try:
            check_schema(entry["params"], view.params)
            view.params_of(entry["params"])
            array = plan.array
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise DocumentError(f"{where}.params: {error}") from None
        if array and not (min(array["shape"]) > 0 and 0 < _num_bytes(array) <= MAX_SAMPLE_BYTES):
            raise DocumentError(f"{where}: a sample of shape {array['shape']} is none of this version")
        if not _is_codec(view, entry["codec"]):
            raise DocumentError(f"{where}.codec is none of this version")
        if plan.to_json() != entry:
            raise DocumentError(f"{where}: its digest, dtype or shape is not that of its parameters")


def _num_bytes(array: Mapping[str, Any]) -> int:
    """Exact where numpy's product would run over."""
    return array_bytes({**array, "shape": [1]}) * math.prod(array["shape"])


def _is_codec(view: View, codec: Mapping[str, str]) -> bool:
    if view.array is None:
        return dict(codec) == {member: member for member in view.members}
    return any(dict(codec) == {view.suffix(one): one.name} for one in view.codecs.values() if one.name in CODECS)


def _check_catalogue(document: Mapping[str, Any], view: View) -> None:
    """Each source has an entry of one shape."""
    if view.catalogue is None:
        return
    entries = document[view.catalogue.key]
    if set(entries) != set(document["generators"]):
        raise DocumentError(f"{view.catalogue.key} and generators name different sources")
    for name, entry in entries.items():
        check_schema(entry, _Prompt)
        rows = entry.get("tokens", [])
        if [len(row) for row in rows] != [77] * 4:
            raise DocumentError(f"{view.catalogue.key}: the tokens of {name!r} are not 4 times 77")
