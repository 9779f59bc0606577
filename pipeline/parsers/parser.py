"""A parser ready to use: one network on one engine, kept by its owner (an actor, a script) for as long as it parses."""

from __future__ import annotations

from collections.abc import Sequence

from ..views.image import RGB
from ..views.parsing import Labels, Network, ParsingParams, parse_at, parse_batch
from . import engines
from .errors import ParserError
from .specs import ParserSpec
from .weights import load_bisenet


def parsing_params(spec: ParserSpec, *, engine: str = "auto", threads: int = 1) -> ParsingParams:
    """The parameters of the view for a spec, with `auto` resolved to the engine that runs here."""
    if spec.is_maps:
        return ParsingParams(
            parser=spec.name, weights_sha256=spec.sha256, input_size=0, engine="none", map_order=spec.order
        )
    engine = engines.resolve_engine(engine)
    return ParsingParams(
        parser=spec.name,
        weights_sha256=spec.sha256,
        input_size=spec.input_size,
        engine=engine,
        precision=engines.PRECISION[engine],
        batch_size=engines.BATCH_SIZE[engine],
        threads=threads,
    )


class Parser:
    """Labels photographs with a network. `params` says all that decides its output."""

    def __init__(self, network: Network, params: ParsingParams) -> None:
        self.network, self.params = network, params

    @classmethod
    def open(cls, spec: ParserSpec, *, engine: str = "auto", threads: int = 1) -> Parser:
        """Load a spec's weights. Raises ParserError for a file that is no BiSeNet, or an engine that is not here."""
        return cls.from_params(spec, parsing_params(spec, engine=engine, threads=threads))

    @classmethod
    def from_params(cls, spec: ParserSpec, params: ParsingParams) -> Parser:
        """As `open`, with the parameters that a plan fixed earlier."""
        if spec.is_maps:
            raise ParserError("label maps are read per source (LabelMaps.parse), not computed from pixels")
        if params.weights_sha256 != spec.sha256:
            raise ParserError(f"{spec.path}: sha256 {spec.sha256}, the plan was made with {params.weights_sha256}")
        engines.resolve_engine(params.engine)
        net = load_bisenet(spec.path)
        return cls(engines.open_network(net, engine=params.engine, threads=params.threads), params)

    def parse(self, crops: Sequence[RGB]) -> list[Labels]:
        """Square RGB uint8 crops (S, S, 3) -> the `parsing` view of each, uint8 (224, 224)."""
        return parse_batch(self.network, crops, self.params)

    def labels(self, rgb: RGB, size: int | None = None) -> Labels:
        """One square RGB crop (S, S, 3) -> labels uint8 (size, size), `size` by default S.

        The logits are upsampled straight to `size`, so a large map has smooth borders.
        """
        size = size or rgb.shape[0]
        one = parse_at(self.network, [rgb], self.params, resolution=size, size=size)
        return one[0]
