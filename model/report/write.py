"""An evaluation's files: result.json, report.html and predictions.parquet."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...pipeline.store.local import write_bytes, write_readable_json
from ..errors import RunError, WrongUseError
from ..evaluation.case import Case
from ..evaluation.comparison import Entrant, compare
from ..evaluation.predictions_file import About, Contents, write_predictions
from ..evaluation.result import Result
from .html import Sample, render_page, render_tables


@dataclass(frozen=True, kw_only=True)
class Report:
    """An evaluated attributor, and what its page shows beside the result."""

    case: Case
    result: Result
    about: About
    metrics: list[dict[str, Any]] = field(default_factory=list)  # the records of a run's metrics.jsonl
    samples: Callable[[], Sequence[Sample]] = tuple


def prepare_out(out: Path) -> None:
    """Make the folder; whatever would stop its files at the end is said before the work."""
    if out.exists() and not out.is_dir():
        raise WrongUseError(f"--out {out} is a file")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RunError(f"--out {out} cannot be written: {error.strerror}") from error


def write_report(out: Path, report: Report) -> None:
    """All of them at the end: what stops the work leaves the earlier ones."""
    for _ in report.case.track(("page",), "drawing the page"):
        page = render_page(report.result, metrics=report.metrics, samples=list(report.samples()))
    case = report.case
    parts = {name: getattr(case, name) for name in ("train", "validation", "seen", "unseen", "controls")}
    contents = Contents(
        about=report.about,
        parts={name: rows for name, rows in parts.items() if rows is not None and len(rows)},
        sources=case.sources,
    )
    write_predictions(out / "predictions.parquet", contents)
    write_bytes(out / "report.html", page)
    write_readable_json(out / "result.json", report.result.document)


def write_comparison(reports: Mapping[str, Report], out: Path | None) -> tuple[Result, dict[str, Any]]:
    """Several attributors compared on the same images: the comparison, and `document` with the result of each beside it. With
    `out`, result.json and report.html there. Raises WrongUseError."""
    names = short_names(list(reports))
    entrants = [
        Entrant(name=names[path], recipe=report.about.recipe, case=report.case) for path, report in reports.items()
    ]
    result = compare(entrants)
    document = {"runs": {path: one.result.document for path, one in reports.items()}, "comparison": result.document}
    if out is not None:
        prepare_out(out)
        write_bytes(out / "report.html", render_tables("bmrl: attributors compared", result))
        write_readable_json(out / "result.json", document)
    return result, document


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """path -> its last part, or as many of its last parts as tell it from the others."""
    parts = {path: Path(path).parts for path in paths}
    found = {}
    for path in paths:
        for count in range(1, len(parts[path]) + 1):
            name = "/".join(parts[path][-count:])
            if sum("/".join(other[-count:]) == name for other in parts.values()) == 1:
                break
        found[path] = name
    return found
