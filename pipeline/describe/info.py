"""What `bmrl-prep info` tells of a shard set: counts, bytes, digests, licences and the leak audit."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..demo.provenance import describe_simulators
from ..shardset import ShardSet
from ..sources.rows import SPLITS
from ..store.printing import Cells, fit_lines


def describe(shard_set: ShardSet) -> dict[str, Any]:
    """One JSON-ready document."""
    from .audit import audit  # scikit-learn

    document = shard_set.document
    rows = shard_set.index.select(["split", "generator", "kind", "family", "licence", "synthetic"]).to_pylist()
    audited = audit(shard_set)
    warnings = [*audited.pop("warnings"), *_parser_warnings(shard_set)]
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
        "provenance": {
            "licences": _count(rows, "licence"),
            "per_generator": {
                name: {
                    "licences": _count(of_source, "licence"),
                    "synthetic": sum(row["synthetic"] for row in of_source),
                }
                for name, of_source in _by_source(rows).items()
            },
            "simulators": describe_simulators(document["name"], document["generators"]),
            "per_row": "index.parquet: source_path, source_sha256, licence, synthetic",
        },
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
        "audit": audited,
        "warnings": warnings,
    }


def render(document: dict[str, Any], width: int | None = None) -> str:
    """The same for a person. width: of the terminal, which the lines then fit."""
    lines: list[str | Cells] = [
        f"{document['root']}: {document['name']}, {document['samples']} samples in {document['shards']} shards "
        f"({document['dropped']} dropped)",
        f"digest  {document['root_digest']}",
        "splits  " + _inline(document["per_split"]),
        "kinds   " + _inline(document["per_kind"]),
        "families " + _inline(document["per_family"]),
        "",
        Cells((f"{'generator':32}", *(f"{split:>7}" for split in SPLITS), f"{'kind':9}", f"{'family':15}", "licence")),
    ]
    for name, counts in document["per_generator"].items():
        facts = document["generators"][name]
        numbers = (f"{counts.get(split, 0):7d}" for split in SPLITS)
        lines.append(Cells((f"{name:32}", *numbers, f"{facts['kind']:9}", f"{facts['family']:15}", facts["licence"])))
    lines += ["", Cells((f"{'view':8}", f"{'MB':>9}", "digest"))]
    for name, view in document["views"].items():
        lines.append(Cells((f"{name:8}", f"{view['bytes'] / 1e6:9.1f}", view["digest"])))
    lines += [
        "",
        "licences " + "; ".join(f"{name}: {count}" for name, count in document["provenance"]["licences"].items()),
    ]
    synthetic = sum(facts["synthetic"] for facts in document["provenance"]["per_generator"].values())
    lines.append(f"drawn or simulated rows: {synthetic} of {document['samples']}")
    lines += ["", *_audit_lines(document["audit"])]
    lines += [f"warning: {warning}" for warning in document["warnings"]]
    return fit_lines(lines, width)


def _audit_lines(audit: dict[str, Any]) -> list[str | Cells]:
    """Two tables: what was measured per source, and how well each attribute alone names the source."""
    title = f"leak audit of {audit['rows']} rows"
    heads = (("native size", 14), ("resize", 7), ("format", 9), ("quality", 8), ("mean R  G  B", 14), ("face", 5))
    more = (("backgr.", 8), ("eyes at", 8))
    lines: list[str | Cells] = [Cells((f"{title:32}", *(f"{head:>{size}}" for head, size in (*heads, *more))))]
    for name, facts in audit["sources"].items():
        size = next(iter(facts["native_sizes"]))
        if facts["num_native_sizes"] > 1:
            size += f" +{facts['num_native_sizes'] - 1}"
        colours = " ".join(f"{value:4.0f}" for value in facts["colour_means"])
        lines.append(
            Cells(
                (
                    f"{name:32}", f"{size:>14}", f"{facts['resize_factor']['median']:7.2f}",
                    f"{'/'.join(facts['formats']):>9}", f"{_quality(facts):>8}", f"{colours:>14}", *_face(facts),
                )
            )
        )  # fmt: skip
    found = audit["tells_apart"]
    if found["attributes"]:
        head = f"names the source by itself, {found['folds']}-fold by identity"
        lines += ["", Cells((f"{head:50}", f"{'right':>6}", f"{'shuffled':>9}", f"{'chance':>7}", ""))]
        for name, facts in found["attributes"].items():
            lines.append(
                Cells(
                    (
                        f"{name:50}", f"{facts['accuracy']:6.0%}", f"{facts['shuffled_labels']:9.0%}",
                        f"{found['chance']:7.0%}", " the same for all" if facts["constant"] else "",
                    )
                )
            )  # fmt: skip
    if found["left_out"]:
        lines.append(f"too few rows to tell: {', '.join(found['left_out'])}")
    alike = audit["near_duplicates"]
    lines.append(
        f"alike across splits: {alike['count']} pairs within {alike['max_bits']} of 64 bits, of {alike['compared']} of "
        f"{alike['of']} images"
    )
    for pair in alike["pairs"][:5]:
        lines.append(f"  {pair['bits']} bits: " + " and ".join(pair["paths"]))
    shared = audit["shared_groups"]
    lines.append(
        f"identities or videos (of a folder: file stems) in more than one split: {shared['count']} of {shared['of']}"
    )
    return lines


def _quality(facts: dict[str, Any]) -> str:
    quality = facts["jpeg_quality"]
    return f"{quality['min']:.0f}..{quality['max']:.0f}" if quality else "-"


def _face(facts: dict[str, Any]) -> tuple[str, ...]:
    """Median share of face, mean share of background, mean centre of the eyes."""
    if "alignment" not in facts:
        return f"{'-':>5}", f"{'-':>8}", f"{'-':>8}"
    eyes = facts["alignment"]["eyes"]["centre"]
    at = f"{eyes[0]:.0f},{eyes[1]:.0f}" if eyes else "-"
    return f"{facts['face_share']['median']:5.0%}", f"{facts['background_share']:8.0%}", f"{at:>8}"


def _by_source(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [row for row in rows if row["generator"] == name] for name in sorted({row["generator"] for row in rows})
    }


def _count(rows: list[dict[str, Any]], field: str) -> dict[str, int]:
    return dict(sorted(Counter(row[field] for row in rows).items()))


def _inline(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _parser_warnings(shard_set: ShardSet) -> list[str]:
    """Photographs that the built-in parser was trained on."""
    view = shard_set.views.get("parsing")
    if view is None or view["params"].get("parser") != "bisenet-lite":
        return []
    from ..parsers.shipped import find_leaks

    groups = zip(shard_set.index["group"].to_pylist(), shard_set.index["synthetic"].to_pylist(), strict=True)
    photographs = [identity for group, synthetic in groups if not synthetic for identity in group.split("+")]
    trained = set(find_leaks(photographs))
    seen = sum(1 for identity in photographs if identity in trained)
    if not seen:
        return []
    return [
        f"{seen} samples are of photographs that bisenet-lite was trained on: their parsing is better than of others"
    ]
