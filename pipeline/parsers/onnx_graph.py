"""A BiSeNet as an ONNX graph, written node by node (torch's exporter needs another package and warns).

The graph holds the whole way from pixels to labels: uint8 (B, S, S, 3) -> normalise -> network with the batch norms
folded into the convolutions -> logits sampled at the output's pixels -> argmax -> uint8 (B, size, size). Sampling
is bilinear with aligned corners as two matrix products, only at the pixels that nearest neighbour would read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ..views.parsing import MEAN, STD, nearest_rows

if TYPE_CHECKING:
    from torch import nn

    from ..views.bisenet import AttentionRefinement, BasicBlock, BiSeNet, ConvBNReLU, FeatureFusion

OPSET = 17
STRIDE = 8  # of the network's logits


def sampling_matrix(coarse: int, *, resolution: int, size: int) -> npt.NDArray[np.float32]:
    """(size, coarse): row i weighs the logits' rows for output pixel i, read at floor(i * resolution / size)."""
    place = nearest_rows(resolution, size) * ((coarse - 1) / max(1, resolution - 1))
    low = np.minimum(np.floor(place).astype(np.int64), max(0, coarse - 2))
    matrix = np.zeros((size, coarse), dtype=np.float32)
    matrix[np.arange(size), low] = 1 - (place - low)
    if coarse > 1:
        matrix[np.arange(size), low + 1] += place - low
    return matrix


def build_graph(net: BiSeNet) -> bytes:
    """The serialised model; inputs `image` uint8 (B, S, S, 3), `rows` float32 (size, S/8); output `labels` uint8."""
    return _Graph().bisenet(net)


class _Graph:
    """Collects nodes; every method takes and returns tensor names."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def bisenet(self, net: BiSeNet) -> bytes:
        from onnx import TensorProto, helper

        path = net.cp
        x = self._normalize("image")
        x = self._conv(x, path.resnet.conv1, path.resnet.bn1, relu=True)
        x = self._add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        feats = []
        for layer in (path.resnet.layer1, path.resnet.layer2, path.resnet.layer3, path.resnet.layer4):
            for block in layer:
                x = self._block(x, cast("BasicBlock", block))
            feats.append(x)
        _, feat8, feat16, feat32 = feats
        context = self._add("Add", [self._refine(feat32, path.arm32), self._block1(self._pool(feat32), path.conv_avg)])
        context = self._block1(self._double(context), path.conv_head32)
        context = self._add("Add", [self._refine(feat16, path.arm16), context])
        context = self._block1(self._double(context), path.conv_head16)
        logits = self._block1(self._fuse(feat8, context, net.ffm), net.conv_out.conv)
        logits = self._conv(logits, net.conv_out.conv_out)
        rows = self._add("MatMul", ["rows", logits])  # (size, S/8) @ (B, N, S/8, S/8) -> (B, N, size, S/8)
        columns = self._add("Transpose", ["rows"], perm=[1, 0])
        sampled = self._add("MatMul", [rows, columns])  # -> (B, N, size, size)
        best = self._add("ArgMax", [sampled], axis=1, keepdims=0)
        self.nodes.append(helper.make_node("Cast", [best], ["labels"], to=TensorProto.UINT8))
        graph = helper.make_graph(
            self.nodes,
            "bisenet",
            [
                helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "S", "S", 3]),
                helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["size", "coarse"]),
            ],
            [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["B", "size", "size"])],
            initializer=self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        data: bytes = model.SerializeToString()
        return data

    def _normalize(self, image: str) -> str:
        from onnx import TensorProto

        mean, std = np.array(MEAN, dtype=np.float32), np.array(STD, dtype=np.float32)
        x = self._add("Cast", [image], to=TensorProto.FLOAT)
        x = self._add("Div", [x, self._weight(np.array(255, dtype=np.float32))])
        x = self._add("Div", [self._add("Sub", [x, self._weight(mean)]), self._weight(std)])
        return self._add("Transpose", [x], perm=[0, 3, 1, 2])  # BHWC -> BCHW

    def _block(self, x: str, block: BasicBlock) -> str:
        residual = self._conv(x, block.conv1, block.bn1, relu=True)
        residual = self._conv(residual, block.conv2, block.bn2)
        shortcut = x
        if block.downsample is not None:
            shortcut = self._conv(x, block.downsample[0], block.downsample[1])
        return self._add("Relu", [self._add("Add", [residual, shortcut])])

    def _block1(self, x: str, block: ConvBNReLU) -> str:
        return self._conv(x, block.conv, block.bn, relu=True)

    def _refine(self, x: str, module: AttentionRefinement) -> str:
        feat = self._block1(x, module.conv)
        gate = self._conv(self._pool(feat), module.conv_atten, module.bn_atten)
        return self._add("Mul", [feat, self._add("Sigmoid", [gate])])

    def _fuse(self, spatial: str, context: str, module: FeatureFusion) -> str:
        feat = self._block1(self._add("Concat", [spatial, context], axis=1), module.convblk)
        gate = self._conv(self._pool(feat), module.conv1, relu=True)
        gate = self._add("Sigmoid", [self._conv(gate, module.conv2)])
        return self._add("Add", [self._add("Mul", [feat, gate]), feat])

    def _pool(self, x: str) -> str:
        return self._add("GlobalAveragePool", [x])

    def _double(self, x: str) -> str:
        scales = self._weight(np.array([1, 1, 2, 2], dtype=np.float32))
        return self._add(
            "Resize", [x, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    def _conv(self, x: str, conv: nn.Module, norm: nn.Module | None = None, *, relu: bool = False) -> str:
        weight = _array(conv.weight).astype(np.float64)
        inputs = [x]
        if norm is None:
            inputs.append(self._weight(weight.astype(np.float32)))
        else:  # y = (conv(x) - mean) * gain + bias, in float64
            gain = _array(norm.weight) / np.sqrt(_array(norm.running_var).astype(np.float64) + float(norm.eps))  # type: ignore[arg-type]
            shift = _array(norm.bias) - _array(norm.running_mean) * gain
            inputs.append(self._weight((weight * gain[:, None, None, None]).astype(np.float32)))
            inputs.append(self._weight(shift.astype(np.float32)))
        pads = [int(pad) for pad in conv.padding] * 2  # type: ignore[union-attr]
        strides = [int(stride) for stride in conv.stride]  # type: ignore[union-attr]
        y = self._add("Conv", inputs, kernel_shape=list(weight.shape[2:]), pads=pads, strides=strides)
        return self._add("Relu", [y]) if relu else y

    def _weight(self, value: npt.NDArray[np.float32]) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name


def _array(value: Any) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = value.detach().cpu().numpy()
    return array
