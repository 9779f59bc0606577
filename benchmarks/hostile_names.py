"""Hostile names of files and folders through every command that prints them: nothing forged, one line an input."""

from __future__ import annotations

import html
import json
import os
import random
import re
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from hostile_commands import Command, Outcome, call, title
from hostile_sets import Sets, picture
from PIL import Image
from tqdm import tqdm

BATCH = 50  # names in one dataset
PARTS = (
    "\n", "\r", "\r\n", "\t", "\x0b", "\x0c", "\x1b[2J", "\x1b[1A\x1b[2K", "\x1b]0;owned\x07", "\x1b]8;;http://x\x07",
    "\x07", "\x08\x08\x08\x08\x08\x08\x08\x08\x08", "\x7f", "\x85", "\x9b31m", "\u200b", "\u200e", "\u200f", "\u202a",
    "\u202e", "\u2066", "\u2069", "\u2028", "\u2029", "\ufeff", "\U000e0041", "'", '"', "`", '\\', "$(id)", ";id;",
    "|id", "&", "=cmd()", "+cmd()", "-cmd()", "@cmd()", '=HYPERLINK("http://x")', ",", ";",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</title>", "-->", "]]>", "${7*7}", "{{7*7}}",
    "{% x %}", "%s%n", "%00", "[x](javascript:alert(1))", "![x](http://x)", "|", "# x", "---", "***", "\u0430",
    "\uff0e\uff0e", "\U0001f600", "e\u0301", "\ud800", "a\nb: real  (real 1.000)", "\nerror: nothing",
    ": real  (real 1.000)  [better than guessing]", "CON", "~", "*", "?", " ", ". .", "",
)  # fmt: skip
INVALID = ("\udcff", "\udc80\udcfe", "\udcc3", "\udced\udca0\udc80")  # bytes that are no UTF-8, as Python names them
MARKUP = re.compile(r"<script>alert|<img src=x|</title>\S*_\d", re.IGNORECASE)  # of the names above


def name_of(number: int) -> str:
    """File name `number`, without its extension; at most 240 bytes, no slash and no zero byte."""
    rng = random.Random(f"name {number}")
    parts = [rng.choice(PARTS) for _ in range(rng.choice([1, 1, 2, 3]))]
    if rng.random() < 0.12:
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(INVALID))
    if rng.random() < 0.08:
        parts.append(rng.choice(["x", "\u202e", "=", "\x1b", "é"]) * 200)
    text = f"{number}".join(parts) if len(parts) > 1 else parts[0]
    text = (
        (text if rng.random() < 0.6 else f"n{number}{text}")
        .replace("/", "")
        .replace("\x00", "")
        .replace("\ud800", "\udced")
    )
    data = os.fsencode(text)[:230]
    return os.fsdecode(data).rstrip(".") + f"_{number}"  # no two alike


def forged(text: str) -> str:
    """The first character that may not reach a terminal, with what stands around it; '' where all is plain."""
    for place, one in enumerate(text):
        if one != "\n" and (unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") or not one.isprintable()):
            return repr(text[max(0, place - 60) : place + 30])
    return ""


def bars_gone(text: str) -> str:
    """Without the lines that tqdm draws."""
    return "\n".join(
        line for line in text.split("\n") if "%|" not in line and "\x1b[A" not in line and "it/s" not in line
    )


def run(sets: Sets, work: Path, count: int) -> str:
    """Every name as a file in a dataset, half of them as a generator's name too, as images to attribute, as strays in ROOT."""
    calls: Counter[tuple[str, int]] = Counter()
    findings: dict[str, list[int]] = {}
    for first in tqdm(range(0, count, BATCH), desc="names"):
        numbers = list(range(first, min(first + BATCH, count)))
        shutil.rmtree(work, ignore_errors=True)
        folders = _datasets(work, numbers)
        for command, outcome, lines in _calls(sets, work, folders):
            calls[outcome.command, outcome.code] += 1
            for finding in _judge(command, outcome, lines):
                findings.setdefault(f"{outcome.command}: {finding}", []).append(first)
        for finding in _pages(work):
            findings.setdefault(finding, []).append(first)
    shutil.rmtree(work, ignore_errors=True)
    rows = "\n".join(f"| {name} | {code} | {number} |" for (name, code), number in sorted(calls.items()))
    found = "\n".join(
        f"* {len(where)} times, such as names {where[0]} and on: {what}" for what, where in sorted(findings.items())
    )
    head = f"{count} names, {BATCH} at a time.\n\n| command | exit code | calls |\n|---|---|---|"
    return f"{head}\n{rows}\n\n{found or 'No finding.'}"


def _datasets(work: Path, numbers: list[int]) -> dict[str, list[Path]]:
    source, faces = work / "source", work / "faces"
    faces.mkdir(parents=True)
    (source / "real").mkdir(parents=True)
    images, odd = [], []
    for number in numbers:
        name = name_of(number)
        folder = source / "real"
        if number % 2 and name.splitlines() == [name]:  # as a generator's name, which must be a line
            folder = source / name
            folder.mkdir()
        for target in (folder / f"{name}.png", faces / f"{name}.png"):
            Image.fromarray(picture(number, number % 7, 64)).save(target, format="PNG")
        images.append(faces / f"{name}.png")
        if number % 5 == 0:
            (folder / f"{name}.jpg").write_bytes(b"no image %d" % number)
            odd.append(folder / f"{name}.jpg")
            images += [faces / f"{name}.webp"]  # which is not there
    return {"images": images, "odd": odd}


def _calls(sets: Sets, work: Path, folders: dict[str, list[Path]]) -> Any:
    """(command, what it answered, lines that standard output must have; None: any number)"""
    root, out = work / "root", work / "out"
    build = [
        "build",
        "--dataset",
        "folder",
        "--root",
        str(work / "source"),
        "--workers",
        "0",
        "--views",
        "image,edge,noise,text",
    ]
    images = [str(path) for path in folders["images"]]
    yield _called(["prep", *build, "--out", str(root), "--dry-run"])
    yield _called(["prep", *build, "--out", str(root), "--max-failures", "1"])
    for arguments in (
        ["info", str(root)], ["info", str(root), "--json", "--card", str(work / "card")], ["head", str(root), "-n", "100"],
        ["head", str(root), "--grid", str(work / "grid.png")], ["verify", str(root), "--deep"], ["protocols", str(root)],
        ["export", str(root), "--for", "deepfakebench", "--out", str(out / "bench")],
        ["export", str(root), "--for", "open_clip", "--out", str(out / "clip")],
    ):  # fmt: skip
        yield _called(["prep", *arguments])
    yield _called(["attribute", str(sets.run), *images, "--device", "cpu"], lines=len(images))
    yield _called(["attribute", str(sets.run), *images, "--device", "cpu", "--json"])
    train = [*sets.train_options(root, out / "run"), "--set", "losses.cpc=0"]  # without the parsing view
    train[train.index("--epochs") + 1] = "1"
    yield _called(["train", *train])
    yield _called(["eval", str(out / "run"), "--shards", str(root), "--out", str(work / "eval")])
    for path in folders["odd"]:
        (root / path.name).write_bytes(b"stray")
    yield _called(["prep", "verify", str(root)])
    for path in folders["odd"]:
        path.unlink()  # a planned source that is gone
    yield _called(["prep", *build, "--out", str(root)])
    for path in folders["images"][:3]:
        yield _called(["prep", "info", str(path)])
        yield _called(["attribute", str(path), str(path)])
        yield _called(["train", "--shards", str(path), "--out", str(path)])
        yield _called(["eval", str(path), "--shards", str(path)])
        yield _called(
            [
                "prep",
                "build",
                "--dataset",
                "manifest",
                "--root",
                str(path),
                "--out",
                str(out / "m"),
                "--generators",
                str(path),
            ]
        )


def _called(words: list[str], lines: int | None = None) -> tuple[Command, Outcome, int | None]:
    command = Command(words[0], words[1:], (0, 1, 2, 3))
    outcome = call(command)
    outcome.command = title(command)
    return command, outcome, lines


def _judge(command: Command, outcome: Outcome, lines: int | None) -> list[str]:
    found = []
    if outcome.error:
        found.append(f"traceback {outcome.error}")
    if outcome.code not in command.codes:
        found.append(f"exit code {outcome.code}")
    is_json = "--json" in command.arguments
    if odd := forged(outcome.stdout):
        found.append(f"printed {odd}")
    if odd := forged(bars_gone(outcome.stderr)):
        found.append(f"said {odd}")
    if lines is not None and len(outcome.stdout.splitlines()) != lines:
        found.append(f"{len(outcome.stdout.splitlines())} lines of {lines} inputs")
    if is_json and outcome.code in (0, 1) and outcome.stdout:
        try:
            json.loads(outcome.stdout)
        except ValueError:
            found.append("its output is no JSON document")
    return found


def _pages(work: Path) -> list[str]:
    """Markup or controls in what was written for people: report page and card. A name that is quoted is escaped."""
    found = []
    page, card = work / "eval/report.html", work / "card/README.md"
    if page.exists():
        text = page.read_text(errors="surrogateescape")
        if MARKUP.search(text):
            found.append("report.html holds markup of a name")
        if odd := forged(html.unescape(text).replace("\t", " ")):
            found.append(f"report.html holds {odd}")
    if card.exists():
        text = card.read_text(errors="surrogateescape")
        if MARKUP.search(text) or "](javascript:" in text.replace("\\]", "").replace("\\[", ""):
            found.append("the card holds markup of a name")
        if odd := forged(text):
            found.append(f"the card holds {odd}")
    return found
