"""A BiSeNet as an ONNX graph, written node by node (torch's exporter needs another package, and warns).

The graph holds the whole way from pixels to labels: uint8 (B, S, S, 3) -> normalise -> network with the batch norms
folded into the convolutions -> logits sampled at the output's pixels -> argmax -> uint8 (B, size, size). Sampling
is bilinear with aligned corners as two matrix products, only at the pixels that nearest neighbour would read.

ONNX Runtime's direct convolution runs at the processor's peak, so what is left is arithmetic that need not be done:
3x3 convolutions with many channels go along one axis by Winograd's F(4, 3) or F(6, 3) (about half the products; Lavin
and Gray, CVPR 2016), and one behind nearest upsampling by 2 is four 2x2 convolutions before it (4/9 of the products).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ..views.parsing import MEAN, STD, nearest_rows

if TYPE_CHECKING:
    from torch import nn

    from ..views.bisenet import AttentionRefinement, BasicBlock, BiSeNet, ConvBNReLU, FeatureFusion

Array = npt.NDArray[np.float32]
Weight = npt.NDArray[np.float64]

OPSET = 17
STRIDE = 8  # of the network's logits
WINOGRAD_CHANNELS = 128  # below, the transforms cost more than they save (benchmarks/results/parsing.md)

WINOGRAD_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # the first m + 1 for F(m, 3), and infinity
BIAS_PLANE = 1  # of point 1, which reaches every output with weight 1


def sampling_matrix(coarse: int, *, resolution: int, size: int) -> Array:
    """(size, coarse): row i weighs the logits' rows for output pixel i, read at floor(i * resolution / size)."""
    place = nearest_rows(resolution, size) * ((coarse - 1) / max(1, resolution - 1))
    low = np.minimum(np.floor(place).astype(np.int64), max(0, coarse - 2))
    matrix = np.zeros((size, coarse), dtype=np.float32)
    matrix[np.arange(size), low] = 1 - (place - low)
    if coarse > 1:
        matrix[np.arange(size), low + 1] += place - low
    return matrix


def build_graph(net: BiSeNet, *, input_size: int) -> bytes:
    """The serialised model; inputs `image` uint8 (B, S, S, 3), `rows` float32 (size, S/8); output `labels` uint8."""
    return _Graph(input_size).bisenet(net)


class _Graph:
    """Writes nodes and weights straight into the model (no second copy); methods take and return tensor names."""

    def __init__(self, side: int) -> None:
        from onnx import TensorProto, helper

        inputs = [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", side, side, 3]),
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["size", side // STRIDE]),
        ]
        outputs = [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["B", "size", "size"])]
        graph = helper.make_graph([], "bisenet", inputs, outputs)
        self.side = side
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def bisenet(self, net: BiSeNet) -> bytes:
        from onnx import TensorProto, helper

        side = self.side
        path = net.cp
        x = self._stem("image", path.resnet.conv1, path.resnet.bn1)
        x = self._add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        feats = []
        for i, layer in enumerate((path.resnet.layer1, path.resnet.layer2, path.resnet.layer3, path.resnet.layer4)):
            for block in layer:
                x = self._residual(x, cast("BasicBlock", block), side >> (2 + i))
            feats.append(x)
        _, feat8, feat16, feat32 = feats
        pooled = self._block(self._pool(feat32), path.conv_avg)
        context = self._add("Add", [self._refine(feat32, path.arm32, side // 32), pooled])
        context = self._double(context, path.conv_head32)
        context = self._add("Add", [self._refine(feat16, path.arm16, side // 16), context])
        context = self._double(context, path.conv_head16)
        logits = self._block(self._fuse(feat8, context, net.ffm), net.conv_out.conv, side // STRIDE)
        logits = self._conv(logits, net.conv_out.conv_out)
        rows = self._add("MatMul", ["rows", logits])  # (size, S/8) @ (B, N, S/8, S/8) -> (B, N, size, S/8)
        columns = self._add("Transpose", ["rows"], perm=[1, 0])
        sampled = self._add("MatMul", [rows, columns])  # -> (B, N, size, size)
        best = self._add("ArgMax", [sampled], axis=1, keepdims=0)
        self.model.graph.node.append(helper.make_node("Cast", [best], ["labels"], to=TensorProto.UINT8))
        data: bytes = self.model.SerializeToString()
        return data

    def _stem(self, image: str, conv: nn.Module, norm: nn.Module) -> str:
        """Pixels to the first convolution's output; its weights take over the division by 255 std."""
        from onnx import TensorProto

        mean, std = np.array(MEAN).reshape(1, 3, 1, 1), np.array(STD).reshape(1, 3, 1, 1)
        x = self._add("Transpose", [image], perm=[0, 3, 1, 2])  # BHWC -> BCHW
        x = self._add("Cast", [x], to=TensorProto.FLOAT)
        x = self._add("Sub", [x, self._weight(255 * mean)])  # before the padding with zeros, as the mean must be
        weight, shift = fold(conv, norm)
        x = self._plain(x, weight / (255 * std), shift, stride=2, pads=[3, 3, 3, 3])
        return self._add("Relu", [x])

    def _residual(self, x: str, block: BasicBlock, side: int) -> str:
        residual = self._conv(x, block.conv1, block.bn1, relu=True, side=side)
        residual = self._conv(residual, block.conv2, block.bn2, side=side)
        shortcut = x
        if block.downsample is not None:
            shortcut = self._conv(x, block.downsample[0], block.downsample[1])
        return self._add("Relu", [self._add("Add", [residual, shortcut])])

    def _block(self, x: str, block: ConvBNReLU, side: int = 0) -> str:
        return self._conv(x, block.conv, block.bn, relu=True, side=side)

    def _refine(self, x: str, module: AttentionRefinement, side: int) -> str:
        feat = self._block(x, module.conv, side)
        gate = self._conv(self._pool(feat), module.conv_atten, module.bn_atten)
        return self._add("Mul", [feat, self._add("Sigmoid", [gate])])

    def _fuse(self, spatial: str, context: str, module: FeatureFusion) -> str:
        feat = self._block(self._add("Concat", [spatial, context], axis=1), module.convblk)
        gate = self._conv(self._pool(feat), module.conv1, relu=True)
        gate = self._add("Sigmoid", [self._conv(gate, module.conv2)])
        return self._add("Add", [self._add("Mul", [feat, gate]), feat])

    def _pool(self, x: str) -> str:
        return self._add("GlobalAveragePool", [x])

    def _conv(
        self, x: str, conv: nn.Module, norm: nn.Module | None = None, *, relu: bool = False, side: int = 0
    ) -> str:
        """A convolution with its norm; `side` is the output's, given where Winograd may be used."""
        weight, shift = fold(conv, norm)
        stride = int(conv.stride[0])  # type: ignore[index]
        wide = min(weight.shape[:2]) >= WINOGRAD_CHANNELS
        if shift is not None and weight.shape[2] == 3 and stride == 1 and wide and side:
            y = self._winograd(x, weight, shift, side)
        else:
            y = self._plain(x, weight, shift, stride=stride, pads=[weight.shape[2] // 2] * 4)
        return self._add("Relu", [y]) if relu else y

    def _double(self, x: str, block: ConvBNReLU) -> str:
        """Nearest upsampling by 2, then a 3x3 convolution: one 2x2 convolution for each place in a 2x2 block."""
        weight, shift = fold(block.conv, block.bn)
        # An even output row reads the source rows i-1, i, i (kernel rows 0, 1+2), an odd one i, i, i+1 (0+1, 2).
        halves = (np.array([[1, 0, 0], [0, 1, 1]]), np.array([[1, 1, 0], [0, 0, 1]]))
        parts = []
        for row in (0, 1):
            for column in (0, 1):
                small = np.einsum("ar,ocrs,bs->ocab", halves[row], weight, halves[column])
                parts.append(self._plain(x, small, shift, pads=[1 - row, 1 - column, row, column]))
        x = self._add("DepthToSpace", [self._add("Concat", parts, axis=1)], blocksize=2, mode="DCR")
        return self._add("Relu", [x])

    def _winograd(self, x: str, weight: Weight, shift: Weight, side: int) -> str:
        """3x3, stride 1, padding 1 on (B, C, side, side), by F(m, 3) along H: m + 2 products for m outputs of 3 taps.

        The planes of ceil(side / m) rows stand as groups of channels in one (1, 3) convolution.
        """
        num_out, num_in = weight.shape[:2]
        to_planes, gain, from_planes = winograd(side)
        num_planes, tiles = len(gain), to_planes.shape[0] // len(gain)
        planes = self._add("MatMul", [self._weight(to_planes), x])  # (B, C, planes * tiles, side)
        planes = self._reshape(planes, (0, num_in, num_planes, tiles, side))
        planes = self._add("Transpose", [planes], perm=[0, 2, 1, 3, 4])  # BCPTW -> BPCTW
        planes = self._reshape(planes, (0, num_planes * num_in, tiles, side))
        kernel = np.einsum("pr,ocrs->pocs", gain, weight).reshape(num_planes * num_out, num_in, 1, 3)
        bias = np.zeros((num_planes, num_out))
        bias[BIAS_PLANE] = shift
        planes = self._plain(planes, kernel, bias.ravel(), pads=[0, 1, 0, 1], group=num_planes)
        planes = self._reshape(planes, (0, num_planes, num_out, tiles, side))
        planes = self._add("Transpose", [planes], perm=[0, 2, 1, 3, 4])  # BPCTW -> BCPTW
        planes = self._reshape(planes, (0, num_out, num_planes * tiles, side))
        return self._add("MatMul", [self._weight(from_planes), planes])

    def _plain(
        self,
        x: str,
        weight: Weight,
        shift: Weight | None,
        *,
        pads: list[int],
        **attributes: int,
    ) -> str:
        inputs = [x, self._weight(weight)] + ([] if shift is None else [self._weight(shift)])
        stride = attributes.pop("stride", 1)
        kernel = list(weight.shape[2:])
        return self._add("Conv", inputs, kernel_shape=kernel, pads=pads, strides=[stride] * 2, **attributes)

    def _reshape(self, x: str, shape: tuple[int, ...]) -> str:
        return self._add("Reshape", [x, self._weight(np.array(shape, dtype=np.int64))])  # 0 keeps the batch

    def _weight(self, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.model.graph.initializer)}"
        value = value if value.dtype == np.int64 else value.astype(np.float32)
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"t{len(self.model.graph.node)}"
        self.model.graph.node.append(helper.make_node(kind, inputs, [name], **attributes))
        return name


def fold(conv: nn.Module, norm: nn.Module | None) -> tuple[Weight, Weight | None]:
    """A convolution's weight (O, I, k, k) and shift (O,) with the batch norm behind it folded in, in float64."""
    weight = _array(conv.weight)
    if norm is None:
        return weight, None
    gain = _array(norm.weight) / np.sqrt(_array(norm.running_var) + float(cast(float, norm.eps)))
    return weight * gain[:, None, None, None], _array(norm.bias) - _array(norm.running_mean) * gain


def winograd(side: int) -> tuple[Weight, Weight, Weight]:
    """Matrices of F(m, 3) for a line of `side` pixels, zero outside, m of 4 and 6 with the fewer products.

    (planes * tiles, side) pixels to planes, (planes, 3) kernel to planes, (side, planes * tiles) planes to outputs.
    """
    m = min((4, 6), key=lambda m: -(-side // m) * (m + 2))
    tiles, points = -(-side // m), WINOGRAD_POINTS[: m + 1]
    pixels = np.zeros((m + 2, m + 2))  # Toom-Cook, transposed: rows are polynomials that vanish at the other points
    gain = np.zeros((m + 2, 3))
    out = np.zeros((m, m + 2))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        pixels[i, : m + 1] = np.poly(others)[::-1]
        gain[i] = np.power(point, np.arange(3)) / np.prod([point - other for other in others])
        out[:, i] = np.power(point, np.arange(m))
    pixels[-1], gain[-1, 2], out[-1, -1] = np.poly(points)[::-1], 1.0, 1.0
    to_planes = np.zeros((m + 2, tiles, tiles * m + 2))
    from_planes = np.zeros((tiles * m, m + 2, tiles))
    for tile in range(tiles):
        to_planes[:, tile, m * tile : m * tile + m + 2] = pixels
        from_planes[m * tile : m * tile + m, :, tile] = out
    return to_planes[:, :, 1 : side + 1].reshape(-1, side), gain, from_planes[:side].reshape(side, -1)


def _array(value: Any) -> Weight:
    array: Weight = value.detach().cpu().double().numpy()
    return array
