"""Draw the embedded dataset to a folder: ROOT/split/source/identity.png, masks/, labels/ and manifest.parquet.

Two passes over the identities: the real images, then every source from them (a swap needs its partner's real image). An
identity is done when its rows stand in ROOT/.rows; an interrupted call goes on there, and the manifest comes last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..store.local import TEMPORARY_PREFIX, canonical_json, write_json, write_parquet
from ..store.reading import JSON_BYTES, TABLE_BYTES, read_file
from ..store.tables import parse_table
from ..views.image import resize
from .camera import IMAGE_SIZE, photograph
from .canvas import SIZE
from .faces import draw_face, identity_split
from .finishes import stable_rng
from .lookalikes import CONTROLS, NEW_SEEDS, compress_jpeg, control_kind, make_lookalike
from .png import is_whole_png, read_png, write_png
from .simulators import SEEN, SIMULATORS, TRACE_RMS, UNSEEN, simulate

VERSION = "demo-v1"
SPLITS = ("train", "val", "test")
LICENCE = "Apache-2.0"
HARD_TRACE_RMS = (1.0, 3.0)  # gray levels, demo-hard
HARD_QUALITY = (75, 95)  # JPEG, demo-hard, every source
ROWS, INPUTS = ".rows", ".inputs"  # folders that exist only while a drawing is under way

Progress = Callable[[int, int], None]  # images done, images in all

SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # relative to ROOT, posix
        ("generator", pa.string()),
        ("kind", pa.string()),
        ("family", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),  # the identities of the image joined by '+': two for a swap
        ("identity", pa.string()),
        ("partner", pa.string()),  # "" but for swaps
        ("strength", pa.float32()),  # T, RMS of the trace in gray levels; 0 for none
        ("region", pa.string()),  # "" for none, frame, face, or the edited region
        ("mask", pa.string()),  # path of the true trace mask (0 or 255), or ""
        ("labels", pa.string()),  # path of the drawn label map of the real image underneath: never a view of a fake
        ("synthetic", pa.bool_()),
        ("relation", pa.string()),  # of unseen simulators to the seen ones
        ("licence", pa.string()),
        ("version", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Which dataset; identities are taken from the start of each split's range."""

    variant: str = "demo"
    num_train: int = 200
    num_val: int = 30
    num_test: int = 100

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r} is none of {', '.join(VARIANTS)}")
        if (lone := [s for s in SPLITS if self.count(s) == 1]) or not any(self.count(s) for s in SPLITS):
            found = f"1 in {lone[0]}" if lone else "none at all"
            raise ValueError(
                f"expected no or at least 2 identities in each split (a swap needs a partner), got {found}"
            )

    @classmethod
    def of(cls, variant: str) -> DemoSettings:
        """The published size of a variant."""
        if variant == "demo-full":
            return cls(variant=variant, num_train=450, num_val=75, num_test=120)
        return cls(variant=variant)

    def count(self, split: str) -> int:
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]

    def sources(self, split: str) -> tuple[str, ...]:
        """Real, simulators and controls of a split; unseen sources come in test only, but for demo-full."""
        simulators = tuple(SIMULATORS) if split == "test" or self.variant == "demo-full" else SEEN
        return ("real", *simulators, *(CONTROLS if split == "test" else ()))

    @property
    def trace_rms(self) -> tuple[float, float]:
        return HARD_TRACE_RMS if self.variant == "demo-hard" else TRACE_RMS

    @property
    def input_size(self) -> int:
        """Pixels a side of what the simulators get."""
        return SIZE if self.variant == "demo-resized" else IMAGE_SIZE


VARIANTS = ("demo", "demo-full", "demo-hard", "demo-resized")


def draw_demo(
    root: Path, *, seed: int = 0, num_workers: int = 1, progress: Progress | None = None, settings: DemoSettings
) -> Path:
    """Draw the dataset under `root`, or complete what is there -> the manifest's path.

    The same bytes whatever num_workers. Raises ValueError where root holds a dataset of other settings.
    """
    root.mkdir(parents=True, exist_ok=True)
    stamp = {"seed": seed, "version": VERSION, **asdict(settings)}
    manifest = root / "manifest.parquet"
    _check_stamp(root, stamp)
    if manifest.exists() and not _files_missing(root, manifest):
        _remove_scratch(root)
        return manifest
    tasks = [
        Task(root=root, seed=seed, settings=settings, split=split, index=index)
        for split in SPLITS
        for index in range(settings.count(split))
    ]
    if manifest.exists():
        _restore_rows(manifest, tasks)
    sizes = [len(settings.sources(task.split)) for task in tasks]
    done, total = 0, sum(sizes)
    with _workers(num_workers) as run:
        for _ in run(draw_real, tasks):
            pass
        for position in run(draw_sources, tasks):
            done += sizes[position]
            if progress is not None:
                progress(done, total)
    rows = [row for task in tasks for row in json.loads(task.rows_file.read_bytes())]
    rows.sort(key=lambda row: row["path"])
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({b"bmrl-demo": canonical_json(stamp)}))
    write_parquet(manifest, table, compression="snappy")
    _remove_scratch(root)
    return manifest


@dataclass(frozen=True, kw_only=True)
class Task:
    """All images of one identity."""

    root: Path
    seed: int
    settings: DemoSettings
    split: str
    index: int  # of the identity in its split

    @property
    def identity(self) -> int:
        return identity_split(self.split, self.settings.count(self.split))[self.index]

    @property
    def rows_file(self) -> Path:
        return self.root / ROWS / f"{file_stem(self.identity)}.json"

    def input_files(self, identity: int) -> tuple[Path, Path]:
        """What a simulator gets of an identity: image and label map, at settings.input_size."""
        name = f"{file_stem(identity)}.png"
        if self.settings.variant in ("demo", "demo-full"):
            return self.root / self.split / "real" / name, self.root / "labels" / self.split / "real" / name
        return self.root / INPUTS / name, self.root / INPUTS / f"labels-{name}"


def file_stem(identity: int) -> str:
    return f"{identity:06d}"


def draw_real(task: Task) -> None:
    """Draw and photograph the face; write the simulators' input and the drawn label map."""
    image_file, labels_file = task.input_files(task.identity)
    final_labels = task.root / "labels" / task.split / "real" / f"{file_stem(task.identity)}.png"
    if all(is_whole_png(p) for p in (image_file, labels_file, final_labels)):
        return
    face = draw_face(task.identity)
    size = task.settings.input_size
    image = photograph(face.rgb, stable_rng("camera", task.seed, task.identity), size=size)
    write_png(labels_file, reduce_labels(face.labels, size))
    write_png(final_labels, reduce_labels(face.labels, IMAGE_SIZE))
    write_png(image_file, image, _text("real"))


def draw_sources(task: Task) -> None:
    """Write every source's image of the identity, then its rows."""
    if task.rows_file.exists():
        return
    image_file, labels_file = task.input_files(task.identity)
    x, labels = read_png(image_file), read_png(labels_file)
    rows = [_draw_source(task, source, x, labels) for source in task.settings.sources(task.split)]
    task.rows_file.parent.mkdir(exist_ok=True)
    write_json(task.rows_file, rows)


def derange(num: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random cyclic permutation (Sattolo 1986): no element stays in place."""
    order = np.arange(num)
    for last in range(num - 1, 0, -1):
        other = int(rng.integers(last))
        order[[last, other]] = order[[other, last]]
    return order


def reduce_labels(labels: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Nearest pixel (centre-aligned) -> uint8 (size, size)."""
    return np.asarray(cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def _draw_source(task: Task, source: str, x: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> dict[str, Any]:
    settings, identity = task.settings, task.identity
    name = f"{file_stem(identity)}.png"
    rng = stable_rng("source", task.seed, source, identity)
    kind, family, partner, strength, region, mask = "real", "real", "", 0.0, "", ""
    if source == "real":
        rgb = x
    elif source in SIMULATORS:
        simulator = SIMULATORS[source]
        kind, family = simulator.kind, simulator.family
        pair = None
        if kind == "FS":
            other = _partner(task, source)
            partner = file_stem(other)
            image_file, labels_file = task.input_files(other)
            pair = (read_png(image_file), read_png(labels_file))
        made = simulate(source, x, labels, partner=pair, rng=rng, trace_rms=settings.trace_rms)
        rgb, strength, region = made.rgb, made.strength, made.region
        mask = f"masks/{task.split}/{source}/{name}"
        write_png(task.root / mask, reduce_labels(made.mask.astype(np.uint8) * 255, IMAGE_SIZE))
    else:
        kind, family = control_kind(source)
        rgb, strength = make_lookalike(source, x, labels, identity=identity, rng=rng, trace_rms=settings.trace_rms)
        region = "frame" if source in NEW_SEEDS else ""
    if settings.variant == "demo-hard":
        rgb = compress_jpeg(rgb, int(rng.integers(HARD_QUALITY[0], HARD_QUALITY[1] + 1)))
    path = f"{task.split}/{source}/{name}"
    if task.root / path != task.input_files(identity)[0]:
        write_png(task.root / path, resize(rgb, IMAGE_SIZE), _text(source))
    return {
        "path": path,
        "generator": source,
        "kind": kind,
        "family": family,
        "split": task.split,
        "group": f"{file_stem(identity)}+{partner}" if partner else file_stem(identity),
        "identity": file_stem(identity),
        "partner": partner,
        "strength": strength,
        "region": region,
        "mask": mask,
        "labels": f"labels/{task.split}/real/{name}",
        "synthetic": True,  # the real ones too are drawings
        "relation": SIMULATORS[source].relation if source in UNSEEN else "",
        "licence": LICENCE,
        "version": VERSION,
    }


def _text(source: str) -> dict[str, str]:
    """Text chunks of every image: it must never pass for a photograph."""
    return {"synthetic": "true", "source": source, "Software": f"bmrl {VERSION}"}


def _partner(task: Task, source: str) -> int:
    identities = identity_split(task.split, task.settings.count(task.split))
    return identities[int(_partners(task.seed, task.split, source, len(identities))[task.index])]


@lru_cache(maxsize=64)
def _partners(seed: int, split: str, source: str, num: int) -> npt.NDArray[np.int64]:
    return derange(num, stable_rng("partners", seed, split, source))


def _check_stamp(root: Path, stamp: Mapping[str, Any]) -> None:
    """Settings are written before the first image: what is there may only be completed with the same ones."""
    file = root / "settings.json"
    if file.exists():
        found = json.loads(read_file(file, limit=JSON_BYTES))
        if found != stamp:
            differing = [
                f"{key} {found.get(key)!r}, now {stamp[key]!r}" for key in stamp if found.get(key) != stamp[key]
            ]
            raise ValueError(f"{root} holds a drawing with {'; '.join(differing)}; choose another folder or remove it")
    elif foreign := sorted(path.name for path in root.iterdir() if not path.name.startswith(TEMPORARY_PREFIX)):
        raise ValueError(
            f"{root} holds {foreign[0]!r} and no drawing; choose another folder, as files would be replaced"
        )
    else:
        write_json(file, stamp)


def _files_missing(root: Path, manifest: Path) -> set[str]:
    """The identities of which a file of the manifest is not there."""
    rows = parse_table(
        read_file(manifest, limit=TABLE_BYTES), columns=["identity", "path", "mask", "labels"]
    ).to_pylist()
    return {
        row["identity"]
        for row in rows
        if not all((root / row[key]).is_file() for key in ("path", "mask", "labels") if row[key])
    }


def _restore_rows(manifest: Path, tasks: list[Task]) -> None:
    """A manifest whose files are partly gone: only the identities concerned are drawn again."""
    missing = _files_missing(manifest.parent, manifest)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in parse_table(read_file(manifest, limit=TABLE_BYTES)).to_pylist():
        rows.setdefault(row["identity"], []).append(row)
    for task in tasks:
        stem = file_stem(task.identity)
        if stem in rows and stem not in missing:
            task.rows_file.parent.mkdir(exist_ok=True)
            write_json(task.rows_file, rows[stem])


def _remove_scratch(root: Path) -> None:
    for name in (ROWS, INPUTS):
        folder = root / name
        if folder.is_dir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


Runner = Callable[[Callable[[Task], None], list[Task]], Iterator[int]]


@contextmanager
def _workers(num_workers: int) -> Iterator[Runner]:
    """A function that runs tasks and yields the position of each as it is done; one worker is this process."""
    if num_workers <= 1:
        num_threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield _run_here
        finally:
            cv2.setNumThreads(num_threads)
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:

        def run(function: Callable[[Task], None], tasks: list[Task]) -> Iterator[int]:
            positions = {pool.submit(function, task): position for position, task in enumerate(tasks)}
            try:
                for future in as_completed(positions):
                    future.result()
                    yield positions[future]
            finally:  # after a failure or an interrupt nothing that waits is started
                for future in positions:
                    future.cancel()

        yield run


def _run_here(function: Callable[[Task], None], tasks: list[Task]) -> Iterator[int]:
    for position, task in enumerate(tasks):
        function(task)
        yield position


def _start_worker() -> None:
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
