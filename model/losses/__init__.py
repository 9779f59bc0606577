"""The losses, one idea a file. Every function takes float tensors and returns a float32 scalar."""

from .centers import CenterLoss
from .contrastive import contrastive_loss
from .dfacc import DfaccTerms, contrastive_center_loss, dfacc_loss, dfacc_terms
from .kl import kl_loss
from .spa import SamplePairAttention
from .supcon import supervised_contrastive_loss
from .text import bounded_scale, matching_loss, prediction_loss

__all__ = [
    "CenterLoss",
    "DfaccTerms",
    "SamplePairAttention",
    "bounded_scale",
    "contrastive_center_loss",
    "contrastive_loss",
    "dfacc_loss",
    "dfacc_terms",
    "kl_loss",
    "matching_loss",
    "prediction_loss",
    "supervised_contrastive_loss",
]
