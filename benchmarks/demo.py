"""Record what `make demo` found: BMRL and its controls on the embedded dataset (simulated sources).

make demo && python benchmarks/demo.py --minutes M     # M: what `time make demo` showed
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from machine import commit, cpu

from bmrl.model import runs
from bmrl.model.report.text import render_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("demo/run"))
    parser.add_argument("--shards", type=Path, default=Path("demo/shards"))
    parser.add_argument("--minutes", required=True, help="Wall-clock minutes of `make demo`, installation included.")
    parser.add_argument("--note", default="", help="What else the machine did.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/demo.md"))
    options = parser.parse_args()
    lines = [
        "# BMRL on the embedded dataset (simulated sources: no evidence about real generators)",
        "",
        "* Command: `make demo`, in a fresh clone",
        f"* Commit before this file: {commit()}",
        f"* Machine: {os.cpu_count()} CPU cores ({cpu()}), no GPU; torch {torch.__version__}",
        f"* Wall clock: {options.minutes} minutes, installation included{'; ' + options.note if options.note else ''}",
        "* One seed. Intervals are of sources and identities drawn anew, not of seeds (docs/evaluation.md).",
        "",
        "```",
        render_text(runs.evaluate(options.run, options.shards)),
        "```",
        "",
    ]
    options.out.write_text("\n".join(lines))
    print(options.out)


if __name__ == "__main__":
    main()
