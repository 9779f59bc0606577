import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bmrl.pipeline.parsers.errors import ParserError
from bmrl.pipeline.parsers.specs import Listed, _listed, read_manifest, resolve
from bmrl.pipeline.parsers.weights import load_bisenet
from bmrl.pipeline.views.bisenet import BiSeNet


@pytest.fixture(scope="module")
def net() -> BiSeNet:
    torch.manual_seed(0)
    return BiSeNet(width=8).eval()


def check_equal(loaded: BiSeNet, net: BiSeNet) -> None:
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_local_file_loads(net: BiSeNet, tmp_path: Path, name: str, prefix: str) -> None:
    path, state = tmp_path / name, {prefix + key: value for key, value in net.state_dict().items()}
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    spec = resolve(str(path))
    assert (spec.name, spec.input_size, spec.path) == ("file", 512, path)
    loaded = load_bisenet(spec.path)
    assert loaded.width == 8 and not loaded.training
    check_equal(loaded, net)


def test_legacy_pickle_and_wrapped_state_dict_load(net: BiSeNet, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # as the 2019 file
    check_equal(load_bisenet(tmp_path / "old.pth"), net)
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "wrapped.pth")
    check_equal(load_bisenet(tmp_path / "wrapped.pth"), net)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)  # would raise if it were ever run


def test_pickle_that_is_no_state_dict_is_not_run(tmp_path: Path) -> None:
    torch.save({"cp": Payload()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(ParserError, match=rf"{name}: expected the state_dict of a BiSeNet.*not loaded"):
            load_bisenet(tmp_path / name)


def test_other_contents_are_one_sentence(net: BiSeNet, tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "linear.pth")
    state = net.state_dict()
    torch.save({key: value for key, value in state.items() if "conv_head16" not in key}, tmp_path / "partial.pth")
    torch.save(state | {"conv_out.conv_out.weight": torch.zeros(11, 32, 1, 1)}, tmp_path / "classes.pth")
    torch.save(state | {"ffm.conv1.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "shape.pth")
    torch.save({"fpn.arm16.attention.9.weight": torch.zeros(1)}, tmp_path / "fpn.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_bytes(b"<html>not found</html>")
    (tmp_path / "text.safetensors").write_bytes(b"<html>not found</html>")
    torch.save(state, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:20000])
    expected = {
        "list.pth": "got a list without tensors by name",
        "numbers.pth": "without tensors by name",
        "linear.pth": "got other tensors",
        "partial.pth": "got another architecture",
        "classes.pth": "got 11 classes",
        "shape.pth": "got another architecture",
        "fpn.pth": "got another architecture",
        "empty.pth": "cannot be read",
        "text.pth": "not loaded|cannot be read",
        "text.safetensors": "no whole .safetensors",
        "cut.pth": "cannot be read",
    }
    for name, message in expected.items():
        with pytest.raises(ParserError, match=message) as caught:
            load_bisenet(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ParserError, match="bisenet, bisenet-lite, FILE or maps:ORDER:DIR"):
        resolve(str(tmp_path / "nothing.pth"))


def test_manifest_pins_what_the_specification_says() -> None:
    entry = read_manifest()["bisenet"]
    assert (entry.size, entry.input_size) == (53_289_463, 512)
    assert entry.sha256 == "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"
    assert all(len(mirror.revision) == 40 and int(mirror.revision, 16) for mirror in entry.mirrors)


def test_unknown_manifest_key_is_an_error() -> None:
    assert isinstance(_listed("x", {"input_size": 1, "size": 1, "sha256": "", "license": ""}), Listed)
    with pytest.raises(ValueError, match="unknown key 'sha265'"):
        _listed("x", {"sha265": ""})
