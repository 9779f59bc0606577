"""The pictures of the report page, drawn by matplotlib without a display."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...pipeline.store.printing import printable

PUBLISHED_REJECTION = {"0.7": 0.3064, "0.9": 0.6631}  # averages of BMRL's row in its Table 1
CURVES, SQUARE, SMALL = (11.0, 4.0), (7.5, 6.5), (7.5, 3.8)  # inches
MAX_LABEL = 40  # characters of a name beside an axis


def draw(plot: Callable[[Any, Any], None], data: Any, size: tuple[float, float]) -> str:
    """A PNG in base64 of plot(figure, data)."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=size, layout="constrained")
    plot(figure, data)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # a name in a script that the font lacks shows boxes here, itself in the table
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def plot_curves(figure: Any, metrics: list[dict[str, Any]]) -> None:
    """Losses and accuracies over the steps of metrics.jsonl."""
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


def shorten(name: str) -> str:
    """As it stands beside an axis: one line, and no picture as wide as the name."""
    shown = printable(name)
    return shown if len(shown) <= MAX_LABEL else f"{shown[: MAX_LABEL - 3]}..."


def _smooth(values: list[float], width: int = 20) -> npt.NDArray[np.float64]:
    padded = np.concatenate([np.full(width - 1, values[0]), np.array(values, dtype=np.float64)])
    return np.convolve(padded, np.full(width, 1.0 / width), mode="valid")


def plot_confusion(figure: Any, confusion: dict[str, Any]) -> None:
    """classes and counts (K, K), rows true, as shares of each row."""
    axes = figure.subplots()
    counts = np.array(confusion["counts"], dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    classes = [shorten(name) for name in confusion["classes"]]
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8, parse_math=False)  # $ is a $
    axes.set_yticks(range(len(classes)), classes, fontsize=8, parse_math=False)
    axes.set(xlabel="attributed to", ylabel="true source", title="seen test images, share of each row")
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)


def plot_tippett(figure: Any, ratios: dict[str, Any]) -> None:
    """The share of images with a likelihood ratio above each value, of the named source and of others."""
    axes, found = figure.subplots(), ratios["tippett"]
    axes.plot(found["log10_lr"], found["same"], label="its own source")
    axes.plot(found["log10_lr"], found["different"], label="an unseen source, with its nearest one")
    axes.axvline(0.0, color="gray", ls=":", lw=1)
    tails = f" (tails: {found['tails']})" if found["tails"] else ""
    axes.set(xlabel="log10 likelihood ratio", ylim=(0, 1), title=f"share of test images with a ratio above{tails}")
    axes.legend(fontsize=8)


def plot_sweep(figure: Any, document: dict[str, Any]) -> None:
    """How far a temperature alone moves what every threshold rejects, seen and unseen, and the papers' point beside it."""
    swept = document["temperature_sweep"]
    thresholds = list(swept[0]["at"])
    axes = figure.subplots(1, len(thresholds), squeeze=False)[0]
    x = [point["temperature"] for point in swept]
    for axis, threshold in zip(axes, thresholds, strict=True):
        lines = {
            "seen rejected": "seen_rejection",
            "unseen rejected, mean over sources": "unseen_rejection",
            "seen accepted and correct": "accepted_correct",
        }
        for label, name in lines.items():
            values = [point["at"][threshold][name] for point in swept]
            if values[0] is not None:
                axis.plot(x, values, "o-", ms=3, lw=1.2, label=label)
        if threshold in PUBLISHED_REJECTION:
            rejected = PUBLISHED_REJECTION[threshold]
            axis.axhline(rejected, color="gray", ls="--", lw=1)
            words = f"BMRL's Table 1: {100 * rejected:.1f} % unseen rejected, other data, seen rejection not given"
            axis.text(x[0], rejected + 0.01, words, fontsize=7, color="gray")
        axis.axvline(1.0, color="gray", ls=":", lw=1)
        axis.set(xscale="log", ylim=(0, 1.02), xlabel="temperature of the logits", title=f"max softmax < {threshold}")
    axes[0].legend(fontsize=8)
