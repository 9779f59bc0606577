"""Which document number N is, how it is made hostile, and the sums, ids and digests that are then made to match it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile_mutations as change
import pyarrow.parquet as pq
import yaml
from hostile_sets import Sets, link_tree, replace

SHARES = {  # kind -> of a thousand documents
    "dataset.json": 150, "plan.json": 90, "plan.parquet": 40, "sidecar": 170, "index.parquet": 110, "SHA256SUMS": 50,
    "link": 20, "config.json": 90, "calibration.json": 35, "state.json": 35, "metrics.jsonl": 15, "safetensors": 75,
    "manifest.csv": 25, "manifest.jsonl": 25, "manifest.parquet": 25, "protocol": 25, "generators": 20,
}  # fmt: skip
OF_A_SET = ("dataset.json", "plan.json", "plan.parquet", "sidecar", "index.parquet", "SHA256SUMS", "link")
OF_A_RUN = ("config.json", "calibration.json", "state.json", "metrics.jsonl", "safetensors")
SECRET = b"what stands outside of the folder\n"
LINK_TARGETS = (
    "SHA256SUMS",
    "dataset.json",
    "index.parquet",
    "plan.json",
    "image/000000.tar",
    "edge/000001.json",
    "edge",
    "text",
)


@dataclass(frozen=True)
class Box:
    """The folder of one document: what is in it may be read and written, and nothing else be written."""

    number: int
    kind: str
    jail: Path  # jail/outside stands beside jail/boxes/N
    root: Path
    run: Path
    stopped: Path
    file: Path  # the hostile document itself
    codec: str

    @property
    def folder(self) -> Path:
        return self.root.parent


def kind_of(number: int) -> str:
    rng = random.Random(f"kind {number}")
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def make(number: int, sets: Sets, jail: Path) -> Box:
    """Document `number` in a box of its own."""
    rng, kind = random.Random(f"document {number}"), kind_of(number)
    codec = rng.choice(["raw", "raw", "png"])
    folder = jail / "boxes" / str(number)
    folder.mkdir(parents=True)
    (jail / "outside").mkdir(exist_ok=True)
    if not (jail / "outside/secret").exists():
        (jail / "outside/secret").write_bytes(SECRET)
    root = folder / "root"
    makers: dict[str, Callable[[], Path]] = {
        "dataset.json": lambda: _dataset(root, rng),
        "plan.json": lambda: _plan(root, rng),
        "plan.parquet": lambda: _plan_rows(root, rng),
        "sidecar": lambda: _sidecar(root, rng),
        "index.parquet": lambda: _index(root, rng),
        "SHA256SUMS": lambda: _sums(root, rng),
        "link": lambda: _link(root, jail / "outside", rng),
    }
    run, stopped = folder / "run", folder / "stopped"
    if kind in makers:
        link_tree(sets.shards(codec), root)
        file = makers[kind]()
    elif kind in OF_A_RUN:
        link_tree(sets.run, run)
        link_tree(sets.stopped, stopped)
        file = _of_run(kind, run, stopped, rng)
    elif kind.startswith("manifest"):
        file = folder / "source" / kind
        link_tree(sets.source, folder / "source")
        replace(file, change.mutate_rows(_records(sets), rng, kind.partition(".")[2]))
    else:
        file = folder / f"{kind}.yaml"
        replace(file, _yaml((sets.protocol if kind == "protocol" else sets.generators).read_bytes(), rng))
    if kind not in OF_A_SET:
        root = sets.shards("raw")
    return Box(number, kind, jail, root if kind in OF_A_SET else folder / "root", run, stopped, file, codec)


def canonical(document: Any) -> bytes:
    """As pipeline.store.local writes it; what JSON has not stays, as Python writes it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def reseal(root: Path, *names: str) -> None:
    """Make the lines of SHA256SUMS match files that were changed, as a stranger would."""
    lines = []
    for line in (root / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        if name in names:
            digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        lines.append(f"{digest}  {name}\n")
    replace(root / "SHA256SUMS", "".join(lines).encode())


def _redigest(view: Any) -> None:
    """Make a view's digest that of its parameters."""
    from bmrl.pipeline.views.column import ViewPlan

    try:
        view["digest"] = ViewPlan.from_json(view).digest
        view.update(ViewPlan.from_json(view).array)
    except Exception:  # the change left nothing that has a digest
        return


def _dataset(root: Path, rng: random.Random) -> Path:
    file = root / "dataset.json"
    document = json.loads(file.read_bytes())
    if rng.random() < 0.5:
        document = change.mutate_value(document, rng)
        if isinstance(document, dict) and isinstance(document.get("views"), dict):
            for view in document["views"].values():
                if isinstance(view, dict):
                    _redigest(view)
        data = canonical(document) + b"\n"
    else:
        data = change.mutate_json(document, rng, lambda one: canonical(one) + b"\n")
    replace(file, data)
    reseal(root, file.name)
    return file


def _plan(root: Path, rng: random.Random) -> Path:
    """plan.json, and half of the time dataset.json's plan_id as well."""
    file = root / "plan.json"
    document = json.loads(file.read_bytes())
    data = change.mutate_json(document, rng, lambda one: canonical(one) + b"\n")
    replace(file, data)
    if rng.random() < 0.5:
        dataset = json.loads((root / "dataset.json").read_bytes())
        dataset["plan_id"] = hashlib.sha256(data).hexdigest()
        replace(root / "dataset.json", canonical(dataset) + b"\n")
    reseal(root, "plan.json", "dataset.json")
    return file


def _plan_rows(root: Path, rng: random.Random) -> Path:
    """plan.parquet; half of the time plan.json says its hash, and dataset.json the plan's."""
    file = root / "plan.parquet"
    replace(file, change.mutate_table(file.read_bytes(), rng))
    if rng.random() < 0.6:
        from bmrl.pipeline.shards.plan import ROW_SCHEMA, rows_sha256

        document = json.loads((root / "plan.json").read_bytes())
        try:
            rows = pq.read_table(io.BytesIO(file.read_bytes())).cast(ROW_SCHEMA)
            document["rows_sha256"], document["num_rows"] = rows_sha256(rows), rows.num_rows
            document["segments"][0]["num_rows"] = rows.num_rows
            document["segments"][0]["num_shards"] = len(rows["shard"].unique())
        except Exception:  # no rows that have a hash
            reseal(root, file.name)
            return file
        data = canonical(document) + b"\n"
        replace(root / "plan.json", data)
        dataset = json.loads((root / "dataset.json").read_bytes())
        dataset["plan_id"] = hashlib.sha256(data).hexdigest()
        replace(root / "dataset.json", canonical(dataset) + b"\n")
    reseal(root, "plan.parquet", "plan.json", "dataset.json")
    return file


def _sidecar(root: Path, rng: random.Random) -> Path:
    file = (
        root
        / rng.choice(["image", "edge", "noise", "parsing", "text"])
        / f"{rng.choice(['000000', '000001', '000002'])}.json"
    )
    document = json.loads(file.read_bytes())
    if rng.random() < 0.3:  # a column of the same form, of another place
        other = json.loads((root / rng.choice(["image", "edge", "text"]) / "000001.json").read_bytes())
        name = rng.choice(list(document))
        document[name] = other[name]
    if rng.random() < 0.4:
        document = change.mutate_value(document, rng)
        if isinstance(document, dict) and isinstance(document.get("keys"), list):
            keys = [str(key).encode("utf-8", "replace").decode() for key in document["keys"]]
            document["keys_sha256"] = hashlib.sha256("\n".join(keys).encode()).hexdigest()
        data = canonical(document) + b"\n"
    else:
        data = change.mutate_json(document, rng, lambda one: canonical(one) + b"\n")
    replace(file, data)
    reseal(root, file.relative_to(root).as_posix())
    return file


def _index(root: Path, rng: random.Random) -> Path:
    """index.parquet; at times dataset.json counts what is in it."""
    file = root / "index.parquet"
    replace(file, change.mutate_table(file.read_bytes(), rng))
    if rng.random() < 0.3:
        try:
            rows = pq.read_table(io.BytesIO(file.read_bytes())).to_pylist()
        except Exception:
            rows = []
        document = json.loads((root / "dataset.json").read_bytes())
        document["counts"]["samples"] = len(rows)
        replace(root / "dataset.json", canonical(document) + b"\n")
    reseal(root, "index.parquet", "dataset.json")
    return file


def _sums(root: Path, rng: random.Random) -> Path:
    file = root / "SHA256SUMS"
    replace(file, change.mutate_sums(file.read_bytes(), rng))
    return file


def _link(root: Path, outside: Path, rng: random.Random) -> Path:
    """A file or folder of the set is a link: to the same content outside, or to something else."""
    name = rng.choice(LINK_TARGETS)
    file = root / name
    target = outside / f"{os.getpid()}-{rng.randrange(10**9)}"
    file.rename(target)
    file.symlink_to(
        rng.choice([target, target, outside / "secret", outside, Path("/dev/null"), file, outside / "absent"])
    )
    return file


def _of_run(kind: str, run: Path, stopped: Path, rng: random.Random) -> Path:
    """The same change in both runs."""
    if kind == "safetensors":
        name = rng.choice(["best.safetensors", "checkpoint"])
        folder = stopped if name == "checkpoint" else run
        file = rng.choice(sorted((folder / "checkpoint").iterdir())) if name == "checkpoint" else run / name
        replace(file, change.mutate_safetensors(file.read_bytes(), rng))
        return file
    seed = rng.random()
    for folder in (run, stopped):
        file, own = folder / kind, random.Random(seed)
        if not file.exists():
            continue
        data = file.read_bytes()
        if kind == "metrics.jsonl":
            lines = data.decode().splitlines()
            number = own.randrange(len(lines))
            lines[number] = change.mutate_json(
                json.loads(lines[number]), own, lambda one: json.dumps(one).encode()
            ).decode("utf-8", "replace")
            new = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
        else:
            new = change.mutate_json(json.loads(data), own, lambda one: json.dumps(one, indent=2).encode())
        replace(file, new)
    return run / kind


def _records(sets: Sets) -> list[dict[str, Any]]:
    return [
        {"path": path.relative_to(sets.source).as_posix(), "generator": path.parent.name, "split": path.parts[-3],
         "kind": {"real": "real"}.get(path.parent.name, "EFS"), "family": {"real": "real"}.get(path.parent.name, "GAN")}
        for path in sorted(sets.source.rglob("*.png"))
    ]  # fmt: skip


YAML_TRAPS = (
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    b"b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
    b"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    b"d: [*c,*c,*c,*c,*c,*c,*c,*c]\n",
    b"seen: &x [*x]\n", b"!!python/object/apply:os.system ['touch owned']\n", b"seen: 2020-13-45\n", b"? [a, b]\n: c\n",
    b"seen: !!binary aGVsbG8=\n", b"{" * 50_000, b"- " * 50_000, b"seen: 0x" + b"f" * 5000 + b"\n",
    b"1: {kind: FS, family: GAN}\n", b"null: {kind: FS, family: GAN}\n", b"seen: [1, 2, true, null, 1.5, 2020-01-01]\n",
    b"%YAML 9.9\n---\nseen: [a]\n", b"<<: {seen: [real]}\n", b"<<: 1\nseen: [real]\n", b"seen: {<<: [1]}\n",
    b"seen: !!set {real, StyleGAN2}\n", b"seen: !!omap [real: 1]\n", b"seen: 1:60:99\n", b"a: b: c\n", b"\t- x\n",
    b"seen: [real, StyleGAN2]\nname: [1]\n",
)  # fmt: skip


def _yaml(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(YAML_TRAPS)
    if kind in (1, 2):
        return change.mutate_text(data, rng)
    changed = change.mutate_value(yaml.safe_load(data), rng)
    return yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")
