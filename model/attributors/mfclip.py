"""MFCLIP: multi-modal fine-grained CLIP for face forgery detection (arXiv 2409.09724, the paper that BMRL builds on).

Expected on the embedded dataset: 70.7 % of 150 seen validation images (preset demo, one seed).
Command: bmrl-train --attributor mfclip --shards demo/shards --out demo/mfclip --protocol demo-1 --preset demo

Image and noise encoders summed, a language encoder over the four prompts, a predictor of the text. Three semantics: `strict`
(the paper's text), `sound` (the default), and `code` (the released trainer). Equation numbers are the paper's.

Legend: B batch, D feature dimension (512 in the paper), K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...pipeline.views.device import device_noise, device_patch_scores
from ...pipeline.views.text import NUM_LEVELS
from ..attributor import AlignedText, LabelSpace, Spec
from ..classifier import Classifier, check_centers, check_multiples
from ..config import Preset, RunConfig, TrainConfig, setting
from ..inputs import INPUTS, Batch
from ..layers.alignment import ENCODERS, blank_levels, random_sentences
from ..layers.encoders import LanguageEncoder, check_map, map_encoder
from ..losses import SamplePairAttention, bounded_scale, matching_loss, prediction_loss
from .bmrl import MOST_BLOCKS, PATCH, SIDE

PATCHES = ("richest", "poorest", "centre", "random")  # richest: the stored column; the others are controls of it


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of MFCLIP, and which of its parts are on (Table VI)."""

    dim: int = setting(512, positive=True)  # d
    depth: int = setting(6, positive=True, most=MOST_BLOCKS)  # of the image encoder, which is CViT's
    noise_depth: int = setting(3, positive=True, most=MOST_BLOCKS)  # B
    heads: int = setting(8, positive=True)
    mlp: int = setting(1024, positive=True)
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    convs: tuple[int, ...] = setting((3, 3, 3, 4, 4), most=MOST_BLOCKS)
    strided_stem: bool = False
    highpass_stem: bool = False
    noise_widths: tuple[int, ...] = (32, 64)
    noise_convs: tuple[int, ...] = setting((3, 3), most=MOST_BLOCKS)
    tokens: int = 1
    noise_tokens: int = 1
    patch_size: int = setting(112, from_view=PATCH)  # p: 16, 28, 32, 56, 112 or 224 in Table VII
    patch: str = setting("richest", choices=PATCHES)
    views: tuple[str, ...] = ("image", "noise")
    text: bool = True
    text_depth: int = setting(6, positive=True, most=MOST_BLOCKS)  # L; the released code has 12
    text_heads: int = setting(8, positive=True)
    text_mlp: int = setting(2048, positive=True)
    text_levels: tuple[int, ...] = (1, 2, 3, 4)  # Fig. 8; FF++ has levels 1 and 2 only
    prompts: str = setting("own", choices=("own", "random"))  # random: sentences that say nothing (M10)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of Eq. 2 and the constants of its terms; `code` multiplies them as the released trainer does."""

    ce: float = setting(1.0, at_least_zero=True)
    cmc: float = setting(1.0, at_least_zero=True)
    kl: float = setting(1.0, at_least_zero=True)
    dfacc: float = setting(0.0, at_least_zero=True)
    vcc: float = setting(0.0, at_least_zero=True)
    margin: float = setting(0.7, at_least_zero=True)
    inter_weight: float = setting(0.5, at_least_zero=True)
    vcc_delta: float = setting(1.0, positive=True)
    spa: str = setting("class", choices=("off", "batch", "class", "scalar"))
    temperature: float = setting(0.07, positive=True)  # initial tau, learnable


@dataclass(frozen=True, kw_only=True)
class Equations:
    """Which reading of the equations."""

    cmc_targets: str = setting("multi", choices=("multi", "onehot"))
    kl_detach: bool = True
    kl_temperature: float = setting(0.5, positive=True)
    kl_factor: float = setting(1.0, positive=True)  # code: .5 * 400
    ce_factor: float = setting(1.0, positive=True)  # code: 1 + .5
    max_logit_scale: float = setting(100.0, positive=True, may_be_infinite=True)
    head: str = setting("layernorm-unit", choices=("layernorm-unit", "linear"))
    dfacc_space: str = setting("feature", choices=("feature", "prob"))
    text_padding: bool = False
    text_readout: str = setting("last", choices=("last", "levels", "first"))
    real_prompts: str = setting("own", choices=("own", "first"))  # first: reals carry level 1 at all four levels
    checkpoint: str = setting("nll", choices=("nll", "loss"))  # loss: the lowest total loss on validation rows
    decay_all: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """MFCLIP's settings, and the rules that join their fields."""

    model: Sizes = field(default_factory=Sizes)
    losses: Weights = field(default_factory=Weights)
    equations: Equations = field(default_factory=Equations)
    origin = "from scratch"

    @property
    def inference_views(self) -> tuple[str, ...]:
        from_image = self.model.patch != "richest" and "noise" in self.model.views
        return tuple(dict.fromkeys("image" if view == "noise" and from_image else view for view in self.model.views))

    @property
    def training_views(self) -> tuple[str, ...]:
        return (*self.inference_views, *(("text",) if self.model.text else ()))

    def check(self, train: TrainConfig) -> None:
        """Raises ValueError with one sentence for the first rule that is broken."""
        model, losses = self.model, self.losses
        if not model.views or len(set(model.views)) < len(model.views) or not set(model.views) <= {"image", "noise"}:
            raise ValueError(f"model.views {model.views}: expected image, noise or both")
        check_multiples(model, ("dim", "heads"), ("dim", "text_heads"))
        check_map("", SIDE, widths=model.widths, convs=model.convs, tokens=model.tokens)
        check_map(
            "noise_", model.patch_size, widths=model.noise_widths, convs=model.noise_convs, tokens=model.noise_tokens
        )
        if model.text and (not model.text_levels or not set(model.text_levels) <= set(range(1, NUM_LEVELS + 1))):
            raise ValueError(f"model.text_levels {model.text_levels}: expected one or more of 1, 2, 3, 4")
        check_centers(losses)


PRESETS = {
    "paper": Preset(config=Config(), train=TrainConfig(batch_size=24)),
    "small": Preset(
        config=Config(
            model=Sizes(
                dim=256, depth=3, noise_depth=3, heads=4, mlp=512, widths=(16, 32, 64, 128, 256), convs=(2, 2, 2, 3, 3),
                noise_widths=(32, 64, 128), noise_convs=(3, 3, 3), text_depth=3, text_heads=4, text_mlp=1024,
            )
        ),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, step_epochs=10),
    ),
    "demo": Preset(
        config=Config(
            model=Sizes(
                dim=128, depth=2, noise_depth=2, heads=4, mlp=256, widths=(16, 24, 32, 64, 128), convs=(1, 1, 1, 1, 1),
                strided_stem=True, highpass_stem=True,
                noise_widths=(16, 32, 64), noise_convs=(1, 1, 1), text_depth=2, text_heads=4, text_mlp=256,
            )
        ),
        train=TrainConfig(
            epochs=12, batch_size=32, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True, precision="bfloat16",
        ),
    ),
}  # fmt: skip

SEMANTICS = {
    "sound": Equations(),
    "strict": Equations(
        cmc_targets="onehot", kl_detach=False, max_logit_scale=math.inf, head="linear", dfacc_space="prob",
        text_padding=True, decay_all=True,
    ),
    # methods.md 1.2 [C2]: KD at temperature 20 with weight 200, CE once and a half, the text read at the end of level 1.
    "code": Equations(
        cmc_targets="onehot", kl_detach=False, kl_temperature=20.0, kl_factor=200.0, ce_factor=1.5,
        max_logit_scale=math.inf, head="layernorm-unit", text_padding=True, text_readout="first", real_prompts="first",
        checkpoint="loss", decay_all=True,
    ),
}  # fmt: skip


class Mfclip(Classifier):
    """X_v = X_i + N_n, a head and a predictor; the language encoder guides training only."""

    own: Config

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model, equations = self.own.model, self.own.equations
        transformer: Any = {"dim": model.dim, "heads": model.heads, "mlp": model.mlp}
        makers = {
            "image": lambda: map_encoder(
                3, SIDE, widths=model.widths, convs=model.convs, tokens=model.tokens, depth=model.depth,
                strided_stem=model.strided_stem, highpass_stem=model.highpass_stem, **transformer,
            ),
            "noise": lambda: map_encoder(
                3, model.patch_size, widths=model.noise_widths, convs=model.noise_convs, tokens=model.noise_tokens,
                depth=model.noise_depth, **transformer,
            ),
        }  # fmt: skip
        self.visual = nn.ModuleDict({view: makers[view]() for view in model.views})
        self.language = (
            LanguageEncoder(
                dim=model.dim, depth=model.text_depth, heads=model.text_heads, mlp=model.text_mlp,
                attend_padding=equations.text_padding,
            )
            if model.text
            else None
        )  # fmt: skip
        self.predictor = nn.Linear(model.dim, model.dim)
        head = nn.Linear(model.dim, self.num_classes)
        self.head = nn.Sequential(nn.LayerNorm(model.dim), head) if equations.head == "layernorm-unit" else head
        self.log_scale_cmc = nn.Parameter(torch.tensor(-math.log(self.own.losses.temperature)))
        spa = self.own.losses.spa
        self.spa = (
            SamplePairAttention(spa, num_classes=self.num_classes, batch_size=config.train.batch_size)
            if spa != "off" and model.text
            else None
        )
        self.add_centers(model.dim)
        self.picks_by = equations.checkpoint

    def loss_weights(self) -> dict[str, float]:
        """Eq. 2, times the factors of the semantics."""
        equations, weights = self.own.equations, dict(super().loss_weights())
        return {**weights, "ce": weights["ce"] * equations.ce_factor, "kl": weights["kl"] * equations.kl_factor}

    def embed(self, batch: Batch) -> Tensor:
        """X_v, float (B, D); on the unit sphere before a LayerNorm head."""
        tokens = [encoder(self._input(view, batch)) for view, encoder in self.visual.items()]
        summed = torch.stack(tokens).sum(dim=0).float()
        return normalize(summed, dim=1) if self.own.equations.head == "layernorm-unit" else summed

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features).float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of Eq. 2, unweighted: ce, cmc, kl, and a centre loss where asked for."""
        weights, equations, labels = self.own.losses, self.own.equations, batch["label"]
        features = self.embed(batch)
        terms = self.label_terms(features, self.classify(features), labels)  # Eq. 14
        if self.language is None or not (weights.cmc or weights.kl):
            return terms
        texts = ENCODERS[equations.text_readout](self.language, self._prompts(batch))
        if weights.cmc:  # Eq. 7, 11-12
            scale = bounded_scale(self.log_scale_cmc, equations.max_logit_scale)
            self.record["temperature_cmc"] = 1.0 / scale.detach()
            multi = equations.cmc_targets == "multi"
            terms["cmc"] = matching_loss(features, texts, scale, labels, multi=multi, spa=self.spa)
        if weights.kl:  # Eq. 13
            predicted = self.predictor(features)
            terms["kl"] = prediction_loss(
                predicted, texts, temperature=equations.kl_temperature, detach=equations.kl_detach
            )
        return terms

    def aligned_text(self, tokens: Tensor) -> AlignedText | None:
        """As BMRL's: only where each level is aligned by itself."""
        if self.language is None or self.own.equations.text_readout != "levels" or not self.own.losses.cmc:
            return None
        features = normalize(self.language.levels(tokens).float(), dim=2)
        return AlignedText(features=features, levels=self.own.model.text_levels)

    def activations(self) -> dict[str, nn.Module]:
        return {view: self.visual.get_submodule(f"{view}.backbone") for view in self.visual}

    def _prompts(self, batch: Batch) -> Tensor:
        """int (B, 4, 77)."""
        tokens = batch["text"]
        if self.own.equations.real_prompts == "first":
            real = torch.tensor([kind == "real" for kind in self.labels.kinds], device=tokens.device)[batch["label"]]
            tokens = torch.where(real[:, None, None], tokens[:, :1].expand_as(tokens), tokens)
        tokens = blank_levels(tokens, self.own.model.text_levels)
        return random_sentences(tokens) if self.own.model.prompts == "random" else tokens

    def _input(self, view: str, batch: Batch) -> Tensor:
        """The float input of an encoder; the noise of another patch than the richest is taken from the image."""
        how = self.own.model.patch
        if view != "noise" or how == "richest":
            return INPUTS[view](batch)
        image, size = batch["image"], self.own.model.patch_size
        side = SIDE // size
        count, device = side * side, image.device
        if how == "poorest":
            chosen = device_patch_scores(image, size).argmax(dim=1)
        elif how == "centre":  # the one whose first corner is nearest to the middle
            chosen = torch.full((len(image),), (side // 2) * side + side // 2, device=device)
        else:  # the same for an image each time: a function of its bytes
            chosen = image.flatten(1).long().sum(dim=1) % count
        return INPUTS["noise"]({"noise": device_noise(image, size, chosen).numerators})


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=Mfclip)
