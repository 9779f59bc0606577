"""The losses, one idea a file. Every function takes float tensors and returns a float32 scalar."""

from .centers import CenterLoss
from .contrastive import contrastive_loss, info_nce
from .dfacc import DfaccTerms, contrastive_center_loss, dfacc_loss, dfacc_terms
from .kl import kl_loss
from .spa import SamplePairAttention
from .supcon import supervised_contrastive_loss
from .text import bounded_scale, matching_loss, prediction_loss
from .voting import batch_entropy, voted_pair_loss

__all__ = [
    "CenterLoss",
    "DfaccTerms",
    "SamplePairAttention",
    "batch_entropy",
    "bounded_scale",
    "contrastive_center_loss",
    "contrastive_loss",
    "dfacc_loss",
    "dfacc_terms",
    "info_nce",
    "kl_loss",
    "matching_loss",
    "prediction_loss",
    "supervised_contrastive_loss",
    "voted_pair_loss",
]
