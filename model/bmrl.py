"""BMRL: bi-modal guided multi-perspective representation learning (arXiv 2504.14129).

Legend: B batch, D feature dimension (512 in the paper), K classes, U distinct prompts of a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from .config import RunConfig
from .encoders import LanguageEncoder, NoiseEncoder, VisualEncoder
from .inputs import INPUTS, Batch
from .losses import contrastive_loss, dfacc_terms, kl_loss

_CHANNELS = {"image": 3, "edge": 1}


class Bmrl(nn.Module):
    """Visual encoders whose class tokens are summed, a head and a predictor; parsing and language guide training only."""

    center_sums: Tensor  # (K, D)
    center_counts: Tensor  # (K,)
    centers_ready: Tensor  # bool scalar

    def __init__(self, config: RunConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        model, equations = config.model, config.equations
        if not model.views or not set(model.views) <= {"image", "edge", "noise"}:
            raise ValueError(f"model.views {model.views}: expected one or more of image, edge, noise")
        self.visual = nn.ModuleDict(
            {
                view: NoiseEncoder(model) if view == "noise" else VisualEncoder(_CHANNELS[view], model)
                for view in model.views
            }
        )
        self.parsing = VisualEncoder(3, model) if model.parsing else None
        self.language = LanguageEncoder(model, attend_padding=equations.text_padding) if model.text else None
        self.predictor = nn.Linear(model.dim, model.dim)
        self.head = (
            nn.Sequential(nn.LayerNorm(model.dim), nn.Linear(model.dim, num_classes))
            if equations.head == "layernorm-unit"
            else nn.Linear(model.dim, num_classes)
        )
        # tau is learnable, one per loss, kept as log(1 / tau).
        start = math.log(1.0 / config.losses.temperature)
        self.log_scale_cmc = nn.Parameter(torch.tensor(start))
        self.log_scale_cpc = nn.Parameter(torch.tensor(start))
        width = model.dim if equations.dfacc_space == "feature" else num_classes
        self.centers = nn.Parameter(torch.randn(num_classes, width) * width**-0.5)
        # Class means of the first epoch, from which `sound` starts its centres (M3); DFACC waits for them.
        self.register_buffer("center_sums", torch.zeros(num_classes, width))
        self.register_buffer("center_counts", torch.zeros(num_classes))
        self.register_buffer("centers_ready", torch.tensor(equations.dfacc_space != "feature"))
        self.record: dict[str, float] = {}  # figures of the last `losses` call that are no losses

    @property
    def inference_views(self) -> tuple[str, ...]:
        return self.config.model.views

    @property
    def training_views(self) -> tuple[str, ...]:
        extra = {"parsing": self.parsing is not None, "text": self.language is not None}
        return (*self.inference_views, *(view for view, used in extra.items() if used))

    def embed(self, batch: Batch) -> Tensor:
        """I_v = sum of the visual class tokens, float (B, D); on the unit sphere under `sound`."""
        tokens = [encoder(INPUTS[view](batch)) for view, encoder in self.visual.items()]
        summed = torch.stack(tokens).sum(dim=0)
        return normalize(summed.float(), dim=1) if self._unit else summed.float()

    def logits(self, batch: Batch) -> Tensor:
        """float (B, K). Needs the inference views alone."""
        return self.classify(self.embed(batch))

    def classify(self, features: Tensor) -> Tensor:
        """I_v (B, D) -> logits (B, K)."""
        return self.head(features).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of Eq. 12, unweighted scalars: dfa, dfacc, cmc, cpc, kl; terms whose weight is 0 are left out."""
        weights, equations = self.config.losses, self.config.equations
        labels = batch["label"]
        features = self.embed(batch)
        logits = self.classify(features)
        self.record = {"accuracy": float((logits.argmax(dim=1) == labels).float().mean())}
        terms = {"dfa": cross_entropy(logits, labels)}  # Eq. 3
        if weights.dfacc:
            terms["dfacc"] = self._dfacc(features, logits, labels)
        if self.language is not None and (weights.cmc or weights.kl):
            text, groups = self._encode_text(batch["text"])
            if weights.cmc:
                targets = groups if equations.cmc_targets == "multi" else None
                terms["cmc"] = contrastive_loss(features, text, self._scale(self.log_scale_cmc, "cmc"), groups=targets)
            if weights.kl:
                terms["kl"] = kl_loss(
                    text, self.predictor(features), temperature=weights.kl_temperature, detach=equations.kl_detach
                )
        if self.parsing is not None and weights.cpc:
            parsing = self.parsing(INPUTS["parsing"](batch)).float()
            terms["cpc"] = contrastive_loss(features, parsing, self._scale(self.log_scale_cpc, "cpc"))  # Eq. 8-11
        return terms

    def end_epoch(self) -> None:
        """`sound`: once, after the first epoch, the centres become the unit-norm class means of that epoch."""
        if bool(self.centers_ready):
            return
        seen = self.center_counts > 0
        means = normalize(self.center_sums, dim=1)
        with torch.no_grad():
            self.centers.copy_(torch.where(seen[:, None], means, self.centers))
            self.centers_ready.fill_(True)

    def undecayed(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone under `sound`: 1-D ones, scales, centres, positions."""
        if self.config.equations.decay_all:
            return set()
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or name == "centers" or name.endswith(("positions", "class_token"))
        }

    @property
    def _unit(self) -> bool:
        return self.config.equations.head == "layernorm-unit"

    def _scale(self, log_scale: Tensor, name: str) -> Tensor:
        scale = log_scale.exp().clamp(max=self.config.equations.max_logit_scale)
        self.record[f"scale_{name}"] = float(scale.detach())
        return scale

    def _dfacc(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Eq. 4-7, on unit-norm features (`sound`) or on the softmax output (`strict`)."""
        weights = self.config.losses
        if self.config.equations.dfacc_space == "feature":
            space, centers = normalize(features, dim=1), normalize(self.centers, dim=1)
        else:
            space, centers = logits.softmax(dim=1), self.centers
        if not bool(self.centers_ready):
            self.center_sums.index_add_(0, labels, space.detach())
            self.center_counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float32))
            self.record["related_share"] = 0.0
            return features.sum() * 0.0
        terms = dfacc_terms(space, labels, centers, margin=weights.margin)
        self.record["related_share"] = float(terms.related_share)
        return terms.intra + weights.inter_weight * terms.inter

    def _encode_text(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Each distinct prompt once, gathered: exact, as nothing in the encoder is random. (B, D) and the groups (B,)."""
        assert self.language is not None
        distinct, groups = torch.unique(tokens.flatten(1), dim=0, return_inverse=True)
        encoded = self.language(distinct.view(-1, *tokens.shape[1:]))
        return encoded.float()[groups], groups
