"""The engine of `bmrl-prep synth`: the simulated generators on a folder of photographs of faces.

Writes OUT/split/source/id.png, masks/, labels/ (the parser's regions of the real crop) and manifest.parquet.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..sources.rows import IMAGE_EXTENSIONS, hash_split, is_utf8
from ..store.local import canonical_json, write_parquet
from ..store.reading import read_file
from ..views.errors import UnreadableImageError
from ..views.image import read_source, resize
from .camera import IMAGE_SIZE
from .claim import claim
from .draw import SCHEMA, SPLITS, VERSION, Progress, derange, reduce_labels
from .finishes import stable_rng
from .png import read_png, write_png
from .simulators import SEEN, SIMULATORS, UNSEEN, EmptyRegionError, simulate

PARSE_SIZE = 512  # pixels a side of what `parse` gets
CROP, CROP_JITTER = 448, 24  # pixels of 512; an 8x8 JPEG grid of the photograph must not pass for a latent grid
LICENCE = "that of the photograph"

Parse = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]  # (512, 512, 3) -> (512, 512), 0..18, BiSeNet's order


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What was made: the manifest, counts, and for everything that was not made its reason."""

    manifest: Path
    num_photographs: int
    num_images: int
    dropped: Counter[str]  # reason -> photographs or single images


@dataclass(frozen=True, kw_only=True)
class Photograph:
    file: Path
    id: str  # the file's stem, made unique
    split: str


def synthesise(
    real_dir: Path,
    out: Path,
    *,
    parse: Parse,
    sources: str = "seen",
    seed: int = 0,
    parser: str = "",
    progress: Progress | None = None,
) -> Synthesis:
    """Apply the `seen` or `all` simulators to every photograph below `real_dir`.

    Splits by a stable hash of the file's stem. Raises ValueError where there is no photograph to use, and ClaimedError where
    `out` holds anything but the output of the same photographs and settings, which is then made again; parser: whose regions.
    """
    chosen = {"seen": SEEN, "all": tuple(SIMULATORS)}[sources]
    photographs = find_photographs(real_dir, out)
    claim(out, _plan(photographs, sources=sources, seed=seed, parser=parser))
    total = len(photographs) * (1 + len(chosen))
    dropped: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    done = 0
    usable: list[Photograph] = []
    for photograph in photographs:
        try:
            _write_real(photograph, out, parse, seed)
        except (UnreadableImageError, OSError) as error:
            dropped[_reason(error)] += 1
            done += len(chosen)
        else:
            usable.append(photograph)
            rows.append(_row(photograph, "real", synthetic=False))
        done += 1
        if progress is not None:
            progress(done, total)
    if not usable:
        reason, count = dropped.most_common(1)[0]
        raise ValueError(f"none of the {len(photographs)} images in {real_dir} can be used; {count} times: {reason}")
    for photograph, source, partner in _pairings(usable, chosen, seed):
        try:
            rows.append(_write_simulated(photograph, source, partner, out, seed))
        except EmptyRegionError as error:
            dropped[f"{source}: {error}"] += 1
        done += 1
        if progress is not None:
            progress(done, total)
    rows.sort(key=lambda row: row["path"])
    stamp = canonical_json({"seed": seed, "sources": sources, "version": VERSION})
    manifest = out / "manifest.parquet"
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({b"bmrl-synth": stamp}))
    write_parquet(manifest, table, compression="snappy")
    return Synthesis(manifest=manifest, num_photographs=len(usable), num_images=len(rows), dropped=dropped)


def find_photographs(real_dir: Path, out: Path) -> list[Photograph]:
    """Image files below a folder, sorted, without those below `out`; ids are stems, a repeated stem gets a number."""
    if not real_dir.is_dir():
        raise ValueError(f"{real_dir} is not a folder; expected one with photographs of faces")
    resolved = out.resolve()
    files = [
        file
        for file in sorted(real_dir.rglob("*"))
        if file.suffix.lower() in IMAGE_EXTENSIONS
        and is_utf8(str(file.relative_to(real_dir)))  # its name becomes an id, which is written down
        and file.is_file()
        and not file.resolve().is_relative_to(resolved)
    ]
    if not files:
        raise ValueError(f"{real_dir} holds no image files ({', '.join(sorted(IMAGE_EXTENSIONS))})")
    photographs, taken = [], set()
    following: dict[str, int] = {}  # stem -> the number to try next: many videos have a frame 000
    for file in files:
        stem = file.stem.replace("+", "-")  # '+' joins the two ids of a swap
        unique, number = stem, following.get(stem, 2)
        while unique in taken:
            unique, number = f"{stem}-{number}", number + 1
        taken.add(unique)
        following[stem] = number
        photographs.append(Photograph(file=file, id=unique, split=hash_split(file.stem)))
    return photographs


def _plan(photographs: list[Photograph], *, sources: str, seed: int, parser: str) -> dict[str, Any]:
    """All that decides what is written."""
    return {
        "version": VERSION,
        "sources": sources,
        "seed": seed,
        "parser": parser,
        "photographs": {photograph.id: _hash(photograph.file) for photograph in photographs},
    }


def _hash(file: Path) -> str:
    """Empty where it cannot be read, which is said later, of every one."""
    try:
        return hashlib.sha256(read_file(file)).hexdigest()
    except OSError:
        return ""


def crop_photograph(
    rgb512: npt.NDArray[np.uint8], labels512: npt.NDArray[np.uint8], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A jittered square of a 512 image and its label map -> both at 224."""
    side = int(rng.integers(CROP - CROP_JITTER, CROP + CROP_JITTER + 1))
    top, left = (int(rng.integers(0, PARSE_SIZE - side + 1)) for _ in range(2))
    window = np.s_[top : top + side, left : left + side]
    image = resize(np.ascontiguousarray(rgb512[window]), IMAGE_SIZE)
    return image, reduce_labels(np.ascontiguousarray(labels512[window]), IMAGE_SIZE)


def _write_real(photograph: Photograph, out: Path, parse: Parse, seed: int) -> None:
    source = read_source(read_file(photograph.file))
    rgb = resize(source.rgb, PARSE_SIZE)
    labels = parse(rgb)
    image, labels = crop_photograph(rgb, labels, stable_rng("crop", seed, photograph.id))
    write_png(out / _labels_path(photograph), labels)
    write_png(out / _path(photograph, "real"), image, {"synthetic": "false", "source": "real"})


def _write_simulated(
    photograph: Photograph, source: str, partner: Photograph | None, out: Path, seed: int
) -> dict[str, Any]:
    x, labels = _read(photograph, out)
    if SIMULATORS[source].kind == "FS" and partner is None:
        raise EmptyRegionError(f"a swap needs a second photograph in split {photograph.split}")
    pair = None if partner is None else _read(partner, out)
    made = simulate(source, x, labels, partner=pair, rng=stable_rng("source", seed, source, photograph.id))
    row = _row(photograph, source, synthetic=True)
    row["mask"] = f"masks/{row['path']}"
    row["strength"], row["region"] = made.strength, made.region
    if partner is not None:
        row["partner"], row["group"] = partner.id, f"{photograph.id}+{partner.id}"
    write_png(out / row["mask"], made.mask.astype(np.uint8) * 255)
    text = {"synthetic": "true", "source": source, "Software": f"bmrl {VERSION}"}
    write_png(out / row["path"], made.rgb, text)
    return row


def _pairings(
    usable: list[Photograph], chosen: tuple[str, ...], seed: int
) -> Iterator[tuple[Photograph, str, Photograph | None]]:
    """Every photograph with every source; swaps with a partner of the same split (a derangement for each source)."""
    for split in SPLITS:
        members = [photograph for photograph in usable if photograph.split == split]
        for source in chosen:
            swaps = SIMULATORS[source].kind == "FS" and len(members) > 1
            order = derange(len(members), stable_rng("partners", seed, split, source))
            for index, photograph in enumerate(members):
                yield photograph, source, members[order[index]] if swaps else None


def _read(photograph: Photograph, out: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    return read_png(out / _path(photograph, "real")), read_png(out / _labels_path(photograph))


def _path(photograph: Photograph, source: str) -> str:
    return f"{photograph.split}/{source}/{photograph.id}.png"


def _labels_path(photograph: Photograph) -> str:
    return f"labels/{_path(photograph, 'real')}"


def _row(photograph: Photograph, source: str, *, synthetic: bool) -> dict[str, Any]:
    simulator = SIMULATORS.get(source)
    return {
        "path": _path(photograph, source),
        "generator": source,
        "kind": simulator.kind if simulator else "real",
        "family": simulator.family if simulator else "real",
        "split": photograph.split,
        "group": photograph.id,
        "identity": photograph.id,
        "partner": "",
        "strength": 0.0,
        "region": "",
        "mask": "",
        "labels": _labels_path(photograph),
        "synthetic": synthetic,
        "relation": simulator.relation if simulator and source in UNSEEN else "",
        "licence": LICENCE,
        "version": VERSION,
    }


def _reason(error: Exception) -> str:
    """The recorded reason, without the file's path."""
    return str(error) if isinstance(error, UnreadableImageError) else f"cannot be read: {type(error).__name__}"
