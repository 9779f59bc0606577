"""Training, evaluation and attribution as plain functions: where shard sets and attributors meet."""

from ..training.trainer import Step
from .attribute import attribute
from .evaluate import evaluate
from .train import train

__all__ = ["Step", "attribute", "evaluate", "train"]
