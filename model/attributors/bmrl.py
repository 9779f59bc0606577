"""BMRL: bi-modal guided multi-perspective representation learning (arXiv 2504.14129).

Expected on the embedded dataset: seen accuracy .857, AUROC by max softmax .625 (benchmarks/results/demo.md).
Command: bmrl-train --shards demo/shards --out demo/run --protocol demo-1 --preset demo

The defaults are section IV-A's; equation numbers are those of that paper.

Legend: B batch, D feature dimension (512 in the paper), K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...pipeline.views.text import NUM_LEVELS
from ..attributor import AlignedText, LabelSpace, Spec
from ..classifier import Classifier, check_centers, check_multiples
from ..config import FromView, Preset, RunConfig, TrainConfig, setting
from ..inputs import INPUTS, Batch
from ..layers.alignment import ENCODERS, blank_levels
from ..layers.encoders import LanguageEncoder, MapEncoder, check_map, map_encoder
from ..losses import SamplePairAttention, bounded_scale, contrastive_loss, matching_loss, prediction_loss

SIDE = 224  # pixels a side of image, edge and parsing
CHANNELS = {"image": 3, "edge": 1, "noise": 3}  # of the visual views
MOST_BLOCKS = 256  # of one encoder: Python objects, which no estimate of bytes sees
PATCH = FromView(
    view="noise", param="patch_size", phrase="noise patches of {} pixels", short="patches of {}", option="--patch-size"
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of BMRL."""

    dim: int = setting(512, positive=True)  # d
    depth: int = setting(6, positive=True, most=MOST_BLOCKS)  # Q, transformer blocks of each visual and parsing encoder
    heads: int = setting(8, positive=True)
    mlp: int = setting(1024, positive=True)  # hidden size of the visual blocks
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    convs: tuple[int, ...] = setting((3, 3, 3, 4, 4), most=MOST_BLOCKS)
    # The backbones' first convolution halves the map, its stage has no pool (not the paper's).
    strided_stem: bool = False
    highpass_stem: bool = False  # start the first filters over colours (image, parsing) at zero mean (not the paper's)
    noise_widths: tuple[int, ...] = (32, 64)
    noise_convs: tuple[int, ...] = setting((3, 3), most=MOST_BLOCKS)
    tokens: int = 1  # of a 7x7 map: 1 as in the papers, or 49
    noise_tokens: int = 1
    patch_size: int = setting(112, from_view=PATCH)  # p
    text_depth: int = setting(6, positive=True, most=MOST_BLOCKS)  # L
    text_heads: int = setting(8, positive=True)
    text_mlp: int = setting(2048, positive=True)
    views: tuple[str, ...] = ("image", "edge", "noise")  # visual encoders that are on: AE, EE, NE
    parsing: bool = True  # PE, training only
    text: bool = True  # LE, training only
    text_levels: tuple[int, ...] = (1, 2, 3, 4)  # of the prompts; the others are left empty
    # last: one feature, at the last end of text; levels: one a level, each aligned by itself
    text_readout: str = setting("last", choices=("last", "levels"))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of Eq. 12 (all 1 in the paper) and the constants of its terms."""

    dfa: float = setting(1.0, at_least_zero=True)
    dfacc: float = setting(1.0, at_least_zero=True)
    # Contrastive centre loss (Qi & Su 2017) instead of DFACC, Table 4.
    vcc: float = setting(0.0, at_least_zero=True)
    cmc: float = setting(1.0, at_least_zero=True)
    cpc: float = setting(1.0, at_least_zero=True)
    kl: float = setting(1.0, at_least_zero=True)
    margin: float = setting(0.7, at_least_zero=True)  # m, Eq. 7
    inter_weight: float = setting(0.5, at_least_zero=True)  # lambda
    vcc_delta: float = setting(1.0, positive=True)
    # Sample pair attention on CMC (MFCLIP): off, batch (as released) or class.
    spa: str = setting("off", choices=("off", "batch", "class"))
    temperature: float = setting(0.07, positive=True)  # initial tau, learnable
    kl_temperature: float = setting(0.5, positive=True)


@dataclass(frozen=True, kw_only=True)
class Equations:
    """Which reading of the equations: `strict` is what the paper's text decides, `sound` the default for users."""

    # multi: uniform over equal prompts
    cmc_targets: str = setting("multi", choices=("multi", "onehot"))
    kl_detach: bool = True
    max_logit_scale: float = setting(100.0, positive=True, may_be_infinite=True)  # inf: not clamped
    # layernorm-unit: LayerNorm + Linear on unit-norm I_v; linear: one Linear on raw I_v
    head: str = setting("layernorm-unit", choices=("layernorm-unit", "linear"))
    # feature: unit-norm I_v with unit-norm centres; prob: the softmax output
    dfacc_space: str = setting("feature", choices=("feature", "prob"))
    text_padding: bool = False  # whether padding is attended to
    decay_all: bool = False  # weight decay on every parameter, 1-D ones and centres too


@dataclass(frozen=True, kw_only=True)
class Config:
    """The three sections of BMRL's settings, and the rules that join their fields."""

    model: Sizes = field(default_factory=Sizes)
    losses: Weights = field(default_factory=Weights)
    equations: Equations = field(default_factory=Equations)
    origin = "from scratch"

    @property
    def inference_views(self) -> tuple[str, ...]:
        return self.model.views

    @property
    def training_views(self) -> tuple[str, ...]:
        extra = {"parsing": self.parses, "text": self.model.text}
        return (*self.inference_views, *(view for view, used in extra.items() if used))

    @property
    def parses(self) -> bool:
        """Whether there is a parsing encoder: CPC alone reads it."""
        return self.model.parsing and self.losses.cpc > 0

    def check(self, train: TrainConfig) -> None:
        """Raises ValueError with one sentence for the first rule that is broken."""
        self._check_model()
        check_centers(self.losses)
        losses, model = self.losses, self.model
        if losses.spa != "off" and not (model.text and losses.cmc):
            raise ValueError("losses.spa weighs the pairs of CMC, which needs model.text=1 and losses.cmc above 0")
        if model.text_readout == "levels" and not (model.text and (losses.cmc or losses.kl)):
            raise ValueError("model.text_readout=levels needs model.text=1 and losses.cmc or losses.kl above 0")

    def _check_model(self) -> None:
        model = self.model
        if not model.views or len(set(model.views)) < len(model.views) or not set(model.views) <= set(CHANNELS):
            raise ValueError(f"model.views {model.views}: expected one or more of image, edge, noise")
        check_multiples(model, ("dim", "heads"), ("dim", "text_heads"))
        check_map("", SIDE, widths=model.widths, convs=model.convs, tokens=model.tokens)
        check_map(
            "noise_", model.patch_size, widths=model.noise_widths, convs=model.noise_convs, tokens=model.noise_tokens
        )
        if model.text and (not model.text_levels or not set(model.text_levels) <= set(range(1, NUM_LEVELS + 1))):
            raise ValueError(f"model.text_levels {model.text_levels}: expected one or more of 1, 2, 3, 4")


PRESETS: dict[str, Preset] = {
    "paper": Preset(config=Config(), train=TrainConfig()),
    # One consumer GPU: half the width and depth.
    "small": Preset(
        config=Config(
            model=Sizes(
                dim=256, depth=3, heads=4, mlp=512, widths=(16, 32, 64, 128, 256), convs=(2, 2, 2, 3, 3),
                noise_widths=(32, 64, 128), noise_convs=(3, 3, 3), text_depth=3, text_heads=4, text_mlp=1024,
            )
        ),
        train=TrainConfig(epochs=30, batch_size=64, lr=3e-4, step_epochs=10),
    ),
    # Minutes on two CPU cores.
    "demo": Preset(
        config=Config(
            model=Sizes(
                dim=128, depth=2, heads=4, mlp=256, widths=(16, 24, 32, 64, 128), convs=(1, 1, 1, 1, 1),
                strided_stem=True, highpass_stem=True,
                noise_widths=(16, 32, 64), noise_convs=(1, 1, 1), text_depth=2, text_heads=4, text_mlp=256,
            )
        ),
        train=TrainConfig(
            epochs=12, batch_size=32, lr=1e-3, schedule="cosine", optimizer="adamw", flip=True, precision="bfloat16",
        ),
    ),
}  # fmt: skip

SEMANTICS: dict[str, Equations] = {
    "sound": Equations(),
    "strict": Equations(
        cmc_targets="onehot",
        kl_detach=False,
        max_logit_scale=math.inf,
        head="linear",
        dfacc_space="prob",
        text_padding=True,
        decay_all=True,
    ),
}


def visual_encoder(channels: int, sizes: Sizes) -> MapEncoder:
    """Over a whole face, (B, channels, 224, 224) -> (B, D). AE, EE and PE of BMRL.

    All of one depth, as the paper says; the released code has 3 blocks for edge and noise and a wider PE (D4).
    """
    return map_encoder(
        channels, SIDE, widths=sizes.widths, convs=sizes.convs, tokens=sizes.tokens, strided_stem=sizes.strided_stem,
        # PE has three channels too, and starts with the borders of its colours
        highpass_stem=sizes.highpass_stem and channels == 3,
        dim=sizes.dim, depth=sizes.depth, heads=sizes.heads, mlp=sizes.mlp,
    )  # fmt: skip


def noise_encoder(sizes: Sizes) -> MapEncoder:
    """The same over the SRM residual of one patch, (B, 3, p, p) -> (B, D); its backbone halves the patch twice (D9)."""
    return map_encoder(
        CHANNELS["noise"], sizes.patch_size, widths=sizes.noise_widths, convs=sizes.noise_convs, tokens=sizes.noise_tokens,
        dim=sizes.dim, depth=sizes.depth, heads=sizes.heads, mlp=sizes.mlp,
    )  # fmt: skip


class Bmrl(Classifier):
    """Visual encoders whose class tokens are summed, a head and a predictor; parsing and language guide training only.

    The sum is the paper's; the released PVLM crosses attention instead (D6), and runs a UNet for nothing (D7). Its head sees
    unit vectors through a LayerNorm (D10), which is what `sound` does; `strict` has one Linear on the raw sum.
    """

    own: Config
    label_term = "dfa"

    def __init__(self, config: RunConfig, labels: LabelSpace) -> None:
        super().__init__(config, labels)
        model, losses, equations = self.own.model, self.own.losses, self.own.equations
        self.visual = nn.ModuleDict(
            {
                view: noise_encoder(model) if view == "noise" else visual_encoder(CHANNELS[view], model)
                for view in model.views
            }
        )
        parsing = visual_encoder(3, model) if model.parsing else None
        # Without CPC it is drawn and let go: rows of an ablation start from the same weights in all other parts.
        self.parsing = parsing if self.own.parses else None
        self.language = (
            LanguageEncoder(
                dim=model.dim,
                depth=model.text_depth,
                heads=model.text_heads,
                mlp=model.text_mlp,
                attend_padding=equations.text_padding,
            )
            if model.text
            else None
        )
        self.predictor = nn.Linear(model.dim, model.dim)
        self.head = (
            nn.Sequential(nn.LayerNorm(model.dim), nn.Linear(model.dim, self.num_classes))
            if equations.head == "layernorm-unit"
            else nn.Linear(model.dim, self.num_classes)
        )
        # tau is learnable, one per loss (the released code has one for both, D11), kept as log(1 / tau).
        start = math.log(1.0 / losses.temperature)
        self.log_scale_cmc = nn.Parameter(torch.tensor(start))
        self.log_scale_cpc = nn.Parameter(torch.tensor(start))
        self.spa = (
            SamplePairAttention(losses.spa, num_classes=self.num_classes, batch_size=config.train.batch_size)
            if losses.spa != "off"
            else None
        )
        self.add_centers(model.dim)

    def embed(self, batch: Batch) -> Tensor:
        """I_v = sum of the visual class tokens, float (B, D); on the unit sphere under `sound`."""
        tokens = [encoder(INPUTS[view](batch)) for view, encoder in self.visual.items()]
        summed = torch.stack(tokens).sum(dim=0)
        return normalize(summed.float(), dim=1) if self._unit else summed.float()

    def classify(self, features: Tensor) -> Tensor:
        """I_v (B, D) -> logits (B, K)."""
        return self.head(features).float()

    def aligned_text(self, tokens: Tensor) -> AlignedText | None:
        """Prompts int (U, 4, 77) -> what CMC aligns I_v with level by level; None without CMC or with another read-out."""
        if self.language is None or self.own.model.text_readout != "levels" or not self.own.losses.cmc:
            return None
        features = normalize(self.language.levels(tokens).float(), dim=2)
        return AlignedText(features=features, levels=self.own.model.text_levels)

    def activations(self) -> dict[str, nn.Module]:
        """The visual backbones, by view."""
        return {view: self.visual.get_submodule(f"{view}.backbone") for view in self.visual}

    def upgrade(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Version 0.1 built PE without CPC too, and never trained it."""
        return {name: t for name, t in state.items() if self.parsing is not None or not name.startswith("parsing.")}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of Eq. 12, unweighted scalars: dfa, dfacc (or vcc), cmc, cpc, kl; all but dfa are left out at weight 0."""
        weights = self.own.losses
        labels = batch["label"]
        features = self.embed(batch)
        terms = self.label_terms(features, self.classify(features), labels)  # Eq. 3-7
        if self.language is not None and (weights.cmc or weights.kl):
            tokens = blank_levels(batch["text"], self.own.model.text_levels)
            texts = ENCODERS[self.own.model.text_readout](self.language, tokens)
            if weights.cmc:
                terms["cmc"] = matching_loss(
                    features,
                    texts,
                    self._scale(self.log_scale_cmc, "cmc"),
                    labels,
                    multi=self.own.equations.cmc_targets == "multi",
                    spa=self.spa,
                )
            if weights.kl:
                terms["kl"] = prediction_loss(
                    self.predictor(features),
                    texts,
                    temperature=weights.kl_temperature,
                    detach=self.own.equations.kl_detach,
                )
        if self.parsing is not None and weights.cpc:
            parsing = self.parsing(INPUTS["parsing"](batch)).float()
            terms["cpc"] = contrastive_loss(features, parsing, self._scale(self.log_scale_cpc, "cpc"))  # Eq. 8-11
        return terms

    @property
    def _unit(self) -> bool:
        return self.own.equations.head == "layernorm-unit"

    def _scale(self, log_scale: Tensor, name: str) -> Tensor:
        """1 / tau."""
        scale = bounded_scale(log_scale, self.own.equations.max_logit_scale)
        self.record[f"temperature_{name}"] = 1.0 / scale.detach()
        return scale


SPEC = Spec(config=Config, presets=PRESETS, semantics=SEMANTICS, attributor=Bmrl)
