"""Vision and the sentences of a prompt: the cross-modal contrastive loss CMC (MFCLIP Eq. 7-12) and the prediction of the
text by vision (Eq. 13), over the texts that layers.alignment reads from a batch.

Legend: B batch, D feature dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..layers.alignment import TextTargets
from .contrastive import contrastive_loss
from .kl import kl_loss
from .spa import SamplePairAttention


def bounded_scale(log_scale: Tensor, most: float) -> Tensor:
    """1 / tau of a learnable log(1 / tau). The parameter itself is bounded, as CLIP's: a clamp of its value alone has no
    gradient beyond the bound, so tau could never rise again. most: inf for no bound."""
    with torch.no_grad():
        log_scale.clamp_(max=math.log(most))
    return log_scale.exp()


def matching_loss(
    features: Tensor,
    texts: Sequence[TextTargets],
    scale: Tensor,
    labels: Tensor,
    *,
    multi: bool,
    spa: SamplePairAttention | None = None,
) -> Tensor:
    """CMC of features (B, D) with each text, their mean; 0 where no text tells samples apart.

    multi: all samples of one sentence are positives of each other (D13); else each one's own pair alone. labels int64 (B,)
    choose SPA's weights.
    """
    losses = [
        contrastive_loss(
            features[text.rows],
            text.features,
            scale,
            groups=text.groups if multi else None,
            pair_weights=spa(labels[text.rows]) if spa is not None else None,
        )
        for text in texts
    ]
    return torch.stack(losses).mean() if losses else features.sum() * 0.0


def prediction_loss(predicted: Tensor, texts: Sequence[TextTargets], *, temperature: float, detach: bool) -> Tensor:
    """KL from what vision predicts, (B, D), to the mean of a sample's texts; samples without a text are left out."""
    total = predicted.new_zeros(predicted.shape, dtype=torch.float32)
    count = predicted.new_zeros(len(predicted), 1, dtype=torch.float32)
    for text in texts:
        total = total.index_add(0, text.rows, text.features)
        count = count.index_add(0, text.rows, count.new_ones(len(text.rows), 1))
    known = (count[:, 0] > 0).nonzero()[:, 0]
    if len(known) == 0:
        return predicted.sum() * 0.0
    return kl_loss((total / count.clamp(min=1.0))[known], predicted[known], temperature=temperature, detach=detach)
