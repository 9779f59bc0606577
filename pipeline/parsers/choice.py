"""Which parser a plan uses: resolved once, to verified weights and a concrete engine, because both decide bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..views import parsing
from ..views.column import ViewPlan, plan_view
from ..views.parsing import Labels, LabelTool
from ..views.probe import probe_image
from ..views.view import Sample
from . import engines
from .errors import ParserError, UnnamedParserError
from .specs import ParserSpec
from .specs import resolve as resolve_parser

if TYPE_CHECKING:
    from .parser import Parser


@dataclass(frozen=True, kw_only=True)
class NetworkTool:
    """An open network, for the view that it computes."""

    parser: Parser
    reads_source: bool = True

    def label(self, samples: Sequence[Sample]) -> list[Labels]:
        """Labels uint8 (224, 224) of each sample's source crop."""
        return self.parser.parse([sample.source.rgb for sample in samples if sample.source is not None])


@dataclass(frozen=True, kw_only=True)
class MapTool:
    """Label maps that another tool made; they are found by the source's path."""

    spec: ParserSpec
    size: int  # pixels a side
    reads_source: bool = False

    def label(self, samples: Sequence[Sample]) -> list[Labels]:
        """Labels uint8 (size, size) of each sample. Raises ParserError where a map is absent or of another size."""
        maps = self.spec.maps()
        return [
            maps.parse(
                sample.row["source_path"],
                width=sample.facts["source_width"],
                height=sample.facts["source_height"],
                size=self.size,
            )
            for sample in samples
        ]


@dataclass(frozen=True, kw_only=True)
class ParserChoice:
    """A parser as a plan fixed it; opened in the process that uses it."""

    spec: ParserSpec
    plan: ViewPlan

    @property
    def uses_maps(self) -> bool:
        return self.spec.is_maps

    @property
    def threads(self) -> int:
        """What the tool takes of the processor."""
        return int(self.plan.params["threads"])

    def open(self) -> LabelTool:
        """Load the network and check that it still computes what the plan's probe says. Raises ParserError."""
        if self.uses_maps:
            return MapTool(spec=self.spec, size=int(self.plan.params["size"]))
        from ..views.parsing import ParsingParams
        from .parser import Parser

        parser = Parser.from_params(self.spec, ParsingParams(**self.plan.params))
        found = hashlib.sha256(np.ascontiguousarray(_probe(parser)).tobytes()).hexdigest()
        if found != self.plan.probe:
            raise ParserError(
                f"parser {self.spec.name} computes other labels here than where the plan was made (another processor or "
                "library); build on one kind of machine, or start anew with --replace parsing"
            )
        return NetworkTool(parser=parser)


def choose_parser(
    parser: str | None, engine: str | None, before: ViewPlan | None, codec_set: str, default: str
) -> tuple[ViewPlan, ParserChoice]:
    """The parsing column's plan. With no options given, a plan in ROOT stands as it is.

    Raises ParserError (no weights, no engine) or UnnamedParserError (the plan's parser was a file).
    """
    from .parser import Parser, parsing_params

    view = parsing.VIEW
    assert view.tool_name is not None
    if before is not None and parser is None and engine is None:
        if not view.tool_name(before.params):
            raise UnnamedParserError("the plan's parser was given as a file or folder: give the same --parser again")
        return before, choice_of(before)
    if parser is None:
        parser = str(before.params["parser"]) if before is not None else default
    if engine is None:
        engine = str(before.params["engine"]) if before is not None else "auto"
    spec = resolve_parser(parser)
    params = parsing_params(spec, engine="auto" if engine == "none" else engine)
    probe = None if spec.is_maps else np.ascontiguousarray(_probe(Parser.from_params(spec, params))).tobytes()
    plan = plan_view(view, params, codec_set=codec_set, weights_sha256=spec.sha256, probe=probe)
    return plan, ParserChoice(spec=spec, plan=plan)


def engine_warning(choice: ParserChoice, engine: str | None) -> str | None:
    """A sentence where `auto` came to torch for want of a package. engine: the one that was asked for."""
    if engine not in (None, "auto") or choice.plan.params["engine"] != "torch" or engines.has_onnx():
        return None
    return (
        "onnx and onnxruntime are not installed, so the parser runs on torch, which takes longer, and the plan keeps that; "
        "pip install 'bmrl[onnx]' before a build (--overwrite for this one), or say --parser-engine torch"
    )


def choice_of(plan: ViewPlan) -> ParserChoice:
    """The parser that a plan names. Raises ParserError where it cannot be had."""
    return ParserChoice(spec=resolve_parser(str(plan.params["parser"])), plan=plan)


def _probe(parser: Parser) -> npt.NDArray[np.uint8]:
    return parser.parse([probe_image()])[0]
