"""What `bmrl-prep info` tells of a shard set: counts, bytes, digests, licences and the leak audit."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from .shardset import ShardSet

# An attribute whose best single guess of the source beats chance by this much tells sources apart by itself.
LEAK_MARGIN = 0.10


def describe(shard_set: ShardSet) -> dict[str, Any]:
    """One JSON-ready document."""
    document = shard_set.document
    rows = shard_set.index.select(
        ["split", "generator", "kind", "family", "source_width", "source_height", "source_format", "source_quality"]
    ).to_pylist()
    warnings = [*_audit_warnings(rows), *_parser_warnings(shard_set)]
    return {
        "root": str(shard_set.root),
        "name": document["name"],
        "samples": len(rows),
        "planned": document["counts"]["planned"],
        "dropped": document["counts"]["dropped"],
        "per_split": _count(rows, "split"),
        "per_kind": _count(rows, "kind"),
        "per_family": _count(rows, "family"),
        "per_generator": document["counts"]["per_generator"],
        "generators": document["generators"],
        "views": {
            name: {
                "bytes": sum(shard["bytes"][name] for shard in document["shards"]),
                "digest": view["digest"],
                "version": view["version"],
                "codec": view["codec"],
                "params": {key: value for key, value in view["params"].items() if key != "prompts"},
            }
            for name, view in document["views"].items()
        },
        "shards": len(document["shards"]),
        "root_digest": shard_set.root_digest,
        "audit": _audit(rows),
        "warnings": warnings,
    }


def render(document: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [
        f"{document['root']}: {document['name']}, {document['samples']} samples in {document['shards']} shards "
        f"({document['dropped']} dropped)",
        f"digest  {document['root_digest']}",
        "splits  " + _inline(document["per_split"]),
        "kinds   " + _inline(document["per_kind"]),
        "families " + _inline(document["per_family"]),
        "",
        f"{'generator':32} {'train':>7} {'val':>7} {'test':>7}  kind     family          licence",
    ]
    for name, counts in document["per_generator"].items():
        facts = document["generators"][name]
        numbers = " ".join(f"{counts.get(split, 0):7d}" for split in ("train", "val", "test"))
        lines.append(f"{name:32} {numbers}  {facts['kind']:8} {facts['family']:15} {facts['licence']}")
    lines += ["", f"{'view':8} {'MB':>9}  digest"]
    for name, view in document["views"].items():
        lines.append(f"{name:8} {view['bytes'] / 1e6:9.1f}  {view['digest']}")
    lines += ["", f"{'leak audit':32} {'native size':>14} {'format':>12} {'JPEG quality':>14}"]
    for name, facts in document["audit"].items():
        lines.append(f"{name:32} {facts['size']:>14} {facts['format']:>12} {facts['quality']:>14}")
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return "\n".join(lines)


def _count(rows: list[dict[str, Any]], field: str) -> dict[str, int]:
    return dict(sorted(Counter(row[field] for row in rows).items()))


def _inline(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _audit(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Per source: the most frequent native size and format, and the range of JPEG quality."""
    by_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_source[row["generator"]].append(row)
    audit = {}
    for name, members in sorted(by_source.items()):
        sizes = Counter(f"{row['source_width']}x{row['source_height']}" for row in members)
        formats = Counter(row["source_format"] for row in members)
        qualities = np.array([row["source_quality"] for row in members])
        qualities = qualities[qualities >= 0]
        audit[name] = {
            "size": sizes.most_common(1)[0][0] + ("" if len(sizes) == 1 else f" +{len(sizes) - 1}"),
            "format": "/".join(name for name, _ in formats.most_common()),
            "quality": f"{qualities.min()}..{qualities.max()}" if len(qualities) else "-",
        }
    return audit


def _audit_warnings(rows: list[dict[str, Any]]) -> list[str]:
    """Container facts that tell the sources apart, by the accuracy of guessing the commonest source of each value."""
    sources = Counter(row["generator"] for row in rows)
    if len(sources) < 2:
        return []
    chance = max(sources.values()) / len(rows)
    warnings = []
    for label, fields in (
        ("native size", ("source_width", "source_height")),
        ("file format", ("source_format",)),
        ("JPEG quality", ("source_quality",)),
    ):
        by_value: dict[Any, Counter[str]] = defaultdict(Counter)
        for row in rows:
            by_value[tuple(row[field] for field in fields)][row["generator"]] += 1
        # Values met fewer than 5 times would count as memorised, not as a leak.
        right = sum(max(c.values()) if sum(c.values()) >= 5 else c.total() * chance for c in by_value.values())
        accuracy = right / len(rows)
        if accuracy > chance + LEAK_MARGIN:
            warnings.append(
                f"{label} alone tells the sources apart: {accuracy:.0%} by guessing, chance {chance:.0%}; "
                "an attributor may learn the pipeline, not the generator"
            )
    return warnings


def _parser_warnings(shard_set: ShardSet) -> list[str]:
    """Photographs that the built-in parser was trained on."""
    view = shard_set.views.get("parsing")
    if view is None or view["params"].get("parser") != "bisenet-lite":
        return []
    from .parsers.shipped import find_leaks

    groups = zip(shard_set.index["group"].to_pylist(), shard_set.index["synthetic"].to_pylist(), strict=True)
    photographs = [identity for group, synthetic in groups if not synthetic for identity in group.split("+")]
    trained = set(find_leaks(photographs))
    seen = sum(1 for identity in photographs if identity in trained)
    if not seen:
        return []
    return [
        f"{seen} samples are of photographs that bisenet-lite was trained on: their parsing is better than of others"
    ]
