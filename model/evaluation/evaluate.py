"""From predictions to a Result: the sections in the order in which they are shown."""

from __future__ import annotations

from dataclasses import replace

from .calibrated import calibration_section
from .calibration import fit_temperature
from .case import Case
from .classes import classes_section
from .confusion import confusion_section
from .controls.section import controls_section
from .detection import detection_section
from .estimates import estimate, intervals
from .kinds import kinds_section
from .likelihood import likelihood_section
from .lookalikes import lookalikes_section
from .main_row import main_section
from .open_set import open_set_section
from .operating import operating_point
from .overview import overview_section
from .resampling import represented
from .result import Result, Section
from .statistics import TRAIN_ROWS, Statistics
from .structure import structure_section
from .warnings import warnings_section
from .zero_shot import centre_questions, zero_shot_section

THRESHOLDS = (0.7, 0.9)  # the paper's
SECTIONS = (
    overview_section,
    main_section,
    detection_section,
    open_set_section,
    kinds_section,
    calibration_section,
    likelihood_section,
    structure_section,
    zero_shot_section,
    classes_section,
    confusion_section,
    lookalikes_section,
    controls_section,
)


def evaluate(case: Case) -> Result:
    """Every section of one evaluation; the warnings, which rest on the others, stand first."""
    return render(completed(case))


def completed(case: Case) -> Case:
    """With what is a function of the predictions: statistics of the training rows (those of a run are given), the operating
    point and the temperature of the validation rows, and every figure with its interval."""
    statistics, operating, temperature = case.statistics, case.operating, case.temperature
    train, validation = case.train, case.validation
    if train is not None and len(train):
        train = train.where(represented(train, TRAIN_ROWS))
    if statistics is None and train is not None and (train.labels >= 0).sum() > 1:
        statistics = Statistics.fit(train)
    if validation is not None and len(validation):
        operating = operating or operating_point(train, validation, statistics)
        temperature = temperature or fit_temperature(validation.logits, validation.labels)
    centres = case.centres
    if centres is None and (rows := train or validation) is not None and len(rows):
        split = "train" if rows is train else "val"
        centres = centre_questions(rows, case.sources, trained=rows.sources), split
    case = replace(case, statistics=statistics, operating=operating, temperature=temperature, centres=centres)
    return replace(case, estimates=estimate(case))


def render(case: Case) -> Result:
    """The sections of a completed case."""
    measured = Result(sections=tuple(section(case) for section in SECTIONS))
    extent = Section(document={"intervals": intervals(case.estimates)})
    return Result(sections=(warnings_section(case, measured.document), *measured.sections, extent))
