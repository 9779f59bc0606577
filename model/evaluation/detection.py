"""Real or fake: what a detection protocol's rows say of each fake source, seen or not.

Every fake source is compared with the test reals of the same shard set, so that "always fake" cannot win.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Case
from .predictions import Predictions
from .result import Column, Figure, Section, Table, percent
from .scores import auroc

REAL, FAKE = 0, 1  # labels of a detection protocol


def detection_section(case: Case) -> Section:
    if case.about.task != "detection":
        return Section(document={"detection": None})
    found = detection_table(case.seen, case.unseen)
    if found is None:
        line = "no real test rows: AUC and balanced accuracy of real against fake are not measured"
        return Section(document={"detection": None}, tables=(Table(name="detection", notes=(line,)),))
    return Section(document={"detection": found}, tables=(_table(found),))


def _table(found: dict[str, Any]) -> Table:
    columns = (
        Column(title="real against fake", width=24),
        Column(title="", width=7),
        Column(title="n", width=6, unit="count"),
        Column(title="AUC", width=6, unit="score"),
        Column(title="bal. acc", width=9, unit="share"),
    )
    rows: list[tuple[str | Figure, ...]] = []
    for source, facts in found["sources"].items():
        n = facts["n"]
        rows.append(
            (source, facts["part"], Figure(n), Figure(facts["auc"], n=n), Figure(facts["balanced_accuracy"], n=n))
        )
    for part in ("seen", "unseen"):
        if found[f"{part}_auc"] is not None:
            mean = (Figure(found[f"{part}_auc"]), Figure(found[f"{part}_balanced_accuracy"]))
            rows.append(("mean over sources", part, "", *mean))
    real = percent(found["real_accuracy"])
    note = f"{found['n_real']} real test images, {real} called real; always fake: 0.500, 50.0%"
    return Table(name="detection", title="Real against fake", columns=columns, rows=tuple(rows), notes=(note,))


def detection_table(seen: Predictions, unseen: Predictions) -> dict[str, Any] | None:
    """AUC and balanced accuracy per fake source and their means over seen and unseen ones; None without real test rows.

    The score is the logit of fake minus that of real; a row is called fake above 0.
    """
    rows = {"seen": seen, "unseen": unseen}
    scores = {part: said.logits[:, FAKE] - said.logits[:, REAL] for part, said in rows.items()}
    reals = np.concatenate([scores[part][rows[part].labels == REAL] for part in rows])
    if not len(reals):
        return None
    specificity = float((reals <= 0).mean())
    document: dict[str, Any] = {"n_real": len(reals), "real_accuracy": specificity, "sources": {}}
    for part, said in rows.items():
        names = np.array(said.generators)
        for source in sorted(set(names[said.labels == FAKE])):
            fakes = scores[part][names == source]
            document["sources"][str(source)] = {
                "part": part,
                "n": len(fakes),
                "auc": auroc(fakes, reals),
                "accuracy": float((fakes > 0).mean()),
                "balanced_accuracy": (float((fakes > 0).mean()) + specificity) / 2,
            }
        values = [facts for facts in document["sources"].values() if facts["part"] == part]
        for figure in ("auc", "balanced_accuracy"):
            mean = float(np.mean([facts[figure] for facts in values])) if values else None
            document[f"{part}_{figure}"] = mean
    document["always_fake"] = {"auc": 0.5, "balanced_accuracy": 0.5}
    return document
