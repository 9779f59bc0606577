"""What runs a parser's network: PyTorch on CPU (the reference), ONNX Runtime on CPU, CUDA in bfloat16.

Each is a views.parsing.Network: RGB uint8 (B, S, S, 3) -> labels uint8 (B, size, size).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..views.parsing import MEAN, STD, Network, nearest_rows
from .errors import ParserError

if TYPE_CHECKING:
    from torch import Tensor

    from ..views.bisenet import BiSeNet

Pixels = npt.NDArray[np.uint8]  # (B, S, S, 3)
Maps = npt.NDArray[np.uint8]  # (B, size, size)

ENGINES = ("torch", "onnx", "cuda")
PRECISION = {"torch": "float32", "onnx": "float32", "cuda": "bfloat16"}
BATCH_SIZE = {"torch": 1, "onnx": 1, "cuda": 32}  # on CPU batches gain nothing and cost memory


def resolve_engine(engine: str) -> str:
    """`auto` or a name -> the name of an engine that can run here. Raises ParserError.

    `auto` is cuda where there is a device, else onnx where the extra is installed, else torch. Labels may differ in
    single pixels between engines, so a plan keeps the name that came out.
    """
    if engine == "auto":
        return "cuda" if _has_cuda() else "onnx" if has_onnx() else "torch"
    if engine not in ENGINES:
        raise ParserError(f"unknown parser engine {engine!r}; expected auto, {', '.join(ENGINES)}")
    if engine == "onnx" and not has_onnx():
        raise ParserError("--parser-engine onnx needs onnx and onnxruntime: pip install 'bmrl[onnx]', or use torch")
    if engine == "cuda" and not _has_cuda():
        raise ParserError("--parser-engine cuda: PyTorch sees no CUDA device; use auto, onnx or torch")
    return engine


def open_network(net: BiSeNet, *, engine: str, threads: int) -> Network:
    """The network on a concrete engine."""
    if engine == "torch":
        return TorchNetwork(net, threads=threads)
    if engine == "onnx":
        return OnnxNetwork(net, threads=threads)
    return CudaNetwork(net)


class TorchNetwork:
    """PyTorch on CPU, float32, word by word: normalise, upsample all logits, argmax, nearest."""

    def __init__(self, net: BiSeNet, *, threads: int) -> None:
        import torch

        self.net, self.threads = net.eval().to(memory_format=torch.channels_last), threads  # type: ignore[call-overload]

    def __call__(self, batch: Pixels, resolution: int, size: int) -> Maps:
        """uint8 (B, S, S, 3) -> uint8 (B, size, size)."""
        import torch
        from torch.nn.functional import interpolate

        with torch.inference_mode(), _threads(self.threads):
            x = torch.from_numpy(batch).permute(0, 3, 1, 2)  # BHWC -> BCHW, channels_last in memory
            logits = self.net.forward_coarse(normalize(x))
            logits = interpolate(logits, size=(resolution, resolution), mode="bilinear", align_corners=True)
            labels = logits.argmax(1).to(torch.uint8).numpy()  # (B, resolution, resolution)
        if size == resolution:
            return labels
        places = nearest_rows(resolution, size)
        return np.ascontiguousarray(labels[:, places][:, :, places])


class OnnxNetwork:
    """ONNX Runtime on CPU, float32; the graph does everything from pixels to labels."""

    def __init__(self, net: BiSeNet, *, threads: int) -> None:
        self.net, self.threads = net.eval(), threads
        self._sessions: dict[int, Any] = {}  # by input size; a parser uses one

    def __call__(self, batch: Pixels, resolution: int, size: int) -> Maps:
        """uint8 (B, S, S, 3) -> uint8 (B, size, size)."""
        from .onnx_graph import STRIDE, sampling_matrix

        side = batch.shape[1]
        if side not in self._sessions:
            self._sessions[side] = self._open(side)
        rows = sampling_matrix(side // STRIDE, resolution=resolution, size=size)
        labels: Maps = self._sessions[side].run(["labels"], {"image": batch, "rows": rows})[0]
        return labels

    def _open(self, side: int) -> Any:
        import onnxruntime

        from .onnx_graph import build_graph

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3  # errors; its warnings are about other machines
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # actors share the cores
        graph = build_graph(self.net, input_size=side)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class CudaNetwork:
    """CUDA, bfloat16, channels_last; logits are sampled and compared in float32 on the device."""

    def __init__(self, net: BiSeNet) -> None:
        import torch

        self.net = net.eval().to("cuda", torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, batch: Pixels, resolution: int, size: int) -> Maps:
        """uint8 (B, S, S, 3) -> uint8 (B, size, size)."""
        import torch

        from .onnx_graph import sampling_matrix

        with torch.inference_mode():
            x = torch.from_numpy(batch).pin_memory().to("cuda", non_blocking=True).permute(0, 3, 1, 2)  # BHWC -> BCHW
            logits = self.net.forward_coarse(normalize(x).bfloat16()).float().contiguous()
            rows = torch.from_numpy(sampling_matrix(logits.shape[2], resolution=resolution, size=size)).cuda()
            labels: Maps = (rows @ logits @ rows.T).argmax(1).to(torch.uint8).cpu().numpy()
        return labels


def normalize(pixels: Tensor) -> Tensor:
    """RGB uint8 (B, 3, H, W) -> float32 / 255, ImageNet's mean and std."""
    mean = pixels.new_tensor(MEAN, dtype=_float32()).view(1, 3, 1, 1)
    std = pixels.new_tensor(STD, dtype=_float32()).view(1, 3, 1, 1)
    return (pixels.float() / 255 - mean) / std


def _float32() -> Any:
    import torch

    return torch.float32


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch's thread count is global: set it for a call and put it back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def has_onnx() -> bool:
    return find_spec("onnxruntime") is not None and find_spec("onnx") is not None
