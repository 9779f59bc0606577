"""`bmrl-prep`: datasets in, shard sets out. One file a command, imported when it is called."""

from __future__ import annotations

import click

from ..exits import LazyGroup

COMMANDS = ("build", "datasets", "export", "head", "info", "protocols", "synth", "verify")


@click.group(cls=LazyGroup, package=__name__, names=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bmrl")
def main() -> None:
    """Turn collections of real and generated faces into cached multi-view shard sets."""
