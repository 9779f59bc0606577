"""Text that came from outside, as a terminal or a table may show it."""

from __future__ import annotations

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(text: object) -> str:
    """One line: newlines, control characters, ESC and marks that turn the direction of writing become escapes such as
    \\x1b; bytes of a file's name that are no text become the replacement character."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_escaped, shown))


def printable_lines(text: str) -> str:
    """As `printable`, of text whose own newlines are ours."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\ud800" <= character <= "\udfff":
        return REPLACEMENT
    return character.encode("unicode_escape").decode("ascii")
