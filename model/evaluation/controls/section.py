"""The controls' part of a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..case import Case
from ..result import Column, Figure, Section, Table, percent
from ..scores import closed_set
from .features import LEAK_CLASSIFIERS


def controls_section(case: Case) -> Section:
    if case.control_rows is None:
        return Section(document={"controls": None})
    from .leaks import control_tables  # scikit-learn, which a training does without

    found = control_tables(*case.control_rows, num_classes=len(case.classes), track=case.track)
    found |= {"rows": dict(case.control_counts)}
    accuracy = closed_set(case.seen.logits, case.seen.labels)["accuracy"]
    return Section(document={"controls": found}, tables=(leak_table(found, accuracy), baseline_table(found)))


def leak_table(controls: Mapping[str, Any], accuracy: float) -> Table:
    """What content and container alone tell, and how far the attributor's seen accuracy is from the best of it."""
    titles = ("centre", "logistic", "1-NN")
    head = Column(title="leak control (content and container only)", width=44)
    rows = tuple((name, *(Figure(row[kind]) for kind in LEAK_CLASSIFIERS)) for name, row in controls["leaks"].items())
    best = controls["best_leak"]
    notes = (
        f"chance {percent(controls['chance'])}, majority {percent(controls['majority'])}, probe on shuffled labels "
        f"{percent(controls['shuffled_labels'])}",
        f"best leak {percent(best['accuracy'])} ({best['control']}); the attributor is "
        f"{100 * (accuracy - best['accuracy']):+.1f} points from it",
    )
    columns = (head, *(Column(title=title, width=8, unit="share") for title in titles))
    return Table(name="leaks", title="Leak controls", columns=columns, rows=rows, notes=notes)


def baseline_table(controls: Mapping[str, Any]) -> Table:
    """The classical baseline, and of which rows it and the controls know."""
    columns = (
        Column(title="classical baseline (linear probe)", width=44),
        Column(title="accuracy", width=8, unit="share"),
        Column(title="AUROC", width=8, unit="score"),
    )
    rows = tuple((name, Figure(row["accuracy"]), Figure(row["auroc"])) for name, row in controls["classical"].items())
    drawn = [f"{used} of {of} {part}" for part, (used, of) in controls["rows"].items() if used < of]
    notes = (f"controls and baseline: on {', '.join(drawn)} rows, drawn at random",) if drawn else ()
    return Table(name="baseline", title="Classical baseline", columns=columns, rows=rows, notes=notes)
