"""`--parser`: a name, a weight file or a folder of maps -> a ParserSpec. The only reader of manifests/parsers.yaml."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ... import manifests
from ..store import hub
from ..store.local import file_sha256
from .errors import ParserError
from .maps import LabelMaps
from .weights import read_metadata

MAPS_PREFIX = "maps:"
BISENET_INPUT = 512  # pixels a side; what the published networks take
LITE = "bisenet-lite"


@dataclass(frozen=True, kw_only=True)
class ParserSpec:
    """A parser that is there: verified weights, or a folder of maps."""

    name: str  # bisenet, bisenet-lite, file, maps
    path: Path  # the weight file; for maps, their folder
    sha256: str
    input_size: int = 0  # pixels a side; 0 for maps
    order: str = ""  # class order of maps; empty for a network
    license: str = "the file's own"

    @property
    def is_maps(self) -> bool:
        return self.name == "maps"

    def maps(self) -> LabelMaps:
        """The maps of a `maps:` parser."""
        assert self.is_maps
        return LabelMaps(folder=self.path, order=self.order)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An entry of manifests/parsers.yaml."""

    input_size: int
    size: int  # bytes of the weight file
    sha256: str
    license: str
    mirrors: tuple[hub.Mirror, ...] = ()  # Hugging Face Hub; empty for a file in the package
    package_file: str = ""  # in bmrl.pipeline.parsers


def resolve(parser: str, *, cache: Path | None = None) -> ParserSpec:
    """`bisenet`, `bisenet-lite`, a weight file, or `maps:ORDER:DIR` -> its spec, weights present and verified.

    cache: folder of the Hugging Face Hub's cache (the client's own where None). Raises ParserError.
    """
    if parser.startswith(MAPS_PREFIX):
        return _resolve_maps(parser)
    listed = read_manifest()
    if parser not in listed:
        return _resolve_file(parser, names=list(listed))
    entry = listed[parser]
    path = _packaged(entry) if entry.package_file else _fetched(parser, entry, cache)
    return ParserSpec(name=parser, path=path, sha256=entry.sha256, input_size=entry.input_size, license=entry.license)


def read_manifest() -> dict[str, Listed]:
    """manifests/parsers.yaml by parser name."""
    return {name: _listed(name, entry) for name, entry in manifests.load("parsers.yaml").items()}


def _listed(name: str, entry: dict[str, Any]) -> Listed:
    unknown = set(entry) - {field.name for field in fields(Listed)}
    if unknown:
        raise ValueError(f"manifests/parsers.yaml: {name}: unknown key {sorted(unknown)[0]!r}")
    mirrors = tuple(hub.Mirror(**mirror) for mirror in entry.get("mirrors", ()))
    return Listed(**{**entry, "mirrors": mirrors})


def _fetched(parser: str, entry: Listed, cache: Path | None) -> Path:
    try:
        return hub.fetch(
            hub.Pin(size=entry.size, sha256=entry.sha256, mirrors=entry.mirrors),
            what=f"the weights of parser {parser!r}",
            otherwise=f"give a local copy with --parser FILE, or use the built-in one with --parser {LITE}",
            cache=cache,
        )
    except hub.HubError as error:
        raise ParserError(str(error)) from error


def _resolve_maps(parser: str) -> ParserSpec:
    order, separator, folder = parser[len(MAPS_PREFIX) :].partition(":")
    if not separator or not folder:
        raise ParserError(f"--parser {parser}: expected maps:ORDER:DIR, such as maps:segface:maps/segface")
    maps = LabelMaps(folder=Path(folder), order=order)
    return ParserSpec(name="maps", path=maps.folder, sha256=maps.sha256(), order=order)


def _resolve_file(parser: str, *, names: list[str]) -> ParserSpec:
    path = Path(parser)
    if not path.is_file():
        raise ParserError(
            f"--parser {parser}: no such weight file, and no parser of that name; "
            f"expected {', '.join(names)}, FILE or maps:ORDER:DIR"
        )
    metadata = read_metadata(path)
    return ParserSpec(
        name="file",
        path=path,
        sha256=file_sha256(path),
        input_size=int(metadata.get("input_size", BISENET_INPUT)),
        license=metadata.get("license", "the file's own"),
    )


def _packaged(entry: Listed) -> Path:
    path = Path(__file__).with_name(entry.package_file)
    if not path.is_file() or path.stat().st_size != entry.size or file_sha256(path) != entry.sha256:
        raise ParserError(f"{path}: the built-in weights are missing or damaged; install bmrl again")
    return path
