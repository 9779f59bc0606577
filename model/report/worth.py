"""What a run is worth, in the words that stand beside its answers (`Worth.document` in, text out)."""

from __future__ import annotations

from typing import Any

from ..evaluation.result import percent
from ..evaluation.worth import BETTER, UNRELIABLE


def tag(run: dict[str, Any]) -> str:
    """What the run is worth and what its threshold lets pass, short enough to stand in every line."""
    worth = run["verdict"]
    if run["validation_accuracy"] is not None:
        least = max(run["majority"], run["best_leak"]["accuracy"] if run["best_leak"] else 0.0)
        worth = (
            f"{'run' if run['verdict'] == BETTER else run['verdict']}: {percent(run['validation_accuracy'])} of {run['n']} "
            f"seen images right, to beat {percent(least)}"
        )
    at = run["operating_point"]
    if at["threshold"] is None:
        return f"{worth}; no threshold"
    passed = "an unknown share" if at["seen_acceptance"] is None else percent(at["seen_acceptance"])
    return f"{worth}; p >= {at['threshold']:.3f} passes {passed}"


def introduce(run: dict[str, Any]) -> str:
    """The same as a sentence, before the first answer."""
    at = run["operating_point"]
    if at["threshold"] is None:
        return f"{run['reason']}; it has no threshold of its own and cannot tell without --threshold"
    passed = "how many seen validation images pass is not known"
    if at["seen_acceptance"] is not None:
        passed = f"{percent(at['seen_acceptance'])} of the seen validation images pass"
    sentence = f"{run['reason']}; below p = {at['threshold']:.3f} a source is called unknown, {passed}"
    if run["verdict"] == UNRELIABLE:
        return f"{UNRELIABLE}: {sentence}" + ("" if at["asked_for"] else "; it cannot tell without --threshold")
    return sentence
