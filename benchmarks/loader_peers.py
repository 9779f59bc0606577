"""The other ways to load what benchmarks/loader.py loads: one way a process, on one core; prints one JSON line.

    python benchmarks/loader_peers.py convert WORK      # WORK/joined tars -> litdata, MDS, HF datasets
    python benchmarks/loader_peers.py webdataset WORK   # or webdataset-png, litdata, mds, hf, on-the-fly

Every way delivers the same batches: key, label, image (B, 3, 224, 224), edge, noise, parsing, text tokens, as tensors.
Imports nothing of bmrl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

BATCH = 64
ARRAYS = {
    "image": ("uint8", (224, 224, 3)),
    "edge": ("uint16", (224, 224)),
    "noise": ("int16", (3, 112, 112)),
    "parsing": ("uint8", (224, 224)),
    "text": ("int32", (4, 77)),
}
Sample = dict[str, Any]


def collate(samples: list[Sample]) -> Sample:
    batch: Sample = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in ARRAYS}
    batch["image"] = batch["image"].permute(0, 3, 1, 2)  # (B, H, W, 3) -> (B, 3, H, W)
    batch["edge"] = batch["edge"][:, None]
    batch["key"] = [sample["key"] for sample in samples]
    batch["label"] = torch.tensor([sample["label"] for sample in samples])
    return batch


def tars(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def tokens_of(work: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    document = json.loads((work / "raw/dataset.json").read_bytes())
    labels = {name: number for number, name in enumerate(document["classes"])}
    return labels, {name: np.array(p["tokens"], np.int32) for name, p in document["prompts"].items()}


def webdataset_samples(work: Path, folder: str, extension: str, shuffle: bool = True) -> Iterable[Sample]:
    labels, tokens = tokens_of(work)
    suffixes = {
        "image": extension,
        "edge": f"edge.{extension}",
        "noise": "noise.npy",
        "parsing": f"parsing.{extension}",
    }

    def sample(found: Sample) -> Sample:
        out = {name: np.asarray(found[suffix]) for name, suffix in suffixes.items()}
        out["edge"] = out["edge"].astype(np.uint16, copy=False)  # Pillow gives int32 for 16-bit PNG
        generator = found["json"]["generator"]
        return {**out, "key": found["__key__"], "label": labels[generator], "text": tokens[generator]}

    buffer = 500 if shuffle else 0
    dataset = wds.WebDataset(tars(work / folder), shardshuffle=100 if shuffle else False, seed=0, empty_check=False)
    return dataset.shuffle(buffer).decode("pil").map(sample)


def read_webdataset(folder: str, extension: str) -> Callable[[Path], Iterator[Sample]]:
    def read(work: Path) -> Iterator[Sample]:
        samples = webdataset_samples(work, folder, extension).batched(BATCH, collation_fn=collate, partial=False)
        yield from samples

    return read


def read_litdata(work: Path) -> Iterator[Sample]:
    import litdata

    dataset = litdata.StreamingDataset(str(work / "litdata"), shuffle=True, drop_last=True)
    yield from litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=collate)


def read_mds(work: Path) -> Iterator[Sample]:
    streaming = import_streaming()
    dataset = streaming.StreamingDataset(local=str(work / "mds"), shuffle=True, batch_size=BATCH)
    yield from DataLoader(dataset, batch_size=BATCH, num_workers=0, collate_fn=collate, drop_last=True)


def read_hf(work: Path) -> Iterator[Sample]:
    import datasets

    rows = datasets.load_from_disk(str(work / "hf")).shuffle(seed=0)

    def sample(row: Sample) -> Sample:
        arrays = {
            name: np.frombuffer(row[name], dtype).reshape(shape) for name, (dtype, shape) in ARRAYS.items()
        }  # Array2D and Array3D features are several times slower
        return {**arrays, "key": row["key"], "label": row["label"]}

    for columns in rows.iter(batch_size=BATCH, drop_last_batch=True):
        yield collate([sample(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)])


SRM = np.zeros((3, 5, 5), np.float32)
SRM[0, 1:4, 1:4] = np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
SRM[1] = (
    np.array([[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]) / 12
)
SRM[2, 2, 1:4] = np.array([1, -2, 1]) / 2


def read_on_the_fly(work: Path) -> Iterator[Sample]:
    """As the released code does it: OpenCV decode and resize, Sobel in float64, 4 GLCMs, SRM by a torch convolution."""
    from skimage.feature import graycomatrix, graycoprops

    labels, tokens = tokens_of(work)
    generators = sorted(labels)
    kernels = torch.from_numpy(np.repeat(SRM[:, None], 3, axis=1))  # (3, 3, 5, 5)
    paths = sorted((work / "source").rglob("*.jpg"))
    random.Random(0).shuffle(paths)

    def sample(path: Path) -> Sample:
        bgr = cv2.resize(cv2.imread(str(path)), (224, 224))
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        edge = np.hypot(cv2.Sobel(gray, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(gray, cv2.CV_64F, 0, 1, ksize=3)) / 255
        unit = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
        mixed = ((0.2989 * unit[0] + 0.587 * unit[1] + 0.114 * unit[2]) * 255).to(torch.uint8).numpy()
        corners = [(top, left) for top in (0, 112) for left in (0, 112)]
        scores = []
        for top, left in corners:
            matrix = graycomatrix(mixed[top : top + 112, left : left + 112], [1], [0], 256, symmetric=True, normed=True)
            scores.append(float(graycoprops(matrix, "homogeneity")[0, 0]))
        top, left = corners[int(np.argmin(scores))]
        noise = torch.nn.functional.conv2d(unit[None, :, top : top + 112, left : left + 112], kernels, padding=2)
        maps = path.relative_to(work / "source").with_suffix(".png")
        parsing = cv2.resize(cv2.imread(str(work / "maps" / maps), 0), (224, 224), interpolation=cv2.INTER_NEAREST)
        name = path.parent.name
        return {
            "image": rgb,
            "edge": edge.astype(np.float32),
            "noise": noise[0].clamp(-3, 3).numpy(),
            "parsing": parsing,
            "text": tokens[name],
            "key": path.stem,
            "label": generators.index(name),
        }

    for start in range(0, len(paths) - BATCH + 1, BATCH):
        yield collate([sample(path) for path in paths[start : start + BATCH]])


WAYS: dict[str, Callable[[Path], Iterator[Sample]]] = {
    "webdataset-png": read_webdataset("joined-png", "png"),
    "webdataset": read_webdataset("joined", "npy"),
    "litdata": read_litdata,
    "mds": read_mds,
    "hf": read_hf,
    "on-the-fly": read_on_the_fly,
}


def import_streaming() -> Any:
    """mosaicml-streaming with stand-ins for what its text and vision datasets import and this comparison does not use."""
    for name, attribute in {
        "torchvision": "",
        "torchvision.datasets": "VisionDataset",
        "torchvision.transforms": "",
        "torchvision.transforms.functional": "to_tensor",
        "transformers": "",
        "transformers.feature_extraction_utils": "BatchFeature",
        "transformers.tokenization_utils_base": "BatchEncoding",
        "transformers.models": "",
        "transformers.models.auto": "",
        "transformers.models.auto.tokenization_auto": "AutoTokenizer",
    }.items():
        module = types.ModuleType(name)
        if attribute:
            setattr(module, attribute, type(attribute, (), {}))
        sys.modules[name] = module
    import streaming

    return streaming


def identity(sample: Sample) -> Sample:
    return sample


def convert(work: Path) -> None:
    import datasets
    import litdata

    samples = list(webdataset_samples(work, "joined", "npy", shuffle=False))
    if not (work / "mds").exists():
        columns = {name: f"ndarray:{dtype}:{','.join(map(str, shape))}" for name, (dtype, shape) in ARRAYS.items()}
        columns |= {"key": "str", "label": "int"}
        with import_streaming().MDSWriter(out=str(work / "mds"), columns=columns) as writer:
            for sample in samples:
                writer.write(sample)
        for name in [name for name in sys.modules if name.split(".")[0] in ("transformers", "torchvision")]:
            del sys.modules[name]
    if not (work / "hf").exists():
        features = {name: datasets.Value("binary") for name in ARRAYS}
        features |= {"key": datasets.Value("string"), "label": datasets.Value("int64")}

        def rows() -> Iterator[Sample]:
            for sample in samples:
                yield {name: v.tobytes() if isinstance(v, np.ndarray) else v for name, v in sample.items()}

        rows_of = datasets.Dataset.from_generator(
            rows, features=datasets.Features(features), cache_dir=str(work / "hf-cache"), writer_batch_size=100
        )
        rows_of.save_to_disk(str(work / "hf"))
    if not (work / "litdata").exists():
        litdata.optimize(identity, samples, output_dir=str(work / "litdata"), chunk_bytes="64MB", num_workers=1)


def measure(way: str, work: Path, *, epochs: int, seconds: float) -> list[float]:
    """Samples a second of each epoch, after one that is not counted; an epoch is cut off after `seconds`."""
    rates = []
    for _ in range(epochs + 1):
        count, start = 0, time.perf_counter()
        for batch in WAYS[way](work):
            count += len(batch["key"])
            if time.perf_counter() - start > seconds:
                break
        rates.append(count / (time.perf_counter() - start))
    return rates[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["convert", *WAYS])
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12)
    options = parser.parse_args()
    if options.way == "convert":
        convert(options.work)
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(json.dumps(measure(options.way, options.work, epochs=options.epochs, seconds=options.seconds)))


if __name__ == "__main__":
    main()
