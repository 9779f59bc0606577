"""Engines against each other, and the built-in weights."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bmrl.pipeline.parsers import engines
from bmrl.pipeline.parsers.errors import ParserError
from bmrl.pipeline.parsers.lite.celebamask import find_photographs, split_held_out
from bmrl.pipeline.parsers.lite.scores import confusion, summarize
from bmrl.pipeline.parsers.onnx_graph import sampling_matrix, winograd
from bmrl.pipeline.parsers.parser import Parser, parsing_params
from bmrl.pipeline.parsers.shipped import find_leaks, read_record, training_identities
from bmrl.pipeline.parsers.specs import resolve
from bmrl.pipeline.views.bisenet import BiSeNet

DATA = Path(__file__).parents[3] / "../shared/data/celebamask-hq"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/celebamask-hq is not here")


def random_net(width: int = 16, backbone: str = "resnet18") -> BiSeNet:
    """A net with statistics of its own, so that folding them matters."""
    torch.manual_seed(0)
    net = BiSeNet(width=width, backbone=backbone)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


def smooth(count: int, side: int) -> np.ndarray:
    """(count, side, side, 3): pictures with structure at several scales."""
    generator = torch.Generator().manual_seed(1)
    x = sum(
        F.interpolate(torch.rand(count, 3, n, n, generator=generator), (side, side), mode="bicubic")
        for n in (4, 16, 64)
    )
    assert isinstance(x, torch.Tensor)
    return (x / 3 * 255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()  # BCHW -> BHWC


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34"])
@pytest.mark.parametrize(("side", "resolution", "size"), [(128, 128, 224), (160, 160, 100), (128, 512, 512)])
def test_onnx_agrees_with_torch(backbone: str, side: int, resolution: int, size: int) -> None:
    pytest.importorskip("onnxruntime")
    net, batch = random_net(backbone=backbone), smooth(2, side)
    reference = engines.TorchNetwork(net, threads=1)(batch, resolution, size)
    labels = engines.OnnxNetwork(net, threads=1)(batch, resolution, size)
    assert labels.dtype == np.uint8 and labels.shape == reference.shape == (2, size, size)
    assert len(np.unique(reference)) > 3
    assert np.mean(labels == reference) >= 0.999


@pytest.mark.parametrize("side", [128, 160])
def test_onnx_agrees_at_full_width_where_convolutions_go_by_winograd(side: int) -> None:
    pytest.importorskip("onnxruntime")
    net, batch = random_net(width=64), smooth(1, side)
    reference = engines.TorchNetwork(net, threads=1)(batch, side, 224)
    assert len(np.unique(reference)) > 3
    assert np.mean(engines.OnnxNetwork(net, threads=1)(batch, side, 224) == reference) >= 0.999


@pytest.mark.parametrize("side", [7, 16, 32, 64])
def test_winograd_is_the_convolution(side: int) -> None:
    rng = np.random.default_rng(0)
    pixels, kernel = rng.standard_normal(side), rng.standard_normal(3)
    to_planes, gain, from_planes = winograd(side)
    planes = (to_planes @ pixels).reshape(len(gain), -1) * (gain @ kernel)[:, None]
    expected = np.convolve(np.pad(pixels, 1), kernel[::-1], mode="valid")
    np.testing.assert_allclose(from_planes @ planes.ravel(), expected, atol=1e-12)


def test_torch_engine_is_the_published_order_of_steps() -> None:
    net, batch = random_net(), smooth(2, 128)
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255  # BHWC -> BCHW
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        labels = net((x - mean) / std).argmax(1)
    expected = F.interpolate(labels[:, None].float(), (224, 224), mode="nearest")[:, 0].numpy()
    assert np.mean(engines.TorchNetwork(net, threads=1)(batch, 128, 224) == expected) >= 0.9999


def test_sampling_matrix_is_upsampling_then_nearest() -> None:
    logits = torch.rand(1, 5, 40, 40)
    for resolution, size in ((320, 224), (320, 320), (512, 512), (320, 7)):
        full = F.interpolate(logits, (resolution, resolution), mode="bilinear", align_corners=True)
        expected = F.interpolate(full, (size, size), mode="nearest")
        rows = torch.from_numpy(sampling_matrix(40, resolution=resolution, size=size))
        torch.testing.assert_close(rows @ logits @ rows.T, expected, atol=2e-5, rtol=0)


@pytest.mark.gpu
def test_cuda_agrees_with_torch() -> None:
    net, batch = random_net(), smooth(32, 128)
    reference = engines.TorchNetwork(net, threads=1)(batch, 128, 224)
    assert np.mean(engines.CudaNetwork(random_net())(batch, 128, 224) == reference) >= 0.99


def test_engine_names_resolve_to_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_has_cuda", lambda: False)
    monkeypatch.setattr(engines, "has_onnx", lambda: False)
    assert engines.resolve_engine("auto") == "torch"
    with pytest.raises(ParserError, match="pip install"):
        engines.resolve_engine("onnx")
    with pytest.raises(ParserError, match="no CUDA device"):
        engines.resolve_engine("cuda")
    with pytest.raises(ParserError, match="expected auto, torch, onnx, cuda"):
        engines.resolve_engine("tensorrt")
    monkeypatch.setattr(engines, "has_onnx", lambda: True)
    assert engines.resolve_engine("auto") == "onnx"
    monkeypatch.setattr(engines, "_has_cuda", lambda: True)
    assert engines.resolve_engine("auto") == "cuda"


def test_thread_count_of_the_caller_stands() -> None:
    before = torch.get_num_threads()
    engines.TorchNetwork(random_net(), threads=1)(smooth(1, 64), 64, 64)
    assert torch.get_num_threads() == before


def test_builtin_weights_parse_any_crop() -> None:
    spec = resolve("bisenet-lite")
    assert spec.path.stat().st_size <= 6_000_000 and "non-commercial" in spec.license
    parser = Parser.open(spec, engine="torch")
    assert parser.params == parsing_params(spec, engine="torch") and parser.params.weights_sha256 == spec.sha256
    small, large = smooth(1, 224)[0], smooth(1, 512)[0]
    maps = parser.parse([small, large, small])
    assert [x.shape for x in maps] == [(224, 224)] * 3 and all(x.dtype == np.uint8 and x.max() < 19 for x in maps)
    assert np.array_equal(maps[0], maps[2]) and np.array_equal(maps[0], parser.parse([small])[0])
    assert parser.labels(large).shape == (512, 512) and parser.labels(small, 100).shape == (100, 100)


def test_plan_with_other_weights_is_refused() -> None:
    spec = resolve("bisenet-lite")
    params = parsing_params(spec, engine="torch")
    with pytest.raises(ParserError, match="the plan was made with"):
        Parser.from_params(spec, type(params)(**{**vars(params), "weights_sha256": "0" * 64}))


def test_damaged_builtin_weights_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bisenet-lite.safetensors").write_bytes(b"damaged")
    monkeypatch.setattr("bmrl.pipeline.parsers.specs.__file__", str(tmp_path / "specs.py"))
    with pytest.raises(ParserError, match="install bmrl again"):
        resolve("bisenet-lite")


def test_record_of_training_names_leaks() -> None:
    record = read_record()
    assert len(record.held_out) == 100 and not set(record.held_out) & set(record.photographs)
    assert set(training_identities()) >= set(record.photographs)
    assert find_leaks(["never-seen", record.photographs[3], record.held_out[0]]) == [record.photographs[3]]


@pytest.mark.slow
@needs_data
def test_builtin_weights_reach_their_card_on_held_out_photographs() -> None:
    held_out = split_held_out(find_photographs(DATA))[1]
    assert tuple(photo.stem for photo in held_out) == read_record().held_out
    parser = Parser.open(resolve("bisenet-lite"), engine="torch")
    counts = np.zeros((19, 19), dtype=np.int64)
    for photo in held_out:
        rgb, truth = photo.read()
        counts += confusion(truth, parser.labels(rgb))
    scores = summarize(counts)
    assert scores["miou"] >= 0.5 and scores["accuracy"] >= 0.86


@pytest.mark.slow
@needs_data
def test_engines_agree_on_held_out_photographs() -> None:
    pytest.importorskip("onnxruntime")
    crops = [photo.read()[0] for photo in split_held_out(find_photographs(DATA))[1][:50]]
    torch_maps, onnx_maps = (
        Parser.open(resolve("bisenet-lite"), engine=name).parse(crops) for name in ("torch", "onnx")
    )
    assert np.mean(np.array(torch_maps) == np.array(onnx_maps)) >= 0.999


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_of_a_full_size_parser_on_cpu(tmp_path: Path) -> None:
    """Peak resident size of a process that holds the published network and has parsed, with each CPU engine."""
    import subprocess
    import sys

    torch.save(BiSeNet().state_dict(), tmp_path / "full.pth")
    program = (
        "import re, sys, numpy as np\n"
        "from bmrl.pipeline.parsers.parser import Parser\n"
        "from bmrl.pipeline.parsers.specs import resolve\n"
        "parser = Parser.open(resolve(sys.argv[1]), engine=sys.argv[2])\n"
        "parser.parse([np.zeros((512, 512, 3), np.uint8)] * 3)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1))\n"
    )
    for engine in ("torch", "onnx"):
        command = [sys.executable, "-c", program, str(tmp_path / "full.pth"), engine]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
        assert int(result.stdout) <= 1 << 20, engine  # KiB
