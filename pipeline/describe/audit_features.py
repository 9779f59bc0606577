"""What is measured of a sample for the leak audit: container, colour and alignment, none of them a trace of a generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

from ..shardset import ShardSet
from ..views.column import default_array

# Label ids of the parsing view (BiSeNet's order).
SKIN = 1
PARTS = {"face": (1, 2, 3, 4, 5, 6, 10, 11, 12, 13), "eyes": (4, 5), "mouth": (11, 12, 13)}
MAX_ROWS_A_SOURCE = 500
MAX_ROWS = 4_000  # over all sources, but at least MIN_ROWS_A_SOURCE of each
MIN_ROWS_A_SOURCE = 50
ABSENT = -1.0  # centre and spread of a part that the parsing does not have
_BATCH = 64

IMAGE_SIDE = default_array("image")["shape"][0]  # pixels
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AuditRows:
    """Measurements of N sampled rows, in index order."""

    sources: npt.NDArray[np.str_]  # (N,)
    groups: list[str]
    sizes: F64  # (N, 3): native width and height in pixels, short side / 224
    formats: npt.NDArray[np.str_]  # (N,)
    qualities: F64  # (N,): JPEG quality, -1 for none
    colours: F64  # (N, 3): mean R, G, B, 0..255
    shares: F64 | None  # (N, 19): share of each parsing class; None without the view
    alignment: F64 | None  # (N, 12): x, y of the centre and spread along x, y of face, eyes, mouth, pixels of 224

    @property
    def face(self) -> F64 | None:
        """(N,): share of the image that is face."""
        return None if self.shares is None else np.asarray(self.shares[:, PARTS["face"]].sum(axis=1))


def measure(shard_set: ShardSet) -> AuditRows:
    """Up to 500 rows a source, the same ones every time; reads the image and parsing columns of those rows."""
    chosen = shard_set.take(sample_rows(shard_set))
    index = chosen.index
    width, height = (np.array(index[name].to_pylist(), dtype=np.float64) for name in ("source_width", "source_height"))
    has_parsing = "parsing" in shard_set.views
    colours, shares, alignment = [], [], []
    views = ["image", "parsing"] if has_parsing else ["image"]
    for batch in chosen.loader(views=views, batch_size=_BATCH, shuffle=False):
        for image in batch["image"].permute(0, 2, 3, 1).numpy():  # (B, 3, H, W) -> (B, H, W, 3)
            colours.append(cv2.mean(np.ascontiguousarray(image))[:3])
        for labels in batch["parsing"].numpy() if has_parsing else ():
            shares.append(np.bincount(labels.ravel(), minlength=19) / labels.size)
            alignment.append(part_moments(labels))
    return AuditRows(
        sources=np.array(index["generator"].to_pylist(), dtype=np.str_),
        groups=index["group"].to_pylist(),
        sizes=np.column_stack([width, height, np.minimum(width, height) / IMAGE_SIDE]),
        formats=np.array(index["source_format"].to_pylist(), dtype=np.str_),
        qualities=np.array(index["source_quality"].to_pylist(), dtype=np.float64),
        colours=np.array(colours, dtype=np.float64).reshape(-1, 3),
        shares=np.array(shares, dtype=np.float64) if has_parsing else None,
        alignment=np.array(alignment, dtype=np.float64) if has_parsing else None,
    )


def part_moments(labels: npt.NDArray[np.uint8]) -> F64:
    """(12,): of face, eyes and mouth the centre x, y and the spread (standard deviation) along x, y; ABSENT where absent."""
    values = []
    for ids in PARTS.values():
        moments = cv2.moments(cv2.LUT(labels, _masks(ids)), binaryImage=True)
        area = moments["m00"]
        if not area:
            values += [ABSENT] * 4
            continue
        values += [moments["m10"] / area, moments["m01"] / area]
        values += [np.sqrt(max(0.0, moments[name] / area)) for name in ("mu20", "mu02")]
    return np.array(values, dtype=np.float64)


def sample_rows(shard_set: ShardSet) -> npt.NDArray[np.int64]:
    """Row numbers in order: of each source those with the lowest hash of the key."""
    by_source: dict[str, list[tuple[int, int]]] = {}
    columns = (shard_set.index[name].to_pylist() for name in ("generator", "key"))
    for number, (source, key) in enumerate(zip(*columns, strict=True)):
        by_source.setdefault(source, []).append((xxhash.xxh3_64_intdigest(key.encode()), number))
    limit = min(MAX_ROWS_A_SOURCE, max(MIN_ROWS_A_SOURCE, MAX_ROWS // max(1, len(by_source))))
    chosen = [number for rows in by_source.values() for _, number in sorted(rows)[:limit]]
    return np.array(sorted(chosen), dtype=np.int64)


def _masks(ids: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    table[list(ids)] = 1
    return table


def summarise(rows: AuditRows) -> dict[str, dict[str, Any]]:
    """Per source, JSON-ready: container facts, colour means, parsing shares and where the parts lie."""
    found = {}
    for source in sorted(set(rows.sources.tolist())):
        at = rows.sources == source
        sizes, formats = _counted(rows.sizes[at, :2].astype(int)), _counted(rows.formats[at])
        qualities = rows.qualities[at & (rows.qualities >= 0)]
        facts: dict[str, Any] = {
            "rows": int(at.sum()),
            "native_sizes": {f"{width}x{height}": count for (width, height), count in sizes[:5]},
            "num_native_sizes": len(sizes),
            "formats": {str(name): count for name, count in formats},
            "jpeg_quality": _range(qualities) if len(qualities) else None,
            "resize_factor": _range(rows.sizes[at, 2]),
            "colour_means": [round(float(value), 2) for value in rows.colours[at].mean(axis=0)],
        }
        if rows.shares is not None and rows.alignment is not None and rows.face is not None:
            facts |= {
                "background_share": round(float(rows.shares[at, 0].mean()), 4),
                "skin_share": round(float(rows.shares[at, SKIN].mean()), 4),
                "face_share": _range(rows.face[at]),
                "alignment": _part_facts(rows.alignment[at]),
            }
        found[source] = facts
    return found


def _part_facts(alignment: F64) -> dict[str, Any]:
    """Mean centre and spread of each part, the deviation of its centre over the rows, and how many rows lack it."""
    facts = {}
    for number, part in enumerate(PARTS):
        values = alignment[:, 4 * number : 4 * number + 4]
        present = values[values[:, 0] != ABSENT]
        facts[part] = {
            "centre": _rounded(present[:, :2].mean(axis=0)) if len(present) else None,
            "spread": _rounded(present[:, 2:].mean(axis=0)) if len(present) else None,
            "centre_deviation": _rounded(present[:, :2].std(axis=0)) if len(present) else None,
            "absent": round(1 - len(present) / len(values), 4),
        }
    return facts


def _counted(values: npt.NDArray[Any]) -> list[tuple[Any, int]]:
    """Distinct values with their counts, the commonest first."""
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(distinct[i], int(counts[i])) for i in order]


def _range(values: F64) -> dict[str, float]:
    return {
        "min": round(float(values.min()), 4),
        "median": round(float(np.median(values)), 4),
        "max": round(float(values.max()), 4),
    }


def _rounded(values: F64) -> list[float]:
    return [round(float(value), 2) for value in values]
