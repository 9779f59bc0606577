"""One self-contained HTML page: the table, the views of a sample of every source, confusion matrix, training curves."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from PIL import Image

from .table import render_table, zero_shot_notes, zero_shot_rows


@dataclass(frozen=True, kw_only=True)
class Sample:
    generator: str
    key: str
    views: dict[str, npt.NDArray[np.uint8]]  # view -> RGB (224, 224, 3)


def render_report(document: dict[str, Any], *, metrics: list[dict[str, Any]], samples: list[Sample]) -> bytes:
    """The page; it loads nothing from anywhere."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    page: str = template.render(
        document=document,
        table=render_table(document),
        zero_shot_rows=zero_shot_rows(document["zero_shot"]),
        zero_shot_notes=zero_shot_notes(document["zero_shot"]),
        curves=_figure(_plot_curves, metrics) if any("step" in record for record in metrics) else None,
        confusion=_figure(_plot_confusion, document["confusion"]),
        samples=[(s.generator, s.key, {name: _png(rgb) for name, rgb in s.views.items()}) for s in samples],
    )
    return page.encode()


def _png(rgb: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _figure(plot: Any, data: Any) -> str:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(11, 4) if plot is _plot_curves else (7.5, 6.5), layout="constrained")
    plot(figure, data)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a name in a script that the font lacks shows boxes here, itself in the table
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _plot_curves(figure: Any, metrics: list[dict[str, Any]]) -> None:
    steps = [record for record in metrics if "step" in record]
    losses, accuracies = figure.subplots(1, 2)
    x = np.array([record["step"] for record in steps])
    for name in sorted({key for record in steps for key in record if key.startswith("loss")}):
        losses.plot(
            x, _smooth([record.get(name, np.nan) for record in steps]), label=name.removeprefix("loss_"), lw=1.2
        )
    losses.set(xlabel="step", title="training losses (moving mean of 20 steps)")
    losses.legend(fontsize=8)
    accuracies.plot(x, _smooth([record.get("accuracy", np.nan) for record in steps]), label="training batches", lw=1.2)
    ends = {record["epoch"]: record["step"] for record in steps}
    validations = [record for record in metrics if "step" not in record and record["epoch"] in ends]
    accuracies.plot(
        [ends[record["epoch"]] for record in validations],
        [record["val_accuracy"] for record in validations],
        "o-",
        label="seen validation",
    )
    accuracies.set(xlabel="step", ylim=(0, 1), title="accuracy on seen sources")
    accuracies.legend(fontsize=8)


def _smooth(values: list[float], width: int = 20) -> npt.NDArray[np.float64]:
    padded = np.concatenate([np.full(width - 1, values[0]), np.array(values, dtype=np.float64)])
    return np.convolve(padded, np.full(width, 1.0 / width), mode="valid")


def _plot_confusion(figure: Any, confusion: dict[str, Any]) -> None:
    axes = figure.subplots()
    counts = np.array(confusion["counts"], dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    classes = confusion["classes"]
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8, parse_math=False)  # $ is a $
    axes.set_yticks(range(len(classes)), classes, fontsize=8, parse_math=False)
    axes.set(xlabel="attributed to", ylabel="true source", title="seen test images, share of each row")
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)
