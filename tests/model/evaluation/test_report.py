"""The pictures of the report page."""

from __future__ import annotations

from bmrl.model.report.plots import SQUARE, draw, plot_confusion


def test_class_names_are_no_formulas() -> None:
    """Matplotlib would read $...$ as one; a letter that its font lacks is no warning (which would fail the test)."""
    confusion = {"classes": ["a$b_c^$d", "面", "plain"], "counts": [[3, 0, 0], [0, 2, 1], [0, 0, 0]]}
    assert draw(plot_confusion, confusion, SQUARE).startswith("iVBORw0KGgo")  # a PNG in base64
