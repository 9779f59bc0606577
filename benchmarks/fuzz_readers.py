"""Coverage-guided fuzzing of what reads tars and sidecars: an error of ours or none, and no array of another shape.

    pip install atheris
    python benchmarks/fuzz_readers.py sidecar WORK benchmarks/fuzz/sidecar -max_total_time=900
    python benchmarks/fuzz_readers.py tar WORK benchmarks/fuzz/tar -max_total_time=900

WORK takes the new inputs; what follows it is read only, and libFuzzer's own options come last. `seeds DIR` writes the committed
inputs anew. A sidecar is fuzzed beside a true tar, a tar beside sidecars that name its sizes and hashes, as a stranger would.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch  # before the instrumentation: it is not what is fuzzed
import xxhash

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None and "seeds" not in sys.argv[1:2]:
    sys.modules.pop("tarfile", None)  # torch has brought it along, not instrumented
    with atheris.instrument_imports(include=["bmrl.pipeline", "tarfile", "PIL.PngImagePlugin"]):
        import tarfile

        import PIL.PngImagePlugin  # noqa: F401

        import bmrl.pipeline.loading.reader as reader
        import bmrl.pipeline.shards.tars as tars
        import bmrl.pipeline.shards.verify as verify
else:
    import tarfile

    import bmrl.pipeline.loading.reader as reader
    import bmrl.pipeline.shards.tars as tars
    import bmrl.pipeline.shards.verify as verify

from hostile_mutations import mutate_value  # after the instrumentation: it brings tarfile along

from bmrl.pipeline.shards.arrays import stored_array
from bmrl.pipeline.shards.names import sidecar_name, tar_name
from bmrl.pipeline.views import VIEWS
from bmrl.pipeline.views.column import ViewPlan, plan_view

SHARD = "000000"
KEYS = ["real_a_000000000000", "real_b_000000000001"]
torch.set_num_threads(1)


def plans() -> dict[str, ViewPlan]:
    """A raw and a PNG column of the smallest view, a raw one of another dtype, and the text."""
    image = plan_view(VIEWS["image"], VIEWS["image"].params())
    noise = VIEWS["noise"].params(patch_size=2)
    return {
        "noise": plan_view(VIEWS["noise"], noise, image_plan=image),
        "edge": plan_view(VIEWS["edge"], VIEWS["edge"].params(), codec_set="png", image_plan=image),
        "text": plan_view(VIEWS["text"], VIEWS["text"].params()),
    }


PLANS = plans()


def write_column(root: Path, plan: ViewPlan) -> tars.Sidecar:
    """Two samples of a view, as a build writes them."""
    view = VIEWS[plan.name]
    with tars.ColumnWriter(root, plan.name, SHARD) as writer:
        for number, key in enumerate(KEYS):
            if plan.array:
                value: Any = np.full(plan.array["shape"], number, plan.array["dtype"])
            else:
                value = dict.fromkeys(view.members, b"a\nb\nc\nd\n")
            writer.write(key, plan.encode(value))
        facts = {"string": "x", "name": "x", "float64 list": [0.5]}
        row = {name: facts.get(kind, 1) for name, kind in view.facts.items()}
        return writer.commit(digest=plan.digest, rows=[row] * len(KEYS), drops=[])


class Column:
    """One column on disk, of which a file is written anew for each input."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.plan = root, PLANS[name]
        self.sidecar = write_column(root, self.plan)
        self.tar_path, self.sidecar_path = root / tar_name(name, SHARD), root / sidecar_name(name, SHARD)
        self.tar = self.tar_path.read_bytes()

    def read(self, sidecar: bytes) -> None:
        """All readers of a column; raises what is not an error of ours."""
        found = tars.read_sidecar(self.root, self.plan.name, SHARD)
        if found is not None:
            tars.is_done(self.root, found, self.plan.digest)
            for suffix in found["members"]:
                try:
                    members = tars.read_members(self.root, found, suffix)
                    assert len(members) == found["num_samples"]
                    for member in members if self.plan.array else ():
                        try:
                            assert stored_array(self.plan, member).shape == tuple(self.plan.array["shape"])
                        except ValueError:
                            continue
                except (tars.DamagedShardError, OSError):
                    pass
            sums = {tar_name(self.plan.name, SHARD): found["sha256"]}
            verify._check_tar(self.root, self.plan, found, sums, set(), deep=True)
        if not self.plan.array:
            return
        reader._checked.clear()
        sums = {sidecar_name(self.plan.name, SHARD): hashlib.sha256(sidecar).hexdigest()}
        column = reader.ColumnReader(self.root, self.plan, [SHARD], sums=sums, check="first")
        out = np.zeros((len(KEYS), *column.shape), column.dtype)
        try:
            column.gather(out, np.zeros(len(KEYS), np.int64), np.arange(len(KEYS)), KEYS)
        except reader.DamagedShardError:
            return
        assert found is not None and found["keys"][: len(KEYS)] == KEYS, "the loader takes what read_sidecar refuses"


def fuzz_sidecar(columns: list[Column]) -> Callable[[bytes], None]:
    """The first byte chooses the view."""

    def one(data: bytes) -> None:
        column = columns[(data[0] if data else 0) % len(columns)]
        column.sidecar_path.write_bytes(data[1:])
        column.read(data[1:])

    return one


def fuzz_tar(columns: list[Column]) -> Callable[[bytes], None]:
    """The first byte chooses the view; the sidecar's size and hashes are made to match the rest."""

    def one(data: bytes) -> None:
        column = columns[(data[0] if data else 0) % len(columns)]
        tar = data[1:]
        column.tar_path.write_bytes(tar)
        sealed = {
            **column.sidecar,
            "bytes": len(tar),
            "sha256": hashlib.sha256(tar).hexdigest(),
            "xxh3_128": xxhash.xxh3_128_hexdigest(tar),
        }
        members = _members(tar)
        if members:
            sealed["members"] = members
        sidecar = json.dumps(sealed).encode()
        column.sidecar_path.write_bytes(sidecar)
        column.read(sidecar)

    return one


def mutate_sidecar(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the time in the document's tree, which keeps it JSON; else libFuzzer's own."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        try:
            changed = mutate_value(json.loads(data[1:]), rng)
            return (data[:1] + json.dumps(changed).encode())[:max_size]
        except (ValueError, RecursionError):
            pass
    return bytes(atheris.Mutate(data, max_size))


def mutate_tar(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own; most of the time the sums of headers and of PNG chunks are then made to match, so that more is read."""
    changed = bytearray(atheris.Mutate(data, max_size))
    if random.Random(seed).random() < 0.7:
        for start in range(1, len(changed) - 511, 512):
            if changed[start + 257 : start + 262] == b"ustar":
                block = changed[start : start + 148] + b" " * 8 + changed[start + 156 : start + 512]
                changed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
            at = start + 8
            while changed[start : start + 4] == b"\x89PNG" and at + 12 <= len(changed):
                end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
                if end + 4 > len(changed):
                    break
                changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
                at = end + 4
    return bytes(changed)


def _members(tar: bytes) -> dict[str, list[list[int]]]:
    """What a stranger's sidecar would say of the tar: the places that tarfile itself finds."""
    import io

    found: dict[str, list[list[int]]] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as file:
            for member in file:
                suffix = member.name.partition(".")[2]
                found.setdefault(suffix, []).append([member.offset_data, member.size])
    except (tarfile.TarError, OSError, ValueError, OverflowError, IndexError):
        return {}
    return found


def write_seeds(folder: Path) -> None:
    """A small true input of each view, and some with a fault that was found."""
    with tempfile.TemporaryDirectory() as top:
        for number, name in enumerate(PLANS):
            column = Column(Path(top), name)
            for target, data in (("sidecar", column.sidecar_path.read_bytes()), ("tar", column.tar)):
                (folder / target).mkdir(parents=True, exist_ok=True)
                (folder / target / name).write_bytes(bytes([number]) + data)
            other = json.loads(column.sidecar_path.read_bytes())
            other["members"] = {"pyd": next(iter(other["members"].values()))}
            (folder / "sidecar" / f"{name}-pickle").write_bytes(bytes([number]) + json.dumps(other).encode())


def main() -> None:
    if sys.argv[1:2] == ["seeds"]:
        write_seeds(Path(sys.argv[2]))
        return
    if atheris is None:
        raise SystemExit("atheris is not installed: pip install atheris")
    what = sys.argv.pop(1)
    top = Path(sys.argv[1] + "-column")  # the columns that inputs are put into
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(parents=True)
    columns = [Column(top, name) for name in PLANS]
    one, mutator = {"sidecar": (fuzz_sidecar, mutate_sidecar), "tar": (fuzz_tar, mutate_tar)}[what]
    atheris.Setup(sys.argv, one(columns), custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
