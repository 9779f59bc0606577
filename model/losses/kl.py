"""Distillation of the text feature into the predictor (MFCLIP Eq. 13): vision has to predict the text without text."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def kl_loss(target: Tensor, predicted: Tensor, *, temperature: float = 0.5, detach: bool = True) -> Tensor:
    """KL(softmax(target / T) || softmax(predicted / T)), averaged over the batch; float (B, D) both.

    detach: no gradient into the target, so that the text cannot chase the predictor; False is the literal equation.
    The papers' T = 0.5 sharpens, whatever their text says (D14).
    """
    target = target.detach() if detach else target
    return kl_div(
        log_softmax(predicted.float() / temperature, dim=1),
        log_softmax(target.float() / temperature, dim=1),
        log_target=True,
        reduction="batchmean",
    )
