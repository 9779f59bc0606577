"""Shipped protocols against the papers and the embedded dataset; variants, detection and what a shard set lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bmrl import manifests
from bmrl.cli.prep import main
from bmrl.pipeline.demo.simulators import SEEN, SIMULATORS
from bmrl.pipeline.protocols import load_protocol, protocol_names
from bmrl.pipeline.shardset import ShardSet, ShardSetError
from bmrl.pipeline.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load().generators


def cells(sources: tuple[str, ...]) -> Counter[tuple[str, str]]:
    return Counter((TAXONOMY[name].kind, TAXONOMY[name].family) for name in sources)


def test_bmrls_protocols() -> None:
    one, two = load_protocol("bmrl-1"), load_protocol("bmrl-2")
    assert one.seen == (
        "StyleGAN3", "DiffFace", "Diffae", "LatDiff", "CollDiff", "DDPM", "FSLSD", "FaceSwapper", "LatTrans", "StyleGAN2",
    )  # fmt: skip
    assert cells(one.seen) == {
        ("EFS", "GAN"): 2, ("EFS", "diffusion"): 3, ("AM", "GAN"): 1, ("AM", "diffusion"): 1, ("FS", "GAN"): 2,
        ("FS", "diffusion"): 1,
    }  # fmt: skip
    assert cells(one.unseen) == {("FS", "GAN"): 4, ("EFS", "GAN"): 1, ("EFS", "diffusion"): 3, ("FS", "diffusion"): 1}
    assert two.seen == (*one.seen, "real") and two.unseen == (*one.unseen, "real-ffhq")
    assert (one.published["test per seen source"], one.published["train per seen source"]) == (1250, "unknown")
    assert two.published["REFace"] == 2000 and two.published["real-ffhq"] == "unknown"


def test_mfclips_and_sjedds_protocols_train_on_real_and_something() -> None:
    names = [name for name in protocol_names() if name.startswith(("mfclip", "sjedd"))]
    assert len(names) == 3 + 3 + 5 + 3 + 1 + 2 + 4 + 2
    for name in names:
        protocol = load_protocol(name)
        assert protocol.classes == ("real", "fake") and protocol.seen[0] == "real", name
        assert [TAXONOMY[source].kind for source in protocol.seen].count("real") == 1
        assert all(TAXONOMY[source].kind != "real" for source in protocol.unseen)
    forgery = load_protocol("mfclip-cross-forgery-AM")
    assert forgery.seen == ("real", "LatTrans", "IAFaces", "Diffae") and len(forgery.unseen) == 8
    assert load_protocol("mfclip-cross-generator-diffusion-CollDiff").unseen == (
        "DDPM",
        "LatDiff",
        "DiffFace",
        "Diffae",
    )
    assert load_protocol("sjedd-cross-manipulation-Deepfakes").seen == ("real", "Deepfakes")
    assert set(load_protocol("sjedd-cross-attribute-2").relations.values()) == {"age", "gender", "pose"}


def test_the_demos_partitions_are_stratified_and_trained_where_they_can_be() -> None:
    partitions = [load_protocol(f"demo-cv-{number}") for number in range(1, 6)]
    assert len({protocol.seen for protocol in partitions}) == 5
    counts = Counter(source for protocol in partitions for source in protocol.seen)
    for protocol in partitions:
        assert cells(protocol.seen) == cells(SEEN)
        assert {*protocol.seen, *protocol.unseen} == set(SIMULATORS) and len(protocol.seen) == 10
        assert set(protocol.relations) == set(protocol.unseen)
    by_cell: dict[tuple[str, str], list[int]] = {}
    for name, simulator in SIMULATORS.items():
        by_cell.setdefault((simulator.kind, simulator.family), []).append(counts[name])
    assert all(max(times) - min(times) <= 1 for times in by_cell.values())
    left_out = [name for name in protocol_names() if name.startswith("demo-3-")]
    assert len(left_out) == 6 and load_protocol("demo-3").name == "demo-3-fs-dif"
    for name in left_out:
        protocol = load_protocol(name)
        (cell,) = cells(protocol.unseen)
        assert cell not in cells(protocol.seen) and set(protocol.seen) < set(SEEN)
        assert {source for source in SIMULATORS if cells((source,)) == {cell: 1}} == set(protocol.unseen)


def test_a_file_with_variants_asks_for_one() -> None:
    with pytest.raises(ValueError, match="demo-cv has variants; choose one of demo-cv-1, demo-cv-2"):
        load_protocol("demo-cv")
    with pytest.raises(ValueError, match="unknown protocol 'demo-cv-6'; known are bmrl-1"):
        load_protocol("demo-cv-6")


def test_every_file_names_itself() -> None:
    for file in manifests.names("protocols"):
        assert manifests.load(f"protocols/{file}.yaml")["name"] == file


def test_detection_over_a_protocol() -> None:
    protocol = load_protocol("demo-1:detection")
    assert (protocol.name, protocol.classes) == ("demo-1:detection", ("real", "fake"))
    assert protocol.seen == (*SEEN, "real") and "real" not in protocol.controls
    labels = [protocol.label_of(name, kind) for name, kind in (
        ("real", "real"), ("sim-fs-gan-fir", "FS"), ("sim-efs-gan-vq", "EFS"), ("control-jpeg85", "real"), ("DDPM", "EFS"),
    )]  # fmt: skip
    assert labels == [0, 1, 1, 0, -1]
    assert load_protocol("demo-2:detection").seen == load_protocol("demo-2").seen
    assert load_protocol("mfclip-cross-dataset:detection") == load_protocol("mfclip-cross-dataset")


def test_detection_over_a_shard_set(small_set: ShardSet, small_protocol: str) -> None:
    everything = small_set.select(protocol="detection")
    assert everything.classes == ("real", "fake") and everything.protocol is not None
    assert everything.counts == {"real": 12, "sim-efs-gan-fir": 12, "sim-efs-gan-vq": 12, "sim-fs-gan-near": 12}
    assert everything.labels.sum() == 36 and everything.missing_sources == ()  # `mystery` is neither
    chosen = small_set.select(protocol=f"{small_protocol}:detection", part="unseen")
    assert chosen.counts == {"sim-efs-gan-vq": 12} and set(chosen.labels.tolist()) == {1}
    assert small_set.select(protocol=small_protocol, part="unseen").labels.max() == -1
    with pytest.raises(ShardSetError, match="unknown part 'all'"):
        small_set.select(protocol="detection", part="all")


def test_sources_that_a_shard_set_lacks(small_set: ShardSet) -> None:
    selected = small_set.select(protocol="bmrl-2")
    assert selected.counts == {"real": 12}
    assert selected.missing_sources == (*load_protocol("bmrl-1").seen, *load_protocol("bmrl-2").unseen)


def test_the_command_lists_them(invoke: Callable[..., Result], small_root: Path) -> None:
    bare: Any = invoke(main, "protocols")
    assert bare.exit_code == 0 and "missing" not in bare.stdout
    for name in protocol_names():
        assert f"\n{name}\n" in f"\n{bare.stdout}"
    result = invoke(main, "protocols", small_root)
    block = result.stdout[result.stdout.index("\nmfclip-cross-dataset\n") :].splitlines()
    assert block[6] == "  missing: Deepfakes, Face2Face, FaceSwap, NeuralTextures, Celeb-DF, DFDC, DF-VAE"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seen: [real]\ntask: ranking", "task 'ranking' is none of attribution, detection"),
        ("seen: all", "`seen: all` needs `task: detection`"),
        ("seen: real", "`seen` must be a list of sources"),
        ("seen: [real, DDPM, real]", "real stands twice in seen"),
        ("seen: [real]\nunseen: [DDPM]\ncontrols: [DDPM]", "DDPM is both unseen and controls"),
        ("variants: {a: {seen: [real]}}", "variants are for the shipped files"),
    ],
)
def test_errors_in_a_users_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        load_protocol(str(tmp_path / "own.yaml"))
    assert message in str(error.value) and "\n" not in str(error.value)
