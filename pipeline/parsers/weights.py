"""A weight file -> a BiSeNet. Layouts: zllrunning's and yakhyo's, as .pth/.pt (tensors only) or .safetensors."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..store.reading import check_regular, check_safetensors
from .errors import ParserError
from .orders import NUM_CLASSES

if TYPE_CHECKING:
    from torch import Tensor

    from ..views.bisenet import BiSeNet

EXPECTED = "expected the state_dict of a BiSeNet (zllrunning's or yakhyo's layout, ResNet-18 or -34, 19 classes)"


def load_bisenet(path: Path) -> BiSeNet:
    """The network of a weight file, float32, eval mode. Raises ParserError for anything else than such a file."""
    from ..views.bisenet import BiSeNet, backbone_of

    state = {key.removeprefix("module."): value for key, value in _read_tensors(path).items()}  # DataParallel's prefix
    if any(key.startswith("fpn.") for key in state):
        state = _renamed(state, path) if not any(key.startswith("cp.") for key in state) else state
    first, last = state.get("cp.resnet.conv1.weight"), state.get("conv_out.conv_out.weight")
    if first is None or last is None or first.ndim != 4:
        raise ParserError(f"{path}: {EXPECTED}, got other tensors ({_some(state)}); give another file to --parser")
    if last.shape[0] != NUM_CLASSES:
        raise ParserError(f"{path}: {EXPECTED}, got {last.shape[0]} classes; give another file to --parser")
    net = BiSeNet(NUM_CLASSES, backbone=backbone_of(state), width=int(first.shape[0]))
    own = net.state_dict()
    wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
    extra = [key for key in state if key not in own]
    if wrong or extra:
        raise ParserError(
            f"{path}: {EXPECTED}, got another architecture ({len(wrong)} tensors missing or of another shape, "
            f"{len(extra)} unknown, such as {(wrong + extra)[0]}); give another file to --parser"
        )
    net.load_state_dict(state)
    return net.eval()


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a .safetensors file; empty for other files."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ParserError(f"{path}: is no whole .safetensors file ({error}); fetch it again") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        read_metadata(path)  # its header is checked before anything is read
    try:
        with warnings.catch_warnings():
            check_regular(path)
            warnings.simplefilter("ignore")  # about other pickles' protocols, before the refusal
            loaded = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except SafetensorError as error:
        raise ParserError(f"{path}: is no whole .safetensors file ({error}); fetch it again") from error
    except pickle.UnpicklingError as error:
        raise ParserError(
            f"{path}: {EXPECTED}, got a pickle that holds other things than tensors; not loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        # What torch's two readers raise on a cut or foreign file.
        raise ParserError(f"{path}: cannot be read as a weight file (cut short, or not one); fetch it again") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(value, torch.Tensor) for value in loaded.values())
    ):
        raise ParserError(f"{path}: {EXPECTED}, got a {type(loaded).__name__} without tensors by name")
    return {str(key): value.float() if value.is_floating_point() else value for key, value in loaded.items()}


def _renamed(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    from ..views.bisenet import from_yakhyo

    try:
        return from_yakhyo(state)
    except (KeyError, IndexError, ValueError) as error:
        raise ParserError(f"{path}: {EXPECTED}, got another architecture ({_some(state)})") from error


def _some(state: dict[str, Tensor]) -> str:
    return ", ".join(sorted(state)[:2]) + (", ..." if len(state) > 2 else "")
