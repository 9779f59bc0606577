"""Standard backbones, as the library `transformers` writes them: CLIP, ViT, DINOv2, ResNet-50, EfficientNet-B0, BERT.

`width` and `depth` are shares of the published sizes, so that any of them trains on two cores; published weights fit 1 and 1.

Legend: B batch, N tokens, D feature dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# What the published weights were trained on: RGB in [0, 1], minus a mean, over a standard deviation.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
HEAD = 64  # numbers of one attention head
MISSING = (
    "this attributor's backbone comes from the library transformers; install it with pip install 'bmrl[backbones]'"
)


class Backbone(nn.Module):
    """A network over images: float (B, 3, S, S) in [0, 1] -> (B, D), and for networks of convolutions their map."""

    network: Any
    mean: Tensor  # (3, 1, 1)
    std: Tensor

    def __init__(self, network: nn.Module, *, dim: int, pool: str, scale: tuple[Any, Any]) -> None:
        """pool: the field of the network's output that is the feature: image_embeds, pooler_output, or `class`, the first
        token, or `map`, the mean of the last map."""
        super().__init__()
        self.network, self.dim, self.pool = network, dim, pool
        for name, values in zip(("mean", "std"), scale, strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        found = self.network(pixel_values=(images - self.mean) / self.std)
        if self.pool == "class":
            return found.last_hidden_state[:, 0]
        if self.pool == "map":
            return found.last_hidden_state.mean(dim=(2, 3))
        return found[self.pool]

    def tokens(self, images: Tensor) -> Tensor:
        """All tokens of a transformer, the class token first, (B, N, D)."""
        found: Tensor = self.network(pixel_values=(images - self.mean) / self.std).last_hidden_state
        return found

    def last_map(self, images: Tensor) -> Tensor:
        """The last map of a network of convolutions, (B, D, h, w)."""
        return self.tokens(images)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The maps (B, C, H, W) after each block of a network of convolutions."""
        return self.network(pixel_values=(images - self.mean) / self.std, output_hidden_states=True).hidden_states

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Published weights by the library's names; those of other towers are left. Raises ValueError where some are missing
        or of another shape."""
        take_weights(self.network, tensors)


def take_weights(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """As Backbone.take, for any network of the library, which knows its own older names."""
    logging = _library().utils.logging
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    own: Any = type(network)
    try:
        loaded, found = own.from_pretrained(
            None, config=network.config, state_dict=dict(tensors), output_loading_info=True
        )
    except RuntimeError as error:
        raise ValueError("tensors of other shapes than the settings ask for") from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
    network.load_state_dict(loaded.state_dict())


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(MISSING) from error
    return transformers


def _tower(width: float, depth: float, dim: int = 768) -> dict[str, int]:
    """Sizes of a transformer tower: whole heads of 64, an MLP four times as wide."""
    heads = max(1, round(dim * width / HEAD))
    return {
        "hidden_size": heads * HEAD,
        "num_attention_heads": heads,
        "intermediate_size": 4 * heads * HEAD,
        "num_hidden_layers": max(1, round(12 * depth)),
    }


def _clip(width: float, depth: float, side: int, patch: int) -> Backbone:
    library = _library()
    projected = max(1, round(512 * width / HEAD)) * HEAD
    config = library.CLIPVisionConfig(
        **_tower(width, depth), patch_size=patch or 32, image_size=side, projection_dim=projected
    )
    return Backbone(library.CLIPVisionModelWithProjection(config), dim=projected, pool="image_embeds", scale=CLIP)


def _vit(width: float, depth: float, side: int, patch: int) -> Backbone:
    library = _library()
    config = library.ViTConfig(**_tower(width, depth), patch_size=patch or 16, image_size=side)
    network = library.ViTModel(config, add_pooling_layer=False)
    return Backbone(network, dim=config.hidden_size, pool="class", scale=HALF)


def _dinov2(
    width: float, depth: float, side: int, patch: int
) -> Backbone:  # positions are interpolated from 518 pixels
    library = _library()
    config = library.Dinov2Config(**{**_tower(width, depth), "mlp_ratio": 4}, patch_size=14, image_size=518)
    return Backbone(library.Dinov2Model(config), dim=config.hidden_size, pool="class", scale=IMAGENET)


def _resnet(width: float, depth: float, side: int, patch: int) -> Backbone:
    library = _library()
    widths = [max(8, round(channels * width / 8) * 8) for channels in (256, 512, 1024, 2048)]
    config = library.ResNetConfig(
        embedding_size=max(8, round(64 * width / 8) * 8),
        hidden_sizes=widths,
        depths=[max(1, round(blocks * depth)) for blocks in (3, 4, 6, 3)],
    )
    return Backbone(library.ResNetModel(config), dim=widths[-1], pool="map", scale=IMAGENET)


def _efficientnet(width: float, depth: float, side: int, patch: int) -> Backbone:
    library = _library()
    from transformers.models.efficientnet.modeling_efficientnet import round_filters

    config = library.EfficientNetConfig(
        width_coefficient=float(width), depth_coefficient=float(depth), image_size=side, dropout_rate=0.2
    )
    config.hidden_dim = round_filters(
        config, 1280
    )  # of the last map, which the library does not narrow with the others
    return Backbone(library.EfficientNetModel(config), dim=config.hidden_dim, pool="map", scale=IMAGENET)


MAKERS: Mapping[str, Callable[[float, float, int, int], Backbone]] = {
    "clip-vit-b32": _clip,
    "vit-b16": _vit,
    "dinov2-b14": _dinov2,
    "resnet50": _resnet,
    "efficientnet-b0": _efficientnet,
}


def make_backbone(name: str, *, width: float = 1.0, depth: float = 1.0, side: int = 224, patch: int = 0) -> Backbone:
    """A freshly initialised one of MAKERS for images of `side` pixels; patch: pixels a side of a token of CLIP or ViT where it
    is not the published one. Raises ValueError where `transformers` is missing."""
    return MAKERS[name](width, depth, side, patch)


class ClipText(nn.Module):
    """CLIP's text tower: ids int (B, 77), ended by 49407 -> (B, D), D = 512 at width 1."""

    def __init__(self, *, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        library = _library()
        sizes = _tower(width, depth, 512)
        config = library.CLIPTextConfig(
            **sizes, projection_dim=sizes["hidden_size"], vocab_size=49408, eos_token_id=49407
        )
        self.network = library.CLIPTextModelWithProjection(config)
        self.dim = sizes["hidden_size"]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.network(input_ids=tokens.long()).text_embeds

    def levels(self, tokens: Tensor) -> Tensor:
        """Each sentence by itself, each distinct one once: (U, 4, 77) -> (U, 4, D)."""
        distinct, places = torch.unique(tokens.flatten(0, 1), dim=0, return_inverse=True)
        return self(distinct)[places].view(*tokens.shape[:2], -1)


class BertText(nn.Module):
    """BERT over ids int (B, N) of CLIP's vocabulary, padded with 0 -> all tokens (B, N, D), and which of them count."""

    def __init__(self, *, vocabulary: int, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        library = _library()
        config = library.BertConfig(**_tower(width, depth), vocab_size=vocabulary)
        self.network = library.BertModel(config, add_pooling_layer=False)
        self.dim = config.hidden_size

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        valid = tokens != 0
        valid[:, 0] = True  # an empty row attends to something
        found = self.network(input_ids=tokens.long(), attention_mask=valid.long())
        return found.last_hidden_state, valid
