from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bmrl.pipeline.demo.claim import ClaimedError
from bmrl.pipeline.demo.faces import Face
from bmrl.pipeline.demo.photographs import crop_photograph, find_photographs, synthesise
from bmrl.pipeline.demo.png import png_text, read_png
from bmrl.pipeline.demo.simulators import SEEN, SIMULATORS
from bmrl.pipeline.sources import DATASETS
from bmrl.pipeline.sources.rows import hash_split
from bmrl.pipeline.taxonomy import Taxonomy


@pytest.fixture
def folder(faces: list[Face], tmp_path: Path) -> Path:
    """Four faces as JPEG files, all of split train by their stems, and one file that is no image."""
    real = tmp_path / "real"
    (real / "sub").mkdir(parents=True)
    stems = [stem for stem in (f"person{i}" for i in range(40)) if hash_split(stem) == "train"][:4]
    for index, stem in enumerate(stems):
        Image.fromarray(faces[index].rgb).save(real / ("sub" if index else "") / f"{stem}.jpg", quality=90)
    (real / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    return real


@pytest.fixture
def parse(faces: list[Face]):  # type: ignore[no-untyped-def]
    """A parser that recognises the drawing."""
    thumbnails = np.stack([face.rgb[::32, ::32].astype(np.float32) for face in faces])

    def nearest(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        assert rgb.shape == (512, 512, 3) and rgb.dtype == np.uint8
        distance = np.abs(thumbnails - rgb[::32, ::32]).mean(axis=(1, 2, 3))
        return faces[int(distance.argmin())].labels

    return nearest


def test_photographs_get_every_source(folder: Path, parse, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    calls: list[tuple[int, int]] = []
    made = synthesise(
        folder, out, parse=parse, sources="seen", progress=lambda done, total: calls.append((done, total))
    )
    assert made.num_photographs == 4 and made.num_images == 4 * 11
    assert sum(made.dropped.values()) == 1 and calls[-1] == (55, 55)
    rows = pq.read_table(made.manifest).to_pylist()
    assert {row["generator"] for row in rows} == {"real", *SEEN}
    for row in rows:
        pixels = read_png(out / row["path"])
        assert pixels.shape == (224, 224, 3)
        assert row["synthetic"] == (row["generator"] != "real")
        assert png_text(out / row["path"])["synthetic"] == str(row["synthetic"]).lower()
        assert row["split"] == hash_split(row["identity"])
        if row["kind"] == "FS":
            assert row["group"] == f"{row['identity']}+{row['partner']}" and row["partner"] != row["identity"]
        if row["generator"] != "real":
            assert read_png(out / row["mask"]).any() and row["strength"] > 0
    by_manifest, by_folder = (DATASETS[name].walk(out, Taxonomy.load()) for name in ("manifest", "folder"))
    assert [(row.path, row.generator, row.kind, row.split) for row in by_folder.rows] == [
        (row.path, row.generator, row.kind, row.split) for row in by_manifest.rows
    ]
    assert by_folder.unused == {"a folder of masks or label maps": 2} and by_folder.warnings == []
    again = synthesise(folder, tmp_path / "again", parse=parse)
    assert again.manifest.read_bytes() == made.manifest.read_bytes()
    path = next(row["path"] for row in rows if row["kind"] == "FS")
    assert (tmp_path / "again" / path).read_bytes() == (out / path).read_bytes()


def test_a_lone_photograph_cannot_be_swapped(faces: list[Face], parse, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "real").mkdir()
    Image.fromarray(faces[0].rgb).resize((300, 300)).save(tmp_path / "real" / "one.jpg")
    made = synthesise(tmp_path / "real", tmp_path / "out", parse=parse, sources="all")
    num_swaps = sum(simulator.kind == "FS" for simulator in SIMULATORS.values())
    assert sum(made.dropped.values()) == num_swaps and made.num_images == 20 - num_swaps
    assert all("needs a second photograph" in reason for reason in made.dropped)


def test_nothing_to_use_is_one_sentence(parse, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="is not a folder"):
        synthesise(tmp_path / "absent", tmp_path / "out", parse=parse)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image files"):
        synthesise(tmp_path / "empty", tmp_path / "out", parse=parse)
    (tmp_path / "empty" / "a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="none of the 1 images"):
        synthesise(tmp_path / "empty", tmp_path / "out", parse=parse)


def test_ids_are_unique_and_outputs_are_not_inputs(tmp_path: Path) -> None:
    for name in ("a.png", "b/a.jpg", "b/c+d.png", "out/train/real/a.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    found = find_photographs(tmp_path, tmp_path / "out")
    assert [photograph.id for photograph in found] == ["a", "a-2", "c-d"]
    assert found[0].split == found[1].split


def test_crops_are_jittered(faces: list[Face]) -> None:
    crops = [crop_photograph(faces[0].rgb, faces[0].labels, np.random.default_rng(seed)) for seed in range(4)]
    assert all(image.shape == (224, 224, 3) and labels.shape == (224, 224) for image, labels in crops)
    assert len({image.tobytes() for image, _ in crops}) == 4


def test_ids_of_many_equal_names(tmp_path: Path) -> None:
    names = ["0/a", "1/a-2", "2/a", "3/a", "4/a-2", "5/a", "6/a+2"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.png").write_bytes(b"x")
    found = [photograph.id for photograph in find_photographs(tmp_path, tmp_path / "out")]
    assert found == ["a", "a-2", "a-3", "a-4", "a-2-2", "a-5", "a-2-3"]


def test_an_output_is_never_mixed(folder: Path, parse, faces: list[Face], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    made = synthesise(folder, out, parse=parse, sources="seen")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    made.manifest.unlink()  # stopped before its end: the same plan goes on
    synthesise(folder, out, parse=parse, sources="seen")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    with pytest.raises(ClaimedError, match=f"--out {out} holds the output of other --seed; give another folder"):
        synthesise(folder, out, parse=parse, sources="seen", seed=1)
    with pytest.raises(ClaimedError, match="of other --sources;"):
        synthesise(folder, out, parse=parse, sources="all")
    Image.fromarray(faces[0].rgb).save(folder / "new.png")
    with pytest.raises(ClaimedError, match="of other photographs;"):
        synthesise(folder, out, parse=parse, sources="seen")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / "synth.json").unlink()  # of version 0.1, or somebody's own folder
    with pytest.raises(ClaimedError, match="files that are not of this synth"):
        synthesise(folder, out, parse=parse, sources="seen")


def test_hostile_names_of_photographs(faces: list[Face], parse, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "real").mkdir()
    for number, name in enumerate(["a\nb", "c\x1b[2J", "<script>", "=cmd()", "d\udcff", "e" * 180]):
        Image.fromarray(faces[number % len(faces)].rgb).save(tmp_path / "real" / f"{name}.png")
    made = synthesise(tmp_path / "real", tmp_path / "out", parse=parse, sources="seen")
    assert made.num_photographs == 5, "a name that is no UTF-8 cannot be written down"
