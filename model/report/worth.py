"""What a run is worth, in the words that stand beside its answers (`Worth` or its document in, text out)."""

from __future__ import annotations

from typing import Any

from ..evaluation.result import percent
from ..evaluation.worth import BETTER, UNRELIABLE, Worth, leak_warning


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
    return f"{worth}; {_limit(at, '>=')} passes {passed}"


def _limit(at: dict[str, Any], sign: str) -> str:
    """Such as `p >= 0.612`, or `energy >= 5.12`."""
    name = "p" if at["score"] == "max_softmax" else at["score"].replace("_", " ")
    return f"{name} {sign} {at['threshold']:.3f}"


def introduce(run: dict[str, Any]) -> str:
    """The same as a sentence, before the first answer."""
    at = run["operating_point"]
    if at["threshold"] is None:
        return f"{run['reason']}; it has no threshold of its own and cannot tell without --threshold"
    passed = "how many seen validation images pass is not known"
    if at["seen_acceptance"] is not None:
        passed = f"{percent(at['seen_acceptance'])} of the seen validation images pass"
    sentence = f"{run['reason']}; where {_limit(at, '<')} a source is called unknown, {passed}"
    if run["verdict"] == UNRELIABLE:
        return f"{UNRELIABLE}: {sentence}" + ("" if at["asked_for"] else "; it cannot tell without --threshold")
    return sentence


def conclude(worth: Worth) -> list[str]:
    """What stands at the end of a training, the warning first."""
    if worth.accuracy is None:
        return [f"{worth.reason}; bmrl-attribute cannot tell without --threshold"]
    leak = worth.best_leak
    warning = leak_warning(leak, worth.accuracy, worth.n)
    beside = "" if leak is None else f"; the best quick leak control: {percent(leak['accuracy'])} ({leak['control']})"
    lines = [] if warning is None else [f"warning: {warning}"]
    lines.append(
        f"seen validation: {percent(worth.accuracy)} of {worth.n} images right; always the commonest source: "
        f"{percent(worth.majority or 0.0)}{beside}"
    )
    if worth.verdict == UNRELIABLE:
        lines.append(f"{UNRELIABLE}: that is not clearly more; bmrl-attribute cannot tell without --threshold")
    return lines
