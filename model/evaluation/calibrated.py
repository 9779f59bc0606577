"""How far probabilities can be believed, before and after the temperature of the validation rows, and how far a temperature
alone moves the papers' "unseen ACC"."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case
from .result import Cell, Column, Section, Table, percent, span
from .scores import threshold_name
from .softmax import max_softmax

TEMPERATURES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0)
FIGURES = {"nll": "NLL", "brier": "Brier score", "ece": "expected calibration error (15 bins)"}


def calibration_section(case: Case) -> Section:
    own = dict(case.about.calibration or {})
    if case.temperature is None:
        found = {**own, "reason": "no seen validation rows: no temperature"} if own else None
        return Section(document={"calibration": found, "temperature_sweep": sweep(case)})
    found = {
        **own,
        "temperature": case.temperature,
        **{name: case.estimates["calibration", name].value for name in FIGURES},
        "uncalibrated": {name: case.estimates["calibration", "uncalibrated", name].value for name in FIGURES},
        "n_validation": len(case.validation) if case.validation is not None else None,
    }
    columns = (
        Column(title="calibration, seen test images", width=44),
        Column(title="as it is", width=8, unit="score"),
        Column(title="95 % interval", width=15, gap=2),
        Column(title="at T", width=8, unit="score"),
        Column(title="95 % interval", width=15, gap=2),
    )
    rows: list[tuple[Cell, ...]] = []
    for name, words in FIGURES.items():
        before = case.estimates["calibration", "uncalibrated", name].figure(len(case.seen))
        after = case.estimates["calibration", name].figure(len(case.seen))
        rows.append((words, before, span(before, "score"), after, span(after, "score")))
    swept = sweep(case)
    notes = [f"T = {case.temperature:.3f}, by the NLL of seen validation images"]
    if len(case.unseen):
        name = threshold_name(case.thresholds[-1])
        low, high = swept[0]["at"][name], swept[-1]["at"][name]
        notes.append(
            f"dividing all logits by {TEMPERATURES[0]:g} to {TEMPERATURES[-1]:g} moves unseen rejection at {name} from "
            f"{percent(low['unseen_rejection'])} to {percent(high['unseen_rejection'])} and seen rejection from "
            f"{percent(low['seen_rejection'])} to {percent(high['seen_rejection'])}, with the accuracy unchanged"
        )
    table = Table(name="calibration", title="Calibration", columns=columns, rows=tuple(rows), notes=tuple(notes))
    return Section(document={"calibration": found, "temperature_sweep": swept}, tables=(table,))


def sweep(case: Case) -> list[dict[str, Any]]:
    """Per temperature, and threshold of the max softmax: what is rejected of seen rows, of unseen sources (mean), and what is
    accepted and correct."""
    found = []
    for temperature in TEMPERATURES:
        seen, unseen = (max_softmax(rows.logits / temperature) for rows in (case.seen, case.unseen))
        at = {}
        for threshold in case.thresholds:
            rates = [
                float((unseen[case.unseen.codes == k] < threshold).mean()) for k in range(len(case.unseen.sources))
            ]
            at[threshold_name(threshold)] = {
                "seen_rejection": float((seen < threshold).mean()),
                "accepted_correct": float(((seen >= threshold) & case.seen.correct).mean()),
                "unseen_rejection": float(np.mean(rates)) if rates else None,
            }
        found.append({"temperature": temperature, "at": at})
    return found
