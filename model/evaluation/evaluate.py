"""From predictions to a Result: the sections in the order in which they are shown."""

from __future__ import annotations

from .case import Case
from .confusion import confusion_section
from .controls.section import controls_section
from .detection import detection_section
from .lookalikes import lookalikes_section
from .open_set import open_set_section
from .overview import overview_section
from .result import Result
from .warnings import warnings_section
from .zero_shot import zero_shot_section

THRESHOLDS = (0.7, 0.9)  # the paper's
SECTIONS = (
    overview_section,
    detection_section,
    open_set_section,
    zero_shot_section,
    confusion_section,
    lookalikes_section,
    controls_section,
)


def evaluate(case: Case) -> Result:
    """Every section of one evaluation; the warnings, which rest on the others, stand first."""
    measured = Result(sections=tuple(section(case) for section in SECTIONS))
    return Result(sections=(warnings_section(case, measured.document), *measured.sections))
