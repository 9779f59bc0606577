import pytest
import torch

from bmrl.model.layers.blocks import Attention, ConvStack, MapTransformer, TransformerBlock


def test_the_papers_backbone_has_17_convolutions_and_ends_at_7x7() -> None:
    stack = ConvStack(3, (32, 64, 128, 256, 512), (3, 3, 3, 4, 4))
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in stack) == 17
    with torch.no_grad():
        assert stack.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 7, 7)


def test_a_stage_is_convolutions_with_norm_and_relu_and_a_pool() -> None:
    torch.manual_seed(0)
    stack = ConvStack(2, (3, 4), (2, 1)).double().eval()
    convs = [layer for layer in stack if isinstance(layer, torch.nn.Conv2d)]
    norms = [layer for layer in stack if isinstance(layer, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            for values in (norm.running_mean, norm.weight, norm.bias):
                values.normal_()
            norm.running_var.uniform_(0.5, 2.0)
        x = expected = torch.randn(2, 2, 8, 8, dtype=torch.float64)
        for number, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            expected = torch.nn.functional.conv2d(expected, conv.weight, padding=1)
            scale = norm.weight / (norm.running_var + 1e-5).sqrt()
            expected = expected * scale[:, None, None] + (norm.bias - norm.running_mean * scale)[:, None, None]
            expected = expected.clamp(min=0.0)
            if number in (1, 2):  # the last of its stage
                expected = expected.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
        assert torch.allclose(stack(x), expected, atol=1e-12)


def test_a_strided_stem_gives_the_same_map() -> None:
    shapes = []
    for strided in (False, True):
        stack = ConvStack(1, (4, 4, 8), (2, 1, 1), strided_stem=strided).eval()
        with torch.no_grad():
            shapes.append(stack(torch.zeros(2, 1, 64, 64)).shape)
    assert shapes[0] == shapes[1] == (2, 8, 8, 8)


def test_attention_is_the_formula_with_head_scale() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    q, k, v = (attention.qkv.weight[8 * i : 8 * i + 8] for i in range(3))
    heads = []
    for h in range(2):
        rows = slice(4 * h, 4 * h + 4)
        scores = (x @ q[rows].T) @ (x @ k[rows].T).transpose(1, 2) / 4**0.5
        weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        heads.append(weights @ (x @ v[rows].T))
    expected = torch.cat(heads, dim=2) @ attention.out.weight.T + attention.out.bias
    assert torch.allclose(attention(x, mask[None, None]), expected, atol=1e-12)


def test_a_block_is_pre_norm_with_residuals() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 16).double()
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    middle = x + block.attention(block.norm1(x))
    first, _, second = block.mlp
    hidden = block.norm2(middle) @ first.weight.T + first.bias
    hidden = 0.5 * hidden * (1.0 + torch.erf(hidden / 2**0.5))  # GELU
    assert torch.allclose(block(x), middle + hidden @ second.weight.T + second.bias, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 4])
def test_map_tokens_are_the_maps_cells(tokens: int) -> None:
    torch.manual_seed(0)
    transformer = MapTransformer((3, 4, 4), dim=8, depth=1, heads=2, mlp=8, tokens=tokens)
    assert transformer.positions.shape == (1, tokens + 1, 8)
    x = torch.randn(2, 3, 4, 4)
    side = 4 // transformer.grid
    cells = [
        x[:, :, side * i : side * i + side, side * j : side * j + side].reshape(2, -1)
        for i in range(transformer.grid)
        for j in range(transformer.grid)
    ]
    y = torch.cat([transformer.class_token.expand(2, -1, -1), transformer.project(torch.stack(cells, 1))], 1)
    expected = transformer.blocks[0](y + transformer.positions)[:, 0]
    assert torch.allclose(transformer(x), expected, atol=1e-6)


@pytest.mark.parametrize("tokens", [2, 9, 16])
def test_tokens_that_do_not_divide_the_map_are_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match=f"{tokens} tokens do not divide a map of 7x7"):
        MapTransformer((8, 7, 7), dim=8, depth=1, heads=2, mlp=8, tokens=tokens)


def test_heads_must_divide_the_dimension() -> None:
    with pytest.raises(ValueError, match="dim 10 is not a multiple of 4 heads"):
        Attention(10, 4)
