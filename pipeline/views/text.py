"""The `text` view: a sample's labels -> four sentences (MFCLIP's fine-grained text, levels 1-4) and CLIP BPE token ids.

An unknown level is an empty line; its tokens are start, end, padding, and the losses leave it out.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import manifests
from .view import PICTURE_SIDE, Catalogue, Computed, Params, Picture, Sample, View

VERSION = 1
NUM_LEVELS = 4
SAMPLE_BYTES = 1100  # of a sample's two members, roughly, for the estimate
CONTEXT_LENGTH = 77  # CLIP's; 4 x 77 = 308 = t in the paper


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the text of a sample is made of; also the members of KEY.json, in this order."""

    key: str
    generator: str
    kind: str
    family: str
    split: str
    group: str
    source_path: str
    synthetic: bool
    licence: str


def sentences(labels: Labels, prompts: Mapping[str, Mapping[str, str]]) -> tuple[str, str, str, str]:
    """The four sentences of a sample. `prompts` is manifests/prompts.yaml: level -> value -> template."""
    authenticity = "real" if labels.kind == "real" else "unknown" if labels.kind == "unknown" else "fake"
    # Level 4 has a template of its own for real photographs; a source that nobody can name has none.
    source = "real" if labels.kind == "real" else "unknown" if labels.generator == "unknown" else "generator"
    chosen = (
        prompts["level1"].get(authenticity, ""),
        prompts["level2"].get(labels.kind, ""),
        prompts["level3"].get(labels.family, ""),
        prompts["level4"].get(source, ""),
    )
    return tuple(text.replace("{generator}", labels.generator) for text in chosen)  # type: ignore[return-value]


def encode_text(lines: Sequence[str]) -> bytes:
    """KEY.txt: one sentence a line."""
    return ("\n".join(lines) + "\n").encode()


def encode_labels(labels: Labels) -> bytes:
    """KEY.json: one fixed set of typed fields."""
    fields: dict[str, Any] = {name: getattr(labels, name) for name in Labels.__dataclass_fields__}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def tokenize(lines: Sequence[str]) -> npt.NDArray[np.int32]:
    """Sentences -> CLIP BPE ids, int32 (len(lines), 77): start, text, end, zeros. Case is folded, as CLIP does."""
    tokens = _tokenizer().tokenize_batch([line.lower() for line in lines], context_length=CONTEXT_LENGTH)
    return np.asarray(tokens, dtype=np.int32).reshape(len(lines), CONTEXT_LENGTH)


@cache
def _tokenizer() -> Any:
    from instant_clip_tokenizer import Tokenizer

    return Tokenizer()


@dataclass(frozen=True, kw_only=True)
class TextParams:
    context_length: int = CONTEXT_LENGTH
    prompts: dict[str, dict[str, str]] = field(default_factory=lambda: dict(manifests.load("prompts.yaml")))


def _compute(sample: Sample, params: TextParams) -> Computed:
    labels = Labels(**{name: sample.row[name] for name in Labels.__dataclass_fields__})
    text = encode_text(sentences(labels, params.prompts))
    return Computed(value={"txt": text, "json": encode_labels(labels)})


def _probe(params: TextParams) -> bytes:
    labels = Labels(
        key="probe", generator="StyleGAN2", kind="EFS", family="GAN", split="train", group="0", source_path="0.png",
        synthetic=True, licence="none",
    )  # fmt: skip
    lines = sentences(labels, params.prompts)
    return encode_text(lines) + tokenize(lines).tobytes()


def _entry(generator: str, kind: str, family: str, params: Params) -> dict[str, Any]:
    """A source's four sentences and their 4 x 77 CLIP BPE ids."""
    labels = Labels(
        key="", generator=generator, kind=kind, family=family, split="", group="", source_path="", synthetic=False,
        licence="",
    )  # fmt: skip
    lines = sentences(labels, params["prompts"])
    return {"sentences": list(lines), "tokens": tokenize(lines).tolist()}


def _batch_row(entry: Mapping[str, Any]) -> Any:
    return entry["tokens"]


def _extra_bytes(params: Params) -> int:
    return SAMPLE_BYTES


def _picture(entry: Mapping[str, Any]) -> Picture:
    """The sentences, numbered by level."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), "white")
    draw = ImageDraw.Draw(canvas)
    y = 8
    for number, sentence in enumerate(entry.get("sentences", []), start=1):
        for line in textwrap.wrap(f"{number}  {sentence or '(unknown)'}", width=34):
            draw.text((6, y), line, fill="black")
            y += 14
        y += 8
    return np.asarray(canvas).copy()


VIEW = View(
    name="text",
    version=VERSION,
    reads="labels",
    params=TextParams,
    picture=_picture,
    compute=_compute,
    probe=_probe,
    members=("json", "txt"),
    about="four sentences, labels",
    extra_bytes=_extra_bytes,
    mirror=None,
    catalogue=Catalogue(key="prompts", entry=_entry, batch_row=_batch_row, dtype="int32"),
)
