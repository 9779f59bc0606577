"""A result as one self-contained HTML page: its tables, training curves, and the views of a sample of every source."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from PIL import Image

from ...pipeline.store.printing import printable
from ..evaluation.result import Result
from . import plots
from .text import write


@dataclass(frozen=True, kw_only=True)
class Sample:
    generator: str
    key: str
    views: dict[str, npt.NDArray[np.uint8]]  # view -> RGB (224, 224, 3)


def render_page(result: Result, *, metrics: list[dict[str, Any]], samples: list[Sample]) -> bytes:
    """The page; it loads nothing from anywhere. metrics: the records of a run's metrics.jsonl."""
    document = result.document
    ratios = document.get("likelihood_ratios") or {}
    has_steps = any("step" in record for record in metrics)
    page: str = _template("report").render(
        document=document,
        tables=list(result.tables),
        write=write,
        curves=plots.draw(plots.plot_curves, metrics, plots.CURVES) if has_steps else None,
        confusion=plots.draw(plots.plot_confusion, document["confusion"], plots.SQUARE),
        tippett=plots.draw(plots.plot_tippett, ratios, plots.SMALL) if ratios.get("tippett") else None,
        sweep=plots.draw(plots.plot_sweep, document, plots.CURVES),
        samples=[(s.generator, s.key, {name: _png(rgb) for name, rgb in s.views.items()}) for s in samples],
    )
    return page.encode()


def render_tables(title: str, result: Result) -> bytes:
    """A page of a result's tables alone."""
    page: str = _template("tables").render(title=title, tables=list(result.tables), write=write)
    return page.encode()


def _template(name: str) -> Template:
    environment = Environment(
        autoescape=True,
        finalize=_on_a_line,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_read_template),
    )
    return environment.get_template(name)


def _read_template(name: str) -> str:
    return files(__package__).joinpath(f"{name}.html.j2").read_text(encoding="utf-8")


def _on_a_line(value: Any) -> Any:
    """Before a text is escaped for HTML: no newline, control character or mark of direction of a name reaches the page."""
    return printable(value) if isinstance(value, str) else value


def _png(rgb: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
