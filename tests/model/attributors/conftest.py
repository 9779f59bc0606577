"""A shard set of sixty photographs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.shardset import ShardSet

REAL_SOURCES = Path(__file__).parents[3] / "../shared/data/real-sources"
FOLDERS = {"real": "ffhq-pipeline/real", "stylegan": "ffhq-pipeline/stylegan", "stargan": "celeba-pipeline/stargan"}
SPLITS = (("train", 12), ("val", 4), ("test", 4))
PROTOCOL = "name: photographs\nseen: [real, StyleGAN]\nunseen: {StarGAN: FAR}\n"


@pytest.fixture(scope="session")
def photo_set(tmp_path_factory: pytest.TempPathFactory, build_here: Callable[[BuildOptions], Path]) -> ShardSet:
    """Sixty photographs of two pipelines, five views; the protocol `photographs` stands beside it in protocol.yaml."""
    if not REAL_SOURCES.exists():
        pytest.skip("../shared/data/real-sources is not here")
    root = tmp_path_factory.mktemp("photographs")
    for name, folder in FOLDERS.items():
        files = iter(sorted((REAL_SOURCES / folder).iterdir()))
        for split, count in SPLITS:
            (root / "source" / split / name).mkdir(parents=True)
            for _ in range(count):
                shutil.copy(next(files), root / "source" / split / name)
    (root / "protocol.yaml").write_text(PROTOCOL)
    options = BuildOptions(
        out=root / "shards", dataset="folder", source_root=root / "source", shard_size=16, parser="bisenet-lite"
    )
    return ShardSet.open(build_here(options))


@pytest.fixture(scope="session")
def photo_protocol(photo_set: ShardSet) -> str:
    return str(Path(photo_set.root).with_name("protocol.yaml"))
