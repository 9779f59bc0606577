"""Names from outside forge no line and reach no terminal as they are."""

from __future__ import annotations

import random

from bmrl.pipeline.store.printing import Cells, fit_lines, printable, printable_lines

PARTS = [
    "\n",
    "\r",
    "\x1b[2J",
    "\x1b]0;x\x07",
    "\u202e",
    "\u2066",
    "\u2028",
    "\x00",
    "\x7f",
    "\x9b",
    "\u200f",
    "\udcff",
    "a",
    "é",
    "顔",
    "🙂",
]


def test_hostile_names_are_one_plain_line() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        name = "".join(rng.choices(PARTS, k=rng.randrange(1, 12)))
        shown = printable(name)
        assert shown.isprintable() and len(shown.splitlines()) == 1
        shown.encode()  # no lone surrogate
        assert printable(shown) == shown


def test_names_that_are_text_stay() -> None:
    for name in ("a b.png", "Gesicht-ü.jpg", "顔.png", "🙂", "", "C:\\x"):
        assert printable(name) == name
    assert printable("a\nb\x1b\u202e\udcff") == "a\\nb\\x1b\\u202e\N{REPLACEMENT CHARACTER}"
    assert printable_lines("a\nb\x1b") == "a\nb\\x1b"


def test_lines_within_a_terminal() -> None:
    rows = [Cells((f"{'source':20}", f"{'n':>7}", f"{'file':30}", "digest"))]
    rows += [
        Cells((f"{name:20}", f"{number:7d}", f"{'a/b.png':30}", "f" * 40))
        for name, number in (("real", 5), ("x\ny", 70))
    ]
    sentence = "warning: " + "word " * 30
    whole = fit_lines([*rows, sentence], None)
    assert len(whole.splitlines()) == 4 and "x\\ny" in whole
    narrow = fit_lines([*rows, sentence], 50).splitlines()
    assert max(map(len, narrow)) <= 50 and len(narrow) == 6 + 4
    assert narrow[:3] == ["source  n file", "real    5 a/b.png", "x\\ny   70 a/b.png"]
    assert narrow[3] == "source digest" and narrow[4] == f"real   {'f' * 40}", "what has no room stands below, whole"
    assert fit_lines(["f" * 90], 60) == "f" * 90
