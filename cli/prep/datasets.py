"""`bmrl-prep datasets`: what can be built, and how to obtain it."""

from __future__ import annotations

import click

from ..exits import tell


@click.command()
def datasets() -> None:
    """List the datasets: name, expected layout, licence, how to obtain."""
    from ...pipeline.sources import DATASETS

    for dataset in DATASETS.values():
        tell(f"{dataset.name}\n  layout:  {dataset.layout}\n  licence: {dataset.licence}\n  obtain:  {dataset.obtain}")
