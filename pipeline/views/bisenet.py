"""BiSeNet for face parsing (Yu et al., ECCV 2018; the layout of zllrunning/face-parsing.PyTorch, MIT).

The spatial path is replaced by the backbone's 1/8 features; `BiSeNet(num_classes=19)` takes zllrunning's state_dict
(`79999_iter.pth`, 191 entries) unchanged. Nothing is downloaded here. `width` narrows every layer in proportion
(64 is the published network, `bisenet-lite` uses less).

Shapes: B batch, H W input (multiples of 32), N classes, w = width, F8/F16/F32 features at 1/8, 1/16, 1/32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}  # basic blocks in layer1..layer4


class ConvBNReLU(nn.Module):
    def __init__(self, num_in: int, num_out: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(num_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) -> (B, num_out, H, W), >= 0."""
        out: Tensor = self.bn(self.conv(x))
        return F.relu(out)


class BasicBlock(nn.Module):
    def __init__(self, num_in: int, num_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_out)
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or num_in != num_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(num_in, num_out, 1, stride=stride, bias=False), nn.BatchNorm2d(num_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) -> (B, num_out, H / stride, W / stride)."""
        residual: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + residual)


class ResNet(nn.Module):
    """ResNet-18 or -34 trunk without the classifier."""

    def __init__(self, backbone: str, *, width: int) -> None:
        super().__init__()
        blocks = BLOCKS[backbone]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _layer(width, width, num_blocks=blocks[0], stride=1)
        self.layer2 = _layer(width, 2 * width, num_blocks=blocks[1], stride=2)
        self.layer3 = _layer(2 * width, 4 * width, num_blocks=blocks[2], stride=2)
        self.layer4 = _layer(4 * width, 8 * width, num_blocks=blocks[3], stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> F8 (B, 2w, H/8, W/8), F16 (B, 4w, H/16, W/16), F32 (B, 8w, H/32, W/32)."""
        x = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        feat8 = self.layer2(x)
        feat16 = self.layer3(feat8)
        return feat8, feat16, self.layer4(feat16)


class AttentionRefinement(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(num_in, num_out)
        self.conv_atten = nn.Conv2d(num_out, num_out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(num_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) -> (B, num_out, H, W), channels weighted by a gate of their global mean."""
        feat = self.conv(x)
        out: Tensor = feat * torch.sigmoid(self.bn_atten(self.conv_atten(feat.mean((2, 3), keepdim=True))))
        return out


class ContextPath(nn.Module):
    def __init__(self, backbone: str, *, width: int) -> None:
        super().__init__()
        mid = 2 * width
        self.resnet = ResNet(backbone, width=width)
        self.arm16 = AttentionRefinement(4 * width, mid)
        self.arm32 = AttentionRefinement(8 * width, mid)
        self.conv_head32 = ConvBNReLU(mid, mid)
        self.conv_head16 = ConvBNReLU(mid, mid)
        self.conv_avg = ConvBNReLU(8 * width, mid, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> F8, context at 1/8 (B, 2w, H/8, W/8), context at 1/16 (B, 2w, H/16, W/16)."""
        feat8, feat16, feat32 = self.resnet(x)
        pooled = self.conv_avg(feat32.mean((2, 3), keepdim=True))  # (B, 2w, 1, 1), added everywhere
        context16 = self.arm32(feat32) + pooled
        context16 = self.conv_head32(F.interpolate(context16, size=feat16.shape[2:], mode="nearest"))
        context8 = self.arm16(feat16) + context16
        context8 = self.conv_head16(F.interpolate(context8, size=feat8.shape[2:], mode="nearest"))
        return feat8, context8, context16


class FeatureFusion(nn.Module):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.convblk = ConvBNReLU(num_in, num_out, kernel=1)
        self.conv1 = nn.Conv2d(num_out, num_out // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(num_out // 4, num_out, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Two (B, num_in / 2, H, W) -> (B, num_out, H, W)."""
        feat = self.convblk(torch.cat([spatial, context], dim=1))
        gate = torch.sigmoid(self.conv2(F.relu(self.conv1(feat.mean((2, 3), keepdim=True)))))
        out: Tensor = feat * gate + feat
        return out


class Head(nn.Module):
    def __init__(self, num_in: int, num_mid: int, *, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvBNReLU(num_in, num_mid)
        self.conv_out = nn.Conv2d(num_mid, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, num_in, H, W) -> logits (B, N, H, W)."""
        out: Tensor = self.conv_out(self.conv(x))
        return out


class BiSeNet(nn.Module):
    """BiSeNet with a ResNet trunk; the two auxiliary heads are in the state_dict and run only in `forward_heads`."""

    def __init__(self, num_classes: int = 19, *, backbone: str = "resnet18", width: int = 64) -> None:
        super().__init__()
        if backbone not in BLOCKS:
            raise ValueError(f"backbone must be one of {sorted(BLOCKS)}, got {backbone!r}")
        self.num_classes, self.backbone, self.width = num_classes, backbone, width
        self.cp = ContextPath(backbone, width=width)
        self.ffm = FeatureFusion(4 * width, 4 * width)
        self.conv_out = Head(4 * width, 4 * width, num_classes=num_classes)
        self.conv_out16 = Head(2 * width, width, num_classes=num_classes)
        self.conv_out32 = Head(2 * width, width, num_classes=num_classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        """RGB normalised by ImageNet's mean and std, float (B, 3, H, W) -> logits (B, N, H, W), bilinear from 1/8."""
        return F.interpolate(self.forward_coarse(x), size=x.shape[2:], mode="bilinear", align_corners=True)

    def forward_coarse(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits of the main head before upsampling, (B, N, H/8, W/8)."""
        feat8, context8, _ = self.cp(x)
        out: Tensor = self.conv_out(self.ffm(feat8, context8))
        return out

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> logits of all three heads: main (B, N, H/8, W/8), aux 1/8, aux (B, N, H/16, W/16)."""
        feat8, context8, context16 = self.cp(x)
        return self.conv_out(self.ffm(feat8, context8)), self.conv_out16(context8), self.conv_out32(context16)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=1)  # as the published code


def from_yakhyo(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict in yakhyo/face-parsing's layout -> zllrunning's (and this file's) key names.

    `fpn.backbone.fc.*` (torchvision's unused classifier) is left out.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("fpn.backbone.fc."):
            renamed[_from_yakhyo_key(key)] = value
    return renamed


def backbone_of(state: dict[str, Tensor]) -> str:
    """Name of the backbone whose blocks a state_dict in this file's layout holds."""
    return "resnet34" if "cp.resnet.layer3.5.conv1.weight" in state else "resnet18"


def _from_yakhyo_key(key: str) -> str:
    if key.startswith("fpn.backbone."):
        return key.replace("fpn.backbone.", "cp.resnet.", 1)
    parts = key.split(".")
    parts[0] = "cp" if parts[0] == "fpn" else parts[0]
    is_head = parts[0].startswith("conv_out")
    for i, part in enumerate(parts):
        if part == "conv_block":  # FFM's own block is called convblk; in heads and ARMs the block is called conv
            parts[i] = "convblk" if parts[0] == "ffm" else "conv"
        elif part == "norm":
            parts[i] = "bn"
        elif part == "attention":
            parts[i : i + 2] = [("conv_atten", "bn_atten")[int(parts[i + 1])]]
        elif part == "conv" and is_head and i == 1:
            parts[i] = "conv_out"  # the head's 1x1 classifier
    return ".".join(parts)


def _layer(num_in: int, num_out: int, *, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(num_in, num_out, stride=stride)
    return nn.Sequential(first, *(BasicBlock(num_out, num_out, stride=1) for _ in range(num_blocks - 1)))
