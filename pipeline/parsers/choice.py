"""Which parser a plan uses: resolved once, to verified weights and a concrete engine, because both decide bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..shards.plan import PlanError
from ..views.column import ViewPlan, plan_parsing, probe_image
from .errors import ParserError
from .specs import ParserSpec
from .specs import resolve as resolve_parser

if TYPE_CHECKING:
    from .parser import Parser

TASK_BATCH = 16  # crops handed to the parser at once; its own batch_size, a declared parameter, decides bytes


@dataclass(frozen=True, kw_only=True)
class ParserChoice:
    """A parser as a plan fixed it; opened in the process that uses it."""

    spec: ParserSpec
    plan: ViewPlan

    @property
    def uses_maps(self) -> bool:
        return self.spec.is_maps

    def open(self) -> Parser:
        """Load the network and check that it still computes what the plan's probe says. Raises ParserError."""
        from ..views.parsing import ParsingParams
        from .parser import Parser

        parser = Parser.from_params(self.spec, ParsingParams(**self.plan.params))
        found = hashlib.sha256(np.ascontiguousarray(_probe(parser)).tobytes()).hexdigest()
        if found != self.plan.probe:
            raise ParserError(
                f"parser {self.spec.name} computes other labels here than where the plan was made (another processor or "
                "library); build on one kind of machine, or start anew with --replace parsing"
            )
        return parser

    def read_map(self, source_path: str, width: int, height: int) -> npt.NDArray[np.uint8]:
        """The label map of a source, for a `maps:` parser, uint8 (224, 224)."""
        return self.spec.maps().parse(source_path, width=width, height=height, size=int(self.plan.params["size"]))


def plan_parsing_view(
    parser: str | None, engine: str | None, before: ViewPlan | None, codec_set: str, default: str
) -> tuple[ViewPlan, ParserChoice]:
    """The parsing column's plan. With no options given, a plan in ROOT stands as it is.

    Raises ParserError (no weights, no engine) or PlanError (the plan's parser was a file that must be named again).
    """
    from .parser import Parser, parsing_params

    if before is not None and parser is None and engine is None:
        name = str(before.params["parser"])
        if name in ("file", "maps"):
            raise PlanError("the plan's parser was given as a file or folder: give the same --parser again")
        return before, ParserChoice(spec=resolve_parser(name), plan=before)
    if parser is None:
        parser = str(before.params["parser"]) if before is not None else default
    if engine is None:
        engine = str(before.params["engine"]) if before is not None else "auto"
    spec = resolve_parser(parser)
    params = parsing_params(spec, engine="auto" if engine == "none" else engine)
    probe = None if spec.is_maps else _probe(Parser.from_params(spec, params))
    view = plan_parsing(params, weights_sha256=spec.sha256, codec_set=codec_set, probe=probe)
    return view, ParserChoice(spec=spec, plan=view)


def _probe(parser: Parser) -> npt.NDArray[np.uint8]:
    return parser.parse([probe_image()])[0]
