"""What the package ships is parsed once, and each caller has its own copy."""

from __future__ import annotations

import pytest
import yaml

from bmrl import manifests


def test_a_file_is_parsed_once_and_each_caller_may_change_what_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    first = manifests.load("prompts.yaml")
    monkeypatch.setattr(yaml, "safe_load", lambda _: pytest.fail("parsed again"))
    second = manifests.load("prompts.yaml")
    assert first == second
    first.clear()
    assert manifests.load("prompts.yaml") == second
