"""`bmrl-prep export --for open_clip`: image and caption pairs, one folder of tars a split, with the sizes.json it reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import webdataset as wds

from ..shards.arrays import stored_array
from ..shards.tars import DamagedShardError, read_members
from ..shardset import ShardSet
from ..store.local import AtomicFile, write_json
from ..views.codec import encode_png
from .tars import ExportError, check_out, read_sidecars


def export_open_clip(shard_set: ShardSet, out: Path) -> int:
    """Write OUT/SPLIT/000000.tar and so on, KEY.png and KEY.txt a sample, and OUT/SPLIT/sizes.json; returns the samples.

    Tars are numbered without holes within a split, for `{000000..00000N}.tar`. The caption is the sentences of the text
    view in one line. Raises ExportError without the views image and text, or where OUT is in use.
    """
    for view in ("image", "text"):
        if view not in shard_set.views:
            raise ExportError(f"{shard_set.root} has no view {view!r}, which open_clip needs; build it first")
    check_out(shard_set, out)
    plan = shard_set.plans["image"]
    numbers: Counter[str] = Counter()
    sizes: dict[str, dict[str, int]] = {}  # split -> tar -> samples
    for shard in shard_set.document["shards"]:
        if shard["num_samples"] == 0:
            continue
        image, text = read_sidecars(shard_set, ("image", "text"), shard["name"])
        split, name = shard["split"], f"{numbers[shard['split']]:06d}.tar"
        (out / split).mkdir(parents=True, exist_ok=True)
        with AtomicFile(out / split / name) as file:
            tar = wds.TarWriter(file, encoder=False, mtime=0, user="", group="")
            pictures = read_members(shard_set.root, image, plan.suffix)
            captions = read_members(shard_set.root, text, "txt")
            for key, picture, lines in zip(image["keys"], pictures, captions, strict=True):
                try:
                    array = stored_array(plan, picture)
                    caption = ", ".join(line for line in lines.decode().splitlines() if line)
                except ValueError as error:
                    problem = f"{shard_set.root}: {key} of shard {shard['name']} is damaged: {error}"
                    raise DamagedShardError(f"{problem}; run `bmrl-prep verify --deep`") from error
                png = picture if plan.suffix == "png" else encode_png(array)
                tar.write({"__key__": key, "png": png, "txt": caption.encode()})
            tar.close()
            file.commit()
        numbers[split] += 1
        sizes.setdefault(split, {})[name] = len(image["keys"])
    for split, tars in sizes.items():
        write_json(out / split / "sizes.json", tars)
    return sum(sum(tars.values()) for tars in sizes.values())
