"""Keys and shapes of zllrunning's 79999_iter.pth are built here from its description, not from our class."""

import pytest
import torch

from bmrl.pipeline.views.bisenet import BiSeNet, backbone_of, from_yakhyo

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def norm(name: str, n: int) -> dict[str, tuple[int, ...]]:
    counters = {f"{name}.num_batches_tracked": ()}
    return {f"{name}.{key}": (n,) for key in ("weight", "bias", "running_mean", "running_var")} | counters


def trunk(prefix: str, backbone: str) -> dict[str, tuple[int, ...]]:
    shapes = {f"{prefix}.conv1.weight": (64, 3, 7, 7)} | norm(f"{prefix}.bn1", 64)
    before = 64
    for layer, (n, count) in enumerate(zip((64, 128, 256, 512), BLOCKS[backbone], strict=True), start=1):
        for block in range(count):
            name = f"{prefix}.layer{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (n, before, 3, 3)} | norm(f"{name}.bn1", n)
            shapes |= {f"{name}.conv2.weight": (n, n, 3, 3)} | norm(f"{name}.bn2", n)
            if before != n:
                shapes |= {f"{name}.downsample.0.weight": (n, before, 1, 1)} | norm(f"{name}.downsample.1", n)
            before = n
    return shapes


def zllrunning(backbone: str = "resnet18") -> dict[str, tuple[int, ...]]:
    shapes = trunk("cp.resnet", backbone)
    for name, n in (("arm16", 256), ("arm32", 512)):
        shapes |= {f"cp.{name}.conv.conv.weight": (128, n, 3, 3)} | norm(f"cp.{name}.conv.bn", 128)
        shapes |= {f"cp.{name}.conv_atten.weight": (128, 128, 1, 1)} | norm(f"cp.{name}.bn_atten", 128)
    for name, shape in (
        ("conv_head32", (128, 128, 3, 3)),
        ("conv_head16", (128, 128, 3, 3)),
        ("conv_avg", (128, 512, 1, 1)),
    ):
        shapes |= {f"cp.{name}.conv.weight": shape} | norm(f"cp.{name}.bn", 128)
    shapes |= {"ffm.convblk.conv.weight": (256, 256, 1, 1)} | norm("ffm.convblk.bn", 256)
    shapes |= {"ffm.conv1.weight": (64, 256, 1, 1), "ffm.conv2.weight": (256, 64, 1, 1)}
    for name, n, mid in (("conv_out", 256, 256), ("conv_out16", 128, 64), ("conv_out32", 128, 64)):
        shapes |= {f"{name}.conv.conv.weight": (mid, n, 3, 3)} | norm(f"{name}.conv.bn", mid)
        shapes |= {f"{name}.conv_out.weight": (19, mid, 1, 1)}
    return shapes


def yakhyo(backbone: str) -> dict[str, tuple[int, ...]]:
    """yakhyo/face-parsing: the same tensors under other names, and torchvision's unused classifier."""
    shapes = {}
    for key, shape in zllrunning(backbone).items():
        if key.startswith("cp.resnet."):
            key = key.replace("cp.resnet.", "fpn.backbone.")
        else:
            key = key.replace("cp.", "fpn.", 1) if key.startswith("cp.") else key
            for arm in ("fpn.arm16.", "fpn.arm32."):
                key = key.replace(f"{arm}conv.conv.", f"{arm}conv_block.conv.").replace(
                    f"{arm}conv.bn.", f"{arm}conv_block.norm."
                )
                key = key.replace(f"{arm}conv_atten.", f"{arm}attention.0.").replace(
                    f"{arm}bn_atten.", f"{arm}attention.1."
                )
            for head in ("conv_out.", "conv_out16.", "conv_out32."):
                if key.startswith(head):
                    rest = key.removeprefix(head)
                    rest = (
                        rest.replace("conv_out.", "conv.")
                        if rest.startswith("conv_out.")
                        else "conv_block." + rest.removeprefix("conv.")
                    )
                    key = head + rest
            key = key.replace("ffm.convblk.", "ffm.conv_block.").replace(".bn.", ".norm.")
        shapes[key] = shape
    return shapes | {"fpn.backbone.fc.weight": (1000, 512), "fpn.backbone.fc.bias": (1000,)}


def filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.tensor(7) if key.endswith("num_batches_tracked") else 0.01 + torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }


def test_zllrunning_state_dict_loads_unchanged() -> None:
    state = filled(zllrunning())
    assert len(state) == 191
    net = BiSeNet(num_classes=19)
    result = net.load_state_dict(state)  # strict
    assert not result.missing_keys and not result.unexpected_keys
    assert sum(value.numel() for value in net.parameters()) == pytest.approx(13.30e6, rel=1e-3)
    assert backbone_of(state) == "resnet18"


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
def test_yakhyo_state_dict_maps_onto_ours(backbone: str) -> None:
    state = from_yakhyo(filled(yakhyo(backbone)))
    assert backbone_of(state) == backbone
    BiSeNet(backbone=backbone).load_state_dict(state)  # strict
    assert {key: tuple(value.shape) for key, value in state.items()} == zllrunning(backbone)


def test_yakhyo_map_puts_each_tensor_where_it_belongs() -> None:
    state = filled(zllrunning())
    renamed = dict(zip(yakhyo("resnet18"), state.values(), strict=False))  # same order, other names
    back = from_yakhyo(renamed)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_forward_gives_logits_at_input_size() -> None:
    net = BiSeNet(width=8).eval()
    with torch.no_grad():
        x = torch.rand(2, 3, 64, 96)
        assert net(x).shape == (2, 19, 64, 96)
        main, aux8, aux16 = net.forward_heads(x)
    assert main.shape == aux8.shape == (2, 19, 8, 12) and aux16.shape == (2, 19, 4, 6)


def test_auxiliary_heads_are_not_computed_in_forward() -> None:
    net = BiSeNet(width=8).eval()
    for head in (net.conv_out16, net.conv_out32):
        head.register_forward_hook(lambda *_: pytest.fail("an auxiliary head ran"))
    net(torch.rand(1, 3, 64, 64))


def test_first_output_equals_the_published_forward() -> None:
    """zllrunning's forward, written out with plain functions on the same weights."""
    from torch.nn import functional as F

    torch.manual_seed(0)
    net = BiSeNet(width=8)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1)
    net.eval().double()
    state = net.state_dict()

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    def bn(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def cbr(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.relu(bn(conv(x, f"{name}.conv"), f"{name}.bn"))

    def arm(x: torch.Tensor, name: str) -> torch.Tensor:
        feat = cbr(x, f"{name}.conv")
        pooled = F.avg_pool2d(feat, feat.shape[2:])
        return feat * torch.sigmoid(bn(conv(pooled, f"{name}.conv_atten"), f"{name}.bn_atten"))

    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    feat = F.max_pool2d(F.relu(bn(conv(x, "cp.resnet.conv1", 2), "cp.resnet.bn1")), 3, 2, 1)
    feats = []
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"cp.resnet.layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            residual = bn(
                conv(F.relu(bn(conv(feat, f"{name}.conv1", stride), f"{name}.bn1")), f"{name}.conv2"), f"{name}.bn2"
            )
            if f"{name}.downsample.0.weight" in state:
                feat = bn(conv(feat, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            feat = F.relu(feat + residual)
        feats.append(feat)
    _, feat8, feat16, feat32 = feats
    avg = F.interpolate(cbr(F.avg_pool2d(feat32, feat32.shape[2:]), "cp.conv_avg"), feat32.shape[2:], mode="nearest")
    up16 = cbr(F.interpolate(arm(feat32, "cp.arm32") + avg, feat16.shape[2:], mode="nearest"), "cp.conv_head32")
    up8 = cbr(F.interpolate(arm(feat16, "cp.arm16") + up16, feat8.shape[2:], mode="nearest"), "cp.conv_head16")
    fused = cbr(torch.cat([feat8, up8], 1), "ffm.convblk")
    gate = torch.sigmoid(conv(F.relu(conv(F.avg_pool2d(fused, fused.shape[2:]), "ffm.conv1")), "ffm.conv2"))
    out = conv(cbr(fused * gate + fused, "conv_out.conv"), "conv_out.conv_out")
    expected = F.interpolate(out, (64, 64), mode="bilinear", align_corners=True)
    torch.testing.assert_close(net(x), expected)


def test_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet18"):
        BiSeNet(backbone="resnet50")
