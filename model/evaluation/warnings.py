"""What must be read before any figure: that a run knows no more than a guess, or than content and container tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .case import Case
from .result import Section, Table, percent
from .worth import ONE_SIDED_95, leak_warning, wilson


def warnings_section(case: Case, found: Mapping[str, Any]) -> Section:
    """found: what the other sections measured. Stands first, whatever it was made of."""
    seen, controls, warnings = found["seen"], found["controls"], []
    majority = float(np.bincount(case.seen.labels).max() / seen["n"])
    if wilson(seen["accuracy"], seen["n"], ONE_SIDED_95)[0] <= majority:
        warnings.append(
            f"{percent(seen['accuracy'])} of {seen['n']} seen images right is not clearly more than {percent(majority)} by "
            "always the commonest source"
        )
    if controls and (warning := leak_warning(controls["best_leak"], seen["accuracy"], seen["n"])):
        warnings.append(warning)
    notes = tuple(f"WARNING: {warning}" for warning in warnings)
    return Section(document={"warnings": warnings}, tables=(Table(name="warnings", notes=notes),) if notes else ())
