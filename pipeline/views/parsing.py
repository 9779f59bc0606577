"""The `parsing` view: the square source crop -> face-part labels, uint8 (224, 224), 19 classes in BiSeNet's order.

The crop (the same that the `image` view takes, at native resolution) is resized to the parser's input with Pillow's
antialiased bilinear (equal to within one level), normalised by ImageNet's mean and std, and labelled by the argmax of
the network's logits at input resolution; the label map goes to 224 by nearest neighbour, output pixel i reading input
pixel floor(i * S / 224) (the convention of OpenCV's and torch's `nearest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from .codec import NPY, PALETTE_PNG
from .image import RGB, resize
from .view import Computed, Params, Sample, View

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1

Labels = npt.NDArray[np.uint8]  # (H, W), class ids 0..18

CLASSES = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
NUM_CLASSES = len(CLASSES)
SIDES = (("l_brow", "r_brow"), ("l_eye", "r_eye"), ("l_ear", "r_ear"))  # exchanged by a horizontal flip
_PARTNER = dict([*SIDES, *(pair[::-1] for pair in SIDES)])
FLIPPED_CLASSES = tuple(CLASSES.index(_PARTNER.get(name, name)) for name in CLASSES)  # id -> id after a flip

# RGB by class id. The published triples (zllrunning, yakhyo) are written through OpenCV, so they are BGR; here they are
# turned. Background is black, as yakhyo's.
PALETTE: npt.NDArray[np.uint8] = np.array(
    [
        [0, 0, 0], [255, 85, 0], [255, 170, 0], [255, 0, 85], [255, 0, 170], [0, 255, 0], [85, 255, 0],
        [170, 255, 0], [0, 255, 85], [0, 255, 170], [0, 0, 255], [85, 0, 255], [170, 0, 255], [0, 85, 255],
        [0, 170, 255], [255, 255, 0], [255, 255, 85], [255, 255, 170], [255, 0, 255],
    ],
    dtype=np.uint8,
)[:, ::-1]  # fmt: skip

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ParsingParams:
    """Everything that decides the bytes of the view; part of its digest."""

    parser: str  # bisenet, bisenet-lite, file, maps
    weights_sha256: str  # of the weight file; for maps, of the whole folder
    input_size: int  # pixels a side that the network sees; 0 for maps
    engine: str  # torch, onnx, cuda; none for maps
    precision: str = "float32"  # bfloat16 for cuda
    batch_size: int = 1  # images in one call of the network; a short batch is filled up
    threads: int = 1  # of the network, on CPU
    map_order: str = ""  # class order of the maps
    resize: str = "bilinear"  # a key of image.RESIZE_KERNELS
    size: int = 224  # pixels a side of the result


class LabelTool(Protocol):
    """What computes the view: a network that is open, or the maps that another tool made."""

    @property
    def reads_source(self) -> bool:
        """Whether it needs the pixels; maps are found by the source's path and size."""
        ...

    def label(self, samples: Sequence[Sample]) -> list[Labels]:
        """Labels uint8 (224, 224) of each sample."""
        ...


class Network(Protocol):
    """A parser's network on some engine."""

    def __call__(self, batch: npt.NDArray[np.uint8], resolution: int, size: int) -> npt.NDArray[np.uint8]:
        """RGB uint8 (B, S, S, 3) -> labels uint8 (B, size, size).

        The logits are upsampled to (resolution, resolution) (bilinear, corners aligned), their argmax taken there, and
        read out at `size` by nearest neighbour.
        """
        ...


def parse_batch(network: Network, crops: Sequence[RGB], params: ParsingParams) -> list[Labels]:
    """Square RGB uint8 crops (S, S, 3) of any sizes -> as many label maps uint8 (224, 224)."""
    return parse_at(network, crops, params, resolution=params.input_size, size=params.size)


def parse_at(
    network: Network, crops: Sequence[RGB], params: ParsingParams, *, resolution: int, size: int
) -> list[Labels]:
    """As `parse_batch`, with the argmax taken at `resolution` and the maps read out at `size`."""
    maps: list[Labels] = []
    for start in range(0, len(crops), params.batch_size):
        chunk = [resize(crop, params.input_size, params.resize) for crop in crops[start : start + params.batch_size]]
        count = len(chunk)
        chunk += [chunk[-1]] * (params.batch_size - count)  # always one shape: the bytes do not depend on the rest
        maps.extend(network(np.stack(chunk), resolution, size)[:count])
    return maps


def resize_labels(labels: Labels, size: int) -> Labels:
    """Nearest neighbour (H, W) -> (size, size), output i reading input floor(i * H / size)."""
    rows = nearest_rows(labels.shape[0], size)
    columns = nearest_rows(labels.shape[1], size)
    return np.ascontiguousarray(labels[rows][:, columns])


def nearest_rows(length: int, size: int) -> npt.NDArray[np.int64]:
    """(size,) indices into 0..length-1."""
    return np.arange(size, dtype=np.int64) * length // size


def colorize(labels: Labels) -> RGB:
    """Labels (..., H, W) -> RGB uint8 (..., H, W, 3) in the public palette."""
    return np.ascontiguousarray(PALETTE[labels])


def _array(params: Params) -> dict[str, Any]:
    return {"dtype": "uint8", "shape": [224, 224], "scale": 1, "unit": "BiSeNet class 0..18"}


def _compute_batch(samples: Sequence[Sample], params: ParsingParams, tool: LabelTool) -> list[Computed]:
    return [Computed(value=labels) for labels in tool.label(samples)]


def _tool_name(params: Params) -> str:
    """A weight file and a folder of maps are their owner's: nobody else can open them again."""
    return "" if params["parser"] in ("file", "maps") else str(params["parser"])


def _mirror(batch: Tensor) -> Tensor:
    """Left and right classes change places too."""
    import torch

    classes = torch.tensor(FLIPPED_CLASSES, dtype=torch.uint8, device=batch.device)
    return classes[batch.flip(-1).long()]


VIEW = View(
    name="parsing",
    version=VERSION,
    reads="source",
    params=ParsingParams,
    picture=colorize,
    array=_array,
    codecs={"raw": NPY, "png": PALETTE_PNG},
    mirror=_mirror,
    tool="parser",
    compute_batch=_compute_batch,
    tool_name=_tool_name,
)
