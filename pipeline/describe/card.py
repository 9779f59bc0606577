"""A dataset card for the Hugging Face Hub: README.md with a YAML head, counts, licences, views, the audit, and a picture grid."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import yaml

from ..shards.names import tar_name
from ..shardset import ShardSet, is_within
from ..store.local import write_bytes
from ..store.printing import printable
from ..store.reading import TEXT_BYTES, read_file
from ..views import VIEWS
from ..views.column import ViewPlan
from .preview import write_grid

GRID = "grid.png"
GRID_ROWS = 10  # sources that the picture shows
MAX_FILES = 2_000  # data files that the head lists; a larger set is given by a sentence
MARK = "<!-- written by bmrl-prep info --card -->"
LICENCES = {  # as people write them -> the hub's identifier
    "apache20": "apache-2.0",
    "mit": "mit",
    "cc0": "cc0-1.0",
    "cc010": "cc0-1.0",
    "ccby40": "cc-by-4.0",
    "ccbysa40": "cc-by-sa-4.0",
    "ccbync40": "cc-by-nc-4.0",
    "ccbyncsa40": "cc-by-nc-sa-4.0",
    "ccbyncnd40": "cc-by-nc-nd-4.0",
    "unknown": "unknown",
}
_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # ours -> the hub's
_SIZES = (
    ("n<1K", 1e3),
    ("1K<n<10K", 1e4),
    ("10K<n<100K", 1e5),
    ("100K<n<1M", 1e6),
    ("1M<n<10M", 1e7),
    ("10M<n<100M", 1e8),
)


class CardError(ValueError):
    """A folder that the card must not be written to (exit code 2)."""


def check_folder(folder: Path, root: Path) -> None:
    """Raises CardError where a card would stand in ROOT, whose files are fixed, or replace a README.md of another kind."""
    readme = folder / "README.md"
    if is_within(folder, root):
        raise CardError(f"--card {folder} is inside the shard set, whose files are fixed; give another folder")
    if folder.exists() and not folder.is_dir():
        raise CardError(f"--card {folder} is a file; give a folder")
    if readme.exists() and MARK not in read_file(readme, limit=TEXT_BYTES).decode("utf-8", "replace"):
        raise CardError(f"{readme} is not a card that bmrl wrote; move it, or give another folder")


def write_card(shard_set: ShardSet, info: dict[str, Any], folder: Path) -> Path:
    """Write README.md and grid.png into `folder` -> README.md. info: the document of `info.describe`."""
    check_folder(folder, shard_set.root)
    folder.mkdir(parents=True, exist_ok=True)
    if len(shard_set):
        write_grid(shard_set, min(GRID_ROWS, len(shard_set.counts)), folder / GRID)
    head = yaml.safe_dump(card_data(shard_set, info), sort_keys=False, allow_unicode=True, width=1000)
    path = folder / "README.md"
    write_bytes(path, f"---\n{head}---\n\n{_body(shard_set, info)}".encode())
    return path


def card_data(shard_set: ShardSet, info: dict[str, Any]) -> dict[str, Any]:
    """The YAML head: what the hub indexes, and which tars are which split of which column."""
    provenance = info["provenance"]
    synthetic = sum(facts["synthetic"] for facts in provenance["per_generator"].values())
    data: dict[str, Any] = {
        **_licence(list(provenance["licences"])),
        "pretty_name": f"bmrl shards of {printable(info['name'])}",
        "task_categories": ["image-classification"],
        "size_categories": [next((name for name, limit in _SIZES if info["samples"] < limit), "100M<n<1B")],
        "tags": [
            "deepfake-detection",
            "deepfake-attribution",
            "faces",
            "webdataset",
            *(["synthetic"] if synthetic else []),
        ],
    }
    if configs := _configs(shard_set):
        data["configs"] = configs
    return data


def _licence(licences: list[str]) -> dict[str, str]:
    known = LICENCES.get(re.sub(r"[^a-z0-9]", "", licences[0].lower())) if len(licences) == 1 else None
    if known:
        return {"license": known}
    name = licences[0] if len(licences) == 1 else "several, by source"
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")}


def _configs(shard_set: ShardSet) -> list[dict[str, Any]]:
    """One configuration a column: its tars by split. Nothing where they would be too many to list."""
    shards = [shard for shard in shard_set.document["shards"] if shard["num_samples"]]
    if len(shards) * len(shard_set.views) > MAX_FILES:
        return []
    names = {split: [shard["name"] for shard in shards if shard["split"] == split] for split in _SPLITS}
    return [
        {
            "config_name": view,
            **({"default": True} if VIEWS[view].decides_rows else {}),
            "data_files": [
                {"split": _SPLITS[split], "path": [tar_name(view, name) for name in found]}
                for split, found in names.items()
                if found
            ],
        }
        for view in shard_set.views
    ]


def _body(shard_set: ShardSet, info: dict[str, Any]) -> str:
    shared = info["audit"]["shared_groups"]
    blocks = [
        MARK,
        f"# bmrl shards of {_escaped(info['name'])}",
        _purpose(info),
        f"Data digest: `{info['root_digest']}`.",
        f"![Views of an image of up to {GRID_ROWS} sources: image, edge, noise, parsing, text]({GRID})"
        if len(shard_set)
        else "",
        "## Sources",
        _table(
            ["source", "kind", "family", "train", "val", "test", "licence"],
            [
                [
                    name,
                    info["generators"][name]["kind"],
                    info["generators"][name]["family"],
                    *(counts.get(split, 0) for split in _SPLITS),
                    "; ".join(info["provenance"]["per_generator"][name]["licences"]),
                ]
                for name, counts in info["per_generator"].items()
            ],
        ),
        "Every row of `index.parquet` has its licence, source path, source sha256 and the `synthetic` flag. "
        f"{shared['count']} of {shared['of']} identities or videos (of a folder: file stems) are in more than one split.",
        "## Views",
        _table(
            ["view", "array", "MB", "digest"],
            [
                [name, _array(shard_set.plans[name]), f"{view['bytes'] / 1e6:.1f}", _Code(view["digest"][:16])]
                for name, view in info["views"].items()
            ],
        ),
        _reading(shard_set),
        "## Leak audit",
        "What tells the sources apart without a look at any trace, on held-out identities "
        f"(balanced accuracy, {info['audit']['rows']} images):",
        _audit_table(info["audit"]),
        "\n".join(f"* {_escaped(warning)}" for warning in info["warnings"]) or "No warnings.",
        *_simulators(info["provenance"]["simulators"]),
        "## What it must not be used for",
        "An attribution is a probability under a closed list of sources and no evidence by itself. Faces are biometric data: "
        "you need a lawful basis for collecting, storing and sharing them. The licences above are those of the sources; they "
        "apply to the pixels in these tars too, and to the picture on this page.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _purpose(info: dict[str, Any]) -> str:
    synthetic = sum(facts["synthetic"] for facts in info["provenance"]["per_generator"].values())
    sentences = [
        f"{info['samples']} face images of {len(info['per_generator'])} sources as multi-view WebDataset tars, one folder a "
        "view, for tracing a deepfake to its source."
    ]
    if info["dropped"]:
        sentences.append(f"{info['dropped']} of {info['planned']} planned images could not be read and were dropped.")
    if synthetic:
        sentences.append(f"**{synthetic} images are drawn or simulated**: no evidence about real generators.")
    return " ".join(sentences)


def _array(plan: ViewPlan) -> str:
    if not plan.array:
        return VIEWS[plan.name].about
    return f"{plan.array['dtype']} {tuple(plan.array['shape'])}: {plan.array['unit']}"


def _reading(shard_set: ShardSet) -> str:
    lines = ["Put this file beside the folders of the shard set. With bmrl installed:", "", "```python"]
    lines += ["from bmrl.pipeline import ShardSet", "", "shard_set = ShardSet.open(ROOT)", "```"]
    if _configs(shard_set):
        lines += ["", "Without it, one view a configuration:", "", "```python", "from datasets import load_dataset", ""]
        lines += ['rows = load_dataset(ROOT, "image", streaming=True)', "```"]
    else:
        lines += ["", "Its tars are too many to list here; `dataset.json` says which shard is of which split."]
    return "\n".join(lines)


def _audit_table(audit: dict[str, Any]) -> str:
    found = audit["tells_apart"]
    if not found["attributes"]:
        return "Not measured: it needs two sources with enough identities."
    rows = [
        [name, f"{facts['accuracy']:.0%}", f"{facts['shuffled_labels']:.0%}", f"{found['chance']:.0%}"]
        for name, facts in found["attributes"].items()
    ]
    return _table(["attribute", "right", "shuffled labels", "chance"], rows)


def _simulators(simulators: dict[str, Any]) -> list[str]:
    if not simulators:
        return []
    low, high = simulators["trace_rms"]["gray_levels"]
    quality = simulators["jpeg_quality"]
    law = f"Every trace has an RMS of {low:g} to {high:g} gray levels (log-uniform) inside its support"
    law += f"; every image went through JPEG {quality[0]} to {quality[1]}." if quality else "."
    rows = [
        [name, facts["decoder"], facts["crop"] or "", facts["slot"], facts["relation"]]
        for name, facts in simulators["sources"].items()
    ]
    return [
        "## Simulators",
        law,
        _table(["source", "decoder", "crop, pixels", "slot", "relation to the seen ones"], rows),
    ]


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


class _Code(str):
    """Shown as it is: a hash."""


def _cell(value: Any) -> str:
    return f"`{value}`" if isinstance(value, _Code) else _escaped(str(value))


def _escaped(text: str) -> str:
    """Names come from files and folders: they must not become markup."""
    plain = html.escape(printable(text), quote=False)
    plain = re.sub(r"([\\`*_\[\]#|~$!])", r"\\\1", plain)
    return (
        plain.replace("://", ":&#47;&#47;").replace("www.", "www&#46;").replace("@", "&#64;")
    )  # no links of their own
