"""What a build says beside its bar."""

from __future__ import annotations

import io
import sys

import pytest

from bmrl.cli.progress import BuildBar


def test_a_message_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between text and line end put its own sentence behind the text."""
    pieces: list[str] = []

    class Recorder(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Recorder())
    with BuildBar() as bar:
        bar.message("warning: a folder")
    assert [piece for piece in pieces if piece] == ["warning: a folder\n"]
