"""docs/methods.md explains every code that the source names."""

from __future__ import annotations

import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
SOURCE = ("pipeline", "model", "cli", "benchmarks")
CODE = re.compile(r"\b[DMN]\d{1,2}\b")
NO_CODES = {"D65"}  # the illuminant of sRGB


def words(path: Path) -> str:
    """The comments and strings of a Python file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    spoken = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    return "\n".join(token.string for token in tokens if token.type in spoken)


def named_codes() -> dict[str, set[str]]:
    """code -> the files that name it."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in SOURCE:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for code in set(CODE.findall(words(path))) - NO_CODES:
                found[code].add(path.relative_to(REPOSITORY).as_posix())
    return found


def explained_codes() -> list[str]:
    text = (REPOSITORY / "docs/methods.md").read_text()
    return re.findall(r"^### ([DMN]\d+): ", text, re.MULTILINE)


def test_every_code_that_the_source_names_is_explained() -> None:
    named, explained = named_codes(), set(explained_codes())
    assert len(named) >= 20, "the search for codes finds too few of them"
    missing = {code: sorted(files) for code, files in named.items() if code not in explained}
    assert not missing, f"docs/methods.md has no entry for {missing}"


def test_no_code_is_explained_twice_and_no_number_is_left_out() -> None:
    explained = explained_codes()
    assert len(set(explained)) == len(explained)
    for letter, last in (("D", 29), ("M", 10)):
        assert [code for code in explained if code[0] == letter] == [f"{letter}{n}" for n in range(1, last + 1)]
