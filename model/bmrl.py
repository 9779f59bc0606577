"""BMRL: bi-modal guided multi-perspective representation learning (arXiv 2504.14129).

Legend: B batch, D feature dimension (512 in the paper), K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from .alignment import ENCODERS, TextTargets, blank_levels
from .config import RunConfig
from .encoders import LanguageEncoder, NoiseEncoder, VisualEncoder
from .inputs import INPUTS, Batch
from .losses import CenterLoss, SamplePairAttention, contrastive_loss, kl_loss

_CHANNELS = {"image": 3, "edge": 1}


class Bmrl(nn.Module):
    """Visual encoders whose class tokens are summed, a head and a predictor; parsing and language guide training only.

    The sum is the paper's; the released PVLM crosses attention instead (D6), and runs a UNet for nothing (D7). Its head sees
    unit vectors through a LayerNorm (D10), which is what `sound` does; `strict` has one Linear on the raw sum.
    """

    def __init__(self, config: RunConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        model, losses, equations = config.model, config.losses, config.equations
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
        # tau is learnable, one per loss (the released code has one for both, D11), kept as log(1 / tau).
        start = math.log(1.0 / losses.temperature)
        self.log_scale_cmc = nn.Parameter(torch.tensor(start))
        self.log_scale_cpc = nn.Parameter(torch.tensor(start))
        self.spa = (
            SamplePairAttention(losses.spa, num_classes=num_classes, batch_size=config.train.batch_size)
            if losses.spa != "off"
            else None
        )
        self.center_loss = (
            CenterLoss(num_classes, model.dim, weights=losses, space=equations.dfacc_space)
            if losses.dfacc or losses.vcc
            else None
        )
        self.record: dict[str, Tensor] = {}  # figures of the last `losses` call that are no losses

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

    def level_features(self, tokens: Tensor) -> Tensor | None:
        """Prompts int (U, 4, 77) -> what CMC aligns I_v with level by level, unit float (U, 4, D); None without CMC or with
        another read-out. Rows of unknown sentences mean nothing."""
        if self.language is None or self.config.model.text_readout != "levels" or not self.config.losses.cmc:
            return None
        return normalize(self.language.levels(tokens).float(), dim=2)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of Eq. 12, unweighted scalars: dfa, dfacc (or vcc), cmc, cpc, kl; all but dfa are left out at weight 0."""
        weights = self.config.losses
        labels = batch["label"]
        features = self.embed(batch)
        logits = self.classify(features)
        self.record = {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}
        terms = {"dfa": cross_entropy(logits, labels)}  # Eq. 3
        if self.center_loss is not None:
            terms |= self.center_loss(features, logits, labels)  # Eq. 4-7
            self.record |= self.center_loss.record
        if self.language is not None and (weights.cmc or weights.kl):
            tokens = blank_levels(batch["text"], self.config.model.text_levels)
            texts = ENCODERS[self.config.model.text_readout](self.language, tokens)
            if weights.cmc:
                terms["cmc"] = self._cmc(features, texts, labels)
            if weights.kl:
                terms["kl"] = self._kl(features, texts)
        if self.parsing is not None and weights.cpc:
            parsing = self.parsing(INPUTS["parsing"](batch)).float()
            terms["cpc"] = contrastive_loss(features, parsing, self._scale(self.log_scale_cpc, "cpc"))  # Eq. 8-11
        return terms

    def end_epoch(self) -> None:
        """`sound`: once, after the first epoch, the centres become the unit-norm class means of that epoch."""
        if self.center_loss is not None:
            self.center_loss.end_epoch()

    def undecayed(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone under `sound`: 1-D ones, scales, centres, positions, SPA."""
        if self.config.equations.decay_all:
            return set()
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim <= 1 or name.endswith(("centers", "positions", "class_token", "spa.table"))
        }

    @property
    def _unit(self) -> bool:
        return self.config.equations.head == "layernorm-unit"

    def _scale(self, log_scale: Tensor, name: str) -> Tensor:
        """1 / tau. The parameter is bounded, as CLIP's: a clamp of its value alone has no gradient beyond the bound, so tau
        could never rise again."""
        with torch.no_grad():
            log_scale.clamp_(max=math.log(self.config.equations.max_logit_scale))
        scale = log_scale.exp()
        self.record[f"temperature_{name}"] = 1.0 / scale.detach()
        return scale

    def _cmc(self, features: Tensor, texts: list[TextTargets], labels: Tensor) -> Tensor:
        """MFCLIP Eq. 7-12, the mean over the texts; 0 where no text tells samples apart."""
        scale = self._scale(self.log_scale_cmc, "cmc")
        multi = self.config.equations.cmc_targets == "multi"
        losses = [
            contrastive_loss(
                features[text.rows],
                text.features,
                scale,
                groups=text.groups if multi else None,
                pair_weights=self.spa(labels[text.rows]) if self.spa is not None else None,
            )
            for text in texts
        ]
        return torch.stack(losses).mean() if losses else features.sum() * 0.0

    def _kl(self, features: Tensor, texts: list[TextTargets]) -> Tensor:
        """MFCLIP Eq. 13; the predictor's target is the mean of a sample's texts."""
        total = features.new_zeros(features.shape)
        count = features.new_zeros(len(features), 1)
        for text in texts:
            total = total.index_add(0, text.rows, text.features)
            count = count.index_add(0, text.rows, count.new_ones(len(text.rows), 1))
        known = (count[:, 0] > 0).nonzero()[:, 0]
        if len(known) == 0:
            return features.sum() * 0.0
        return kl_loss(
            (total / count.clamp(min=1.0))[known],
            self.predictor(features)[known],
            temperature=self.config.losses.kl_temperature,
            detach=self.config.equations.kl_detach,
        )
