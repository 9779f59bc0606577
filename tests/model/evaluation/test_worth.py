"""What a run is worth, from the figures of its calibration.json."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bmrl.model.documents import check_calibration
from bmrl.model.evaluation.worth import BETTER, NOT_KNOWN, ONE_SIDED_95, UNRELIABLE, wilson, worth_of
from bmrl.model.report.worth import introduce, tag
from bmrl.pipeline.store.documents import DocumentError

WHOLE = {
    "threshold_95": 0.5, "threshold_95_acceptance": 0.95, "n": 300, "accuracy": 0.86, "majority": 0.1,
    "best_leak": {"accuracy": 0.14, "control": "colour means, logistic"}, "confidences": [0.2, 0.5, 0.6, 0.9],
}  # fmt: skip


def test_the_interval_of_wilson() -> None:
    """Against the closed form: at 0 the upper end is z^2 / (n + z^2), at 1/2 the middle stays."""
    z2 = 1.959963984540054**2
    assert wilson(0.0, 10) == pytest.approx((0.0, z2 / (10 + z2)))
    assert wilson(1.0, 10) == pytest.approx((10 / (10 + z2), 1.0))
    assert wilson(0.5, 10) == pytest.approx((0.2365931, 0.7634069), abs=1e-7)
    assert wilson(0.0, 0) == (0.0, 1.0)
    assert wilson(0.5, 10, ONE_SIDED_95)[0] > wilson(0.5, 10)[0]


@pytest.mark.parametrize(
    ("changes", "verdict", "to_beat"),
    [
        ({}, BETTER, "more than 14.0% by the leak control colour means, logistic"),
        ({"best_leak": None}, BETTER, "more than 10.0% by always the commonest source"),
        ({"accuracy": 0.256, "n": 43, "majority": 1 / 6, "best_leak": None}, UNRELIABLE, "not clearly more than 16.7% by"),
        ({"majority": 0.85}, UNRELIABLE, "not clearly more than 85.0% by always the commonest source"),
        ({"best_leak": {"accuracy": 0.9, "control": "32x32 thumbnail, logistic"}}, UNRELIABLE,
         "not clearly more than 90.0% by the leak control 32x32 thumbnail, logistic"),
        ({"n": 2, "accuracy": 1.0, "majority": 0.5}, UNRELIABLE, "100.0% of 2 seen validation images"),
    ],
)  # fmt: skip
def test_the_verdict(changes: dict[str, Any], verdict: str, to_beat: str) -> None:
    worth = worth_of({**WHOLE, **changes}, 10)
    assert worth.verdict == verdict and to_beat in worth.reason
    document = worth.document()
    assert document["verdict"] == verdict and document["operating_point"] == {
        "threshold": 0.5, "seen_acceptance": 0.95, "asked_for": False,
    }  # fmt: skip
    assert ("unreliable run" in tag(document)) == (verdict == UNRELIABLE)
    assert introduce(document).endswith("cannot tell without --threshold") == (verdict == UNRELIABLE)


def test_another_threshold_has_its_own_acceptance() -> None:
    worth = worth_of(WHOLE, 10)
    assert [worth.acceptance_of(at) for at in (0.0, 0.5001, 0.9, 0.91)] == [1.0, 0.5, 0.25, 0.0]
    assert worth.document(0.6)["operating_point"] == {"threshold": 0.6, "seen_acceptance": 0.5, "asked_for": True}


def test_without_a_calibration_and_of_version_01() -> None:
    none, old = worth_of(None, 4), worth_of({"threshold_95": 0.5, "n": 300, "temperature": 1.0}, 4)
    assert none.verdict == old.verdict == NOT_KNOWN
    assert none.threshold is None and "no calibration.json" in none.reason
    assert old.threshold == 0.5 and old.reason == "its worth is not known (a run of version 0.1: bmrl-eval tells)"
    assert old.document()["operating_point"]["seen_acceptance"] is None
    assert tag(none.document()) == "worth not known; no threshold"
    assert tag(old.document()) == "worth not known; p >= 0.500 passes an unknown share"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accuracy": None}, "Expected float, got null - at $.accuracy"),
        ({"accuracy": True}, "Expected float, got bool - at $.accuracy"),
        ({"majority": 2}, "Expected float <= 1.0 - at $.majority"),
        ({"threshold_95_acceptance": "x"}, "Expected float, got str - at $.threshold_95_acceptance"),
        ({"n": 0}, "Expected int >= 1 - at $.n"),
        ({"n": "9"}, "Expected int, got str - at $.n"),
        ({"best_leak": {"accuracy": 0.5}}, "Object missing required field control - at $.best_leak"),
        ({"best_leak": {"accuracy": -1, "control": "x"}}, "Expected float >= 0.0 - at $.best_leak.accuracy"),
        ({"confidences": [2]}, "Expected float <= 1.0 - at $.confidences[0]"),
    ],
)
def test_damaged_figures(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DocumentError, match=re.escape(words)):
        check_calibration({**WHOLE, **changes})
