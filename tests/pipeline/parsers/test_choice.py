"""A build whose parser is slower for want of a package says so, once, and names the extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import write_faces

from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.build.resolve import resolve
from bmrl.pipeline.parsers import engines
from bmrl.pipeline.shards.plan import write_plan


@pytest.mark.parametrize(
    ("engine", "has_onnx", "is_said"),
    [(None, False, True), ("auto", False, True), ("torch", False, False), (None, True, False)],
)
def test_a_missing_onnxruntime_is_said(
    engine: str | None, has_onnx: bool, is_said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_has_cuda", lambda: False)
    if not has_onnx:
        monkeypatch.setattr(engines, "has_onnx", lambda: False)
    root = write_faces(tmp_path / "faces", {"real": 2})
    given: dict[str, Any] = {"views": ("image", "parsing"), "parser": "bisenet-lite"}
    options = BuildOptions(dataset="folder", source_root=root, out=tmp_path / "out", parser_engine=engine, **given)
    intake = resolve(options)
    said = [warning for warning in intake.walk.warnings if "pip install 'bmrl[onnx]'" in warning]
    assert bool(said) == is_said
    assert intake.plan.views["parsing"].params["engine"] == ("onnx" if has_onnx else "torch")
    options.out.mkdir()
    write_plan(options.out, intake.plan)
    assert not [warning for warning in resolve(options).walk.warnings if "bmrl[onnx]" in warning]  # the plan is made
