"""`bmrl-prep export --for deepfakebench`: the images of a shard set as PNG files with the JSON that DeepfakeBench reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..shards.tars import KEY_PATTERN
from ..shardset import ShardSet
from ..sources.deepfakebench import FOLDER
from ..sources.rows import SPLITS
from ..store.local import write_bytes, write_json
from ..views.codec import encode_png
from .tars import ExportError, check_out

BATCH = 64  # samples in memory
MAX_PART = 200  # bytes of a folder's name; file systems take 255


def export_deepfakebench(shard_set: ShardSet, out: Path) -> int:
    """Write OUT/NAME/LABEL/frames/VIDEO/KEY.png, OUT/dataset_json/NAME.json and OUT/label_dict.yaml; returns the images.

    NAME is OUT's own. A video is a group of the shard set, a label GENERATOR_Real or GENERATOR_Fake; DeepfakeBench's
    configuration takes OUT as rgb_dir, OUT/dataset_json as dataset_json_folder, and the label_dict. Raises ExportError.
    """
    check_out(shard_set, out)
    name = out.resolve().name
    labels: dict[str, int] = {}
    videos: dict[str, Any] = {}  # label -> split -> video -> {label, frames}
    paths: dict[str, str] = {}
    columns = (shard_set.index[column].to_pylist() for column in ("key", "generator", "kind", "split", "group"))
    for key, generator, kind, split, group in zip(*columns, strict=True):
        label = f"{generator}_{'Real' if kind == 'real' else 'Fake'}"
        labels[label] = int(kind != "real")
        if not KEY_PATTERN.fullmatch(key):
            raise ExportError(f"{shard_set.root}: {key!r} is no key of a shard set")
        paths[key] = f"{name}/{_part(label)}/frames/{_part(group)}/{key}.png"
        by_split = videos.setdefault(label, {each: {} for each in SPLITS})
        by_split[split].setdefault(group, {"label": label, "frames": []})["frames"].append(paths[key])
    for batch in shard_set.loader(views=["image"], batch_size=BATCH, shuffle=False):
        for key, image in zip(batch["key"], batch["image"], strict=True):
            file = out / paths[key]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, encode_png(np.asarray(image).transpose(1, 2, 0)), durable=False)  # (3, H, W) -> (H, W, 3)
    (out / FOLDER).mkdir(parents=True)
    write_bytes(out / "label_dict.yaml", yaml.safe_dump({"label_dict": labels}, sort_keys=True).encode())
    for by_split in videos.values():
        for by_group in by_split.values():
            for video in by_group.values():
                video["frames"].sort()
    write_json(out / FOLDER / f"{name}.json", {name: videos})
    return len(paths)


def _part(name: str) -> str:
    """One part of a path below OUT, whatever a manifest calls its generators and groups; a long one ends in its hash."""
    part = name.replace("/", "_").replace("\0", "_")
    if len(data := part.encode()) > MAX_PART:
        part = f"{data[: MAX_PART - 17].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:16]}"
    return f"_{part}" if part in ("", ".", "..") else part
