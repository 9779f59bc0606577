"""Adapters: a dataset on disk -> sample rows. `DATASETS` is the one place where a name chooses one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ... import manifests
from .deepfakebench import walk_deepfakebench
from .folder import walk_folder
from .layout import Layout, parse_layout
from .manifest import walk_manifest
from .rows import SourceError, SourceRow, Walk
from .tree import walk_tree


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One entry of `bmrl-prep datasets`."""

    name: str
    layout: str
    licence: str
    obtain: str
    walk: Callable[..., Walk]  # (root, taxonomy), and with `grouped` the keyword `grouping`
    drawn: bool = False  # drawn by the package itself into --root before the walk
    grouped: bool = False  # takes a Grouping
    tree: Layout | None = None  # of a named set, with its expected totals


_DRAWN_LAYOUT = "split/source/identity.png with masks/, labels/ and manifest.parquet, drawn by the package"
_DRAWN_LICENCE = "Apache-2.0 (drawn faces, simulated generators; no person's image)"


_DRAWN = {  # the variants of the embedded dataset, all read with the protocols demo-*
    "demo": "200 train, 30 val, 100 test identities; unseen simulators in test only",
    "demo-full": "450 train, 75 val, 120 test identities, every simulator in every split, as demo-cv needs",
    "demo-hard": "as demo, with weaker traces and every image through JPEG 75-95",
    "demo-resized": "as demo, simulated at 512 pixels and then reduced to 224",
}


def _drawn(name: str, what: str) -> Dataset:
    return Dataset(
        name=name,
        layout=f"{_DRAWN_LAYOUT}; {what}",
        licence=_DRAWN_LICENCE,
        obtain=f"nothing to download: `bmrl-prep build --dataset {name} --out ROOT` draws it",
        walk=walk_manifest,
        drawn=True,
    )


def _named(name: str) -> Dataset:
    """The set that manifests/datasets/NAME.yaml describes."""
    tree = parse_layout(manifests.load(f"datasets/{name}.yaml"), f"{name}.yaml")
    return Dataset(
        name=name,
        layout=tree.layout,
        licence=tree.licence,
        obtain=tree.obtain,
        walk=partial(walk_tree, tree),
        tree=tree,
    )


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        *(_drawn(name, what) for name, what in _DRAWN.items()),
        Dataset(
            name="folder",
            layout="DIR/[train|val|test/]GENERATOR/**/*.png|jpg|jpeg|webp|bmp|tif|avif|heic; without split folders a stable "
            "hash of the file's stem decides (75 / 12.5 / 12.5 %)",
            licence="your files'",
            obtain="any folder of faces, one sub-folder a generator; real photographs in `real`",
            walk=walk_folder,
            grouped=True,
        ),
        Dataset(
            name="manifest",
            layout="DIR/manifest.csv|jsonl|parquet with columns path (relative) and generator; optional kind, family, split, "
            "group (ids joined by '+'), source_id, synthetic, licence",
            licence="column `licence`",
            obtain="write the table for your files; `bmrl-prep synth` writes one",
            walk=walk_manifest,
        ),
        Dataset(
            name="deepfakebench",
            layout="the JSON files of DeepfakeBench or DF40 (DIR/*.json, DIR/dataset_json/*.json, or one file as --root) and the "
            "frames below DIR, under the listed paths or the ends of them; `bmrl-prep export --for deepfakebench` writes it",
            licence="the listed datasets'",
            obtain="github.com/SCLBD/DeepfakeBench, github.com/YZY-stack/DF40 (dataset_json), or DeepfakeBench's rearrange.py",
            walk=walk_deepfakebench,
        ),
        *(_named(name) for name in manifests.names("datasets")),
    )
}

__all__ = ["DATASETS", "Dataset", "SourceError", "SourceRow", "Walk"]
