"""Control sources: no generator, and never trained on. How often each is rejected, and what it is taken for."""

from __future__ import annotations

from typing import Any

from .case import Case
from .predictions import Predictions
from .result import Column, Figure, Section, Table, percent
from .scores import PAPERS_SCORE, auroc, rejection, taken_for, threshold_name
from .softmax import log_odds, max_softmax


def lookalikes_section(case: Case) -> Section:
    if not len(case.controls):
        return Section()
    found = {name: _lookalike(case.controls.of(name), case) for name in case.controls.sources}
    columns = (
        Column(title="control source (never trained)", width=34),
        Column(title="AUROC", width=6, unit="score"),
        Column(title="rejected", width=18, unit="share"),
        Column(title="taken for", width=0, gap=2),
    )
    rows = tuple(
        (
            name,
            Figure(facts["auroc_against_seen"], n=facts["n"]),
            " ".join(f"{percent(share)}@{t}" for t, share in facts["rejection"].items()),
            f"{facts['taken_for']} ({percent(facts['taken_for_share'])})",
        )
        for name, facts in found.items()
    )
    table = Table(name="lookalikes", title="Control sources", columns=columns, rows=rows)
    return Section(document={"lookalikes": found}, tables=(table,))


def _lookalike(rows: Predictions, case: Case) -> dict[str, Any]:
    return {
        "n": len(rows),
        "rejection": {threshold_name(t): rejection(rows.logits, t) for t in case.thresholds},
        "mean_max_softmax": float(max_softmax(rows.logits).mean()),
        "auroc_against_seen": auroc(case.scores["seen"][PAPERS_SCORE], log_odds(rows.logits)),
        **taken_for(rows.logits, case.classes),
    }
