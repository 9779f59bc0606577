"""Taxonomy, protocols and prompts: the shipped files agree, and a user's own are checked."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from support import write_faces

from bmrl import manifests
from bmrl.cli.prep import main
from bmrl.pipeline.build.options import BuildOptions
from bmrl.pipeline.protocols import load_protocol, protocol_names
from bmrl.pipeline.shardset import ShardSet
from bmrl.pipeline.taxonomy import FAMILIES, KINDS, Taxonomy
from bmrl.pipeline.views.text import Labels, sentences, tokenize

PROTOCOLS = protocol_names()
TAXONOMY = Taxonomy.load()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocols_sources_are_in_the_taxonomy(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name
    for source in (*protocol.seen, *protocol.unseen, *protocol.controls):
        found = TAXONOMY.find(source)
        assert found is not None and found.name == source, source
    assert len(set(protocol.seen)) == len(protocol.seen)
    assert not set(protocol.seen) & set(protocol.unseen)
    assert set(protocol.relations) <= set(protocol.unseen)


def test_demo_1_mirrors_protocol_1() -> None:
    protocol = load_protocol("demo-1")
    assert (len(protocol.seen), len(protocol.unseen), protocol.simulated) == (10, 9, True)
    assert all(source.startswith("sim-") for source in (*protocol.seen, *protocol.unseen))
    assert set(protocol.relations) == set(protocol.unseen)
    assert "real" in protocol.controls
    for relation in protocol.relations.values():
        word, _, other = relation.partition(" ")
        assert word in ("NEAR", "RECOMBINED", "MID", "FAR")
        assert not other or other in protocol.seen


def test_names_and_aliases_are_found_whatever_their_spelling() -> None:
    for name, generator in TAXONOMY.generators.items():
        for spelling in (name, name.upper(), name.replace("-", "_"), *generator.aliases):
            assert TAXONOMY.find(spelling) is generator
        assert generator.kind in KINDS and generator.family in FAMILIES
    assert TAXONOMY.find("nobody") is None
    unknown = TAXONOMY.find_or_unknown("nobody")
    assert (unknown.name, unknown.kind, unknown.family) == ("nobody", "unknown", "unknown")


def test_names_in_any_alphabet(tmp_path: Path) -> None:
    """Without their letters all of them were one name, and 非real ('not real') was real."""
    file = tmp_path / "mine.yaml"
    file.write_text("换脸: {kind: FS, family: GAN}\nГенератор: {kind: EFS, family: other}\n", encoding="utf-8")
    taxonomy = Taxonomy.load(file)
    assert [taxonomy.find_or_unknown(name).kind for name in ("换脸", "генератор", "换头")] == ["FS", "EFS", "unknown"]
    assert TAXONOMY.find("非real") is None
    assert TAXONOMY.find("ＤＤＰＭ") is TAXONOMY.find("ddpm") is not None
    decomposed = unicodedata.normalize("NFD", "Visagé")
    (tmp_path / "mine.yaml").write_text("Visagé: {kind: FS, family: GAN}\n", encoding="utf-8")
    assert Taxonomy.load(file).find_or_unknown(decomposed).name == "Visagé"


@pytest.mark.parametrize("aliases", ["abc", "5", "{a: b}"])
def test_aliases_are_a_list(aliases: str, tmp_path: Path) -> None:
    """Of a word every letter became a name."""
    (tmp_path / "mine.yaml").write_text(f"Mine: {{kind: FS, family: GAN, aliases: {aliases}}}\n")
    with pytest.raises(ValueError, match="generator Mine: aliases must be a list"):
        Taxonomy.load(tmp_path / "mine.yaml")


def test_no_aliases(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("Mine: {kind: FS, family: GAN, aliases: }\n")
    assert Taxonomy.load(tmp_path / "mine.yaml").find("mine") is not None


DF40 = {
    "FS": "fsgan faceswap simswap inswap blendface uniface mobileswap e4s facedancer deepfacelab",
    "FR": "fomm facevid2vid wav2lip MRAA one_shot_free pirender tpsm lia danet sadtalker mcnet hyperreenact heygen",
    "EFS": "VQGAN StyleGAN2 StyleGAN3 StyleGANXL sd2.1 ddim RDDM PixArt DiT SiT MidJourney whichfaceisreal CollabDiff",
    "AM": "e4e stargan starganv2 styleclip",
}  # CollabDiff stands under face editing in DF40; its model is GenFace's CollDiff
OWDFA = (
    "FaceSwap Deepfakes FaceShifter DeepFaceLab FSGAN FaceNet Face2Face NeuralTextures Talking-Head-Video ATVG-Net FOMM "
    "Wav2Lip ATFHP MakeItTalk MaskGAN StarGAN2 SC-FEGAN DiscoFaceGAN FaceAPP StarGAN PGGAN CycleGAN StyleGAN StyleGAN2"
)
GENFACE = "DDPM LatDiff CollDiff StyleGAN2 StyleGAN3 Diffae LatTrans IAFaces DiffFace FSLSD FaceSwapper"


def test_df40_owdfa_and_genface_are_known_by_the_names_of_their_folders() -> None:
    found = {kind: [TAXONOMY.find(name) for name in names.split()] for kind, names in DF40.items()}
    assert {kind: {g.kind if g else None for g in generators} for kind, generators in found.items()} == {
        kind: {kind} for kind in DF40
    }
    assert len({g.name for generators in found.values() for g in generators if g}) == 40
    for names in (OWDFA, GENFACE):
        generators = [TAXONOMY.find(name) for name in names.split()]
        assert None not in generators and len({g.name for g in generators if g}) == len(names.split())


def test_a_users_generators_are_laid_over_the_shipped(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("MyGAN: {kind: FS, family: GAN, aliases: [my-gan-v1]}\n")
    found = Taxonomy.load(own).find("My GAN v1")
    assert found is not None and (found.name, found.kind) == ("MyGAN", "FS")
    assert TAXONOMY.find("my-gan-v1") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MyGAN: {kind: swap, family: GAN}", "generator MyGAN: kind 'swap' is none of"),
        ("MyGAN: {kind: FS, family: gan}", "generator MyGAN: family 'gan' is none of"),
        ("MyGAN: {kind: FS}", "generator MyGAN: expected at least kind and family"),
        ("MyGAN: {kind: FS, family: GAN, colour: red}", "generator MyGAN: unknown field 'colour'"),
        ("MyGAN: {kind: FS, family: GAN, aliases: [ffhq]}", "stands for both"),
        ("- MyGAN", "expected a mapping from generator names"),
        ("MyGAN: {kind: [", "is not valid YAML"),
    ],
)
def test_errors_in_a_users_generators_name_the_entry(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        Taxonomy.load(tmp_path / "own.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seen: [real, DDPM]\nunseen: [DDPM]", "DDPM is both seen and unseen"),
        ("unseen: [DDPM]", "expected a mapping with at least a list `seen`"),
        ("seen: [real]\nclasses: [DDPM]", "unknown field 'classes'"),
        ("seen: [", "is not valid YAML"),
    ],
)
def test_errors_in_a_users_protocol(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        load_protocol(str(tmp_path / "own.yaml"))
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="unknown protocol 'demo-99'; known are bmrl-1, bmrl-2, demo-1"):
        load_protocol("demo-99")
    with pytest.raises(ValueError, match="cannot be read"):
        load_protocol(str(tmp_path / "none.yaml"))


def prompts(generator: str, kind: str, family: str) -> tuple[str, str, str, str]:
    labels = Labels(
        key="", generator=generator, kind=kind, family=family, split="", group="", source_path="", synthetic=False,
        licence="",
    )  # fmt: skip
    return sentences(labels, manifests.load("prompts.yaml"))


def test_every_generator_has_four_sentences_that_fit() -> None:
    """Kinds and families with a template have all levels; `other` and `unknown` leave theirs empty."""
    for generator in TAXONOMY.generators.values():
        lines = prompts(generator.name, generator.kind, generator.family)
        assert [bool(line) for line in lines] == [True, True, generator.family != "other", True], generator.name
        tokens = tokenize(lines)
        assert (tokens == 49407).sum(axis=1).tolist() == [1, 1, 1, 1], "no sentence is cut"
        assert np.array_equal(tokens[:, 0], [49406] * 4)


def test_real_and_unknown_have_prompts_of_their_own() -> None:
    real = prompts("real", "real", "real")
    assert "real face" in real[0] and all(real)
    assert not any("fake" in line or "generat" in line for line in real)
    assert prompts("unknown", "unknown", "unknown") == ("", "", "", "")
    named = prompts("mystery", "unknown", "unknown")
    assert named[:3] == ("", "", "") and "mystery" in named[3]


def test_different_generators_have_different_prompts() -> None:
    """All photographs share one, the controls among them."""
    fake = [g for g in TAXONOMY.generators.values() if g.kind != "real"]
    assert len({prompts(g.name, g.kind, g.family) for g in fake}) == len(fake) > 30
    photographs = [g for g in TAXONOMY.generators.values() if g.kind == "real"]
    assert len({prompts(g.name, g.kind, g.family) for g in photographs}) == 1


def test_a_users_generator_reaches_the_shards_and_their_prompts(
    tmp_path: Path, build_here: Callable[[BuildOptions], Path], invoke: Callable[..., Result]
) -> None:
    root = write_faces(tmp_path / "source", {"my-gan-v1": 4, "brand-new": 2}, side=64)
    own = tmp_path / "own.yaml"
    own.write_text("MyGAN: {kind: FS, family: GAN, aliases: [my-gan-v1]}\n")
    options = BuildOptions(
        dataset="folder", source_root=root, out=tmp_path / "out", views=("image", "text"), generators=own
    )
    shard_set = ShardSet.open(build_here(options))
    index = shard_set.index.to_pydict()
    assert set(zip(index["generator"], index["kind"], index["family"], strict=True)) == {
        ("MyGAN", "FS", "GAN"),
        ("brand-new", "unknown", "unknown"),
    }
    prompts = {name: entry["sentences"] for name, entry in shard_set.document["prompts"].items()}
    assert prompts == {
        "MyGAN": [
            "a photo of a fake face",
            "a photo of an identity swapped face",
            "a photo generated by the GAN-based model",
            "The source generative model of this photo is MyGAN",
        ],
        "brand-new": ["", "", "", "The source generative model of this photo is brand-new"],
    }
    own.write_text("MyGAN: {kind: swap, family: GAN}\n")
    base = ("build", "--dataset", "folder", "--root", root, "--out", tmp_path / "x", "--views", "text", "--dry-run")
    done = invoke(main, *base, "--generators", own)
    assert (done.exit_code, done.output) == (
        1,
        "error: generator MyGAN: kind 'swap' is none of real, EFS, AM, FS, FR, unknown\n",
    )


@pytest.mark.parametrize(
    ("kind", "family", "names"),
    [
        ("AM", "GAN", "AttGAN,IcGAN,STGAN,StarGAN v2"),
        ("AM", "other", "FaderNet,Fader Networks"),
        ("EFS", "other", "Glow"),
        ("EFS", "autoregressive", "VQ-VAE-2,vqvae2"),
        ("EFS", "GAN", "StyleSwin,BMSG-GAN,ProGAN,Progressive GAN"),
        ("EFS", "diffusion", "VE-SDE,FLUX,FLUX.1-dev,SDXL,Stable Diffusion XL,Imagen,Midjourney"),
        ("FS", "GAN", "FaceShifter,GHOST,roop"),
        ("FR", "GAN", "LivePortrait,live_portrait"),
    ],
)
def test_common_generators_are_known(kind: str, family: str, names: str) -> None:
    for name in names.split(","):
        found = TAXONOMY.find(name)
        assert found is not None and (found.kind, found.family) == (kind, family), name


def test_an_own_entry_stands_for_a_shipped_one_however_it_is_spelt(tmp_path: Path) -> None:
    """A file that named a generator before it was shipped goes on saying what it said."""
    (tmp_path / "mine.yaml").write_text("att-gan: {kind: EFS, family: other, aliases: [agan]}\n")
    taxonomy = Taxonomy.load(tmp_path / "mine.yaml")
    for name in ("AttGAN", "att-gan", "agan"):
        assert taxonomy.find_or_unknown(name).name == "att-gan" and taxonomy.find_or_unknown(name).kind == "EFS"
