"""Tables within the width of a terminal: nothing is lost, nothing is longer."""

from __future__ import annotations

import pytest

from bmrl.model.evaluation.confusion import confusion_table
from bmrl.model.evaluation.result import Column, Figure, Table
from bmrl.model.report.text import render_table

COLUMNS = (
    Column(title="unseen source", width=24),
    Column(title="relation", width=32),
    Column(title="AUROC", width=6, unit="score"),
    *(Column(title=f"rej@0.{n}", width=8, unit="share") for n in (7, 9)),
    Column(title="taken for", width=0, gap=2),
)
ROWS = tuple(
    (name, "RECOMBINED sim-efs-dif-latent4", Figure(0.5), Figure(0.12), Figure(1.0), "sim-efs-dif-latent4 (97.0%)")
    for name in ("sim-efs-dif-flow", "control-efs-dif-pixel-newseed")
)
NOTE = "AUROC seen against unseen, mean over unseen sources: max_softmax 0.613, max_logit 0.638, energy 0.643, and more"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_longer_and_no_word_is_lost(width: int) -> None:
    table = Table(name="unseen", columns=COLUMNS, rows=ROWS, notes=(NOTE,))
    lines = render_table(table, width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for word in ("0.500", "12.0%", "100.0%", "RECOMBINED", "rej@0.9", "(97.0%)", "0.643,", "more"):
        assert word in text, word
    if width >= 80:  # names are whole where there is room
        assert all(f"{name} " in text for name in ("sim-efs-dif-flow", "control-efs-dif-pixel-newseed")[: width // 80])
    if width == 200:
        assert len(lines) == 4 and lines[-1] == NOTE


def test_a_large_confusion_matrix_stands_in_blocks() -> None:
    classes = [f"source-{number}" for number in range(40)]
    counts = [[3 * (row == column) for column in range(40)] for row in range(40)]
    lines = render_table(confusion_table(classes, counts), 80)
    assert max(map(len, lines)) <= 80
    heads = [line for line in lines if line.startswith("confusion,")]
    assert len(heads) == 3
    assert [int(word) for head in heads for word in head.split() if word.isdecimal()] == list(range(40))
    assert sum(line.split().count("100") for line in lines) == 40
    assert sum("source-39" in line for line in lines) == len(heads)
