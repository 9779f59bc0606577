import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from PIL import Image

from bmrl.cli.prep import main
from bmrl.pipeline.demo.draw import VARIANTS, DemoSettings, derange, draw_demo
from bmrl.pipeline.demo.finishes import stable_rng
from bmrl.pipeline.demo.lookalikes import CONTROLS
from bmrl.pipeline.demo.png import encode_png, is_whole_png, png_text, read_png
from bmrl.pipeline.demo.simulators import SEEN, SIMULATORS, UNSEEN
from bmrl.pipeline.sources import DATASETS
from bmrl.pipeline.views.image import compute_image, read_source

TINY = DemoSettings(num_train=2, num_val=0, num_test=3)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def rows_of(root: Path) -> list[dict[str, object]]:
    return list(pq.read_table(root / "manifest.parquet").to_pylist())


def test_every_source_has_the_same_identities(tiny_demo: Path) -> None:
    rows = rows_of(tiny_demo)
    for split, sources in (("train", ("real", *SEEN)), ("test", ("real", *SIMULATORS, *CONTROLS))):
        chosen = [row for row in rows if row["split"] == split]
        assert {row["generator"] for row in chosen} == set(sources)
        for source in sources:
            identities = [row["identity"] for row in chosen if row["generator"] == source]
            assert len(identities) == TINY.count(split) == len(set(identities))
    assert not {row["identity"] for row in rows if row["split"] == "train"} & {
        row["identity"] for row in rows if row["split"] == "test"
    }
    for row in rows:
        assert row["path"] == f"{row['split']}/{row['generator']}/{row['identity']}.png"
        assert (row["relation"] != "") == (row["generator"] in UNSEEN)
        assert (row["mask"] != "") == (row["generator"] in SIMULATORS)
        assert row["version"] == "demo-v1" and row["synthetic"] is True


def test_a_swap_names_both_identities_of_one_split(tiny_demo: Path) -> None:
    rows = rows_of(tiny_demo)
    splits = {row["identity"]: row["split"] for row in rows}
    for row in rows:
        if row["kind"] == "FS":
            assert row["group"] == f"{row['identity']}+{row['partner']}" and row["identity"] != row["partner"]
            assert splits[row["partner"]] == row["split"]
        else:
            assert row["group"] == row["identity"] and row["partner"] == ""


def test_derangement() -> None:
    for num in (2, 3, 7, 100):
        for seed in range(5):
            order = derange(num, stable_rng("test", seed))
            assert sorted(order) == list(range(num)) and not np.any(order == np.arange(num))


def test_the_image_view_leaves_a_sample_as_it_is(tiny_demo: Path) -> None:
    for row in rows_of(tiny_demo):
        path = tiny_demo / str(row["path"])
        pixels = read_png(path)
        assert pixels.shape == (224, 224, 3)
        assert np.array_equal(compute_image(read_source(path.read_bytes())), pixels)
        assert png_text(path)["synthetic"] == "true" and png_text(path)["source"] == row["generator"]
        if row["mask"]:
            assert set(np.unique(read_png(tiny_demo / str(row["mask"])))) <= {0, 255}
        assert read_png(tiny_demo / str(row["labels"])).max() <= 18


def test_what_is_there_is_reused(tiny_demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_demo.rglob("*.png")}
    draw_demo(tiny_demo, num_workers=1, settings=TINY)
    assert {path: path.stat().st_mtime_ns for path in tiny_demo.rglob("*.png")} == before
    with pytest.raises(ValueError, match="seed 0, now 1"):
        draw_demo(tiny_demo, seed=1, num_workers=1, settings=TINY)


def test_an_interrupted_drawing_goes_on_to_the_same_bytes(tiny_demo: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 2 * 11 + 3 * 26
        if done > 30:
            raise StopError

    with pytest.raises(StopError):
        draw_demo(tmp_path, num_workers=1, settings=TINY, progress=stop)
    assert not (tmp_path / "manifest.parquet").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "train").rglob("*.png")}
    seen: list[tuple[int, int]] = []
    draw_demo(tmp_path, num_workers=1, settings=TINY, progress=lambda done, total: seen.append((done, total)))
    assert contents(tmp_path) == contents(tiny_demo)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "train").rglob("*.png")} == finished
    assert seen[-1] == (100, 100)
    # A file that went missing later is drawn again, and nothing else.
    lost = tmp_path / "test" / "sim-fs-gan-fir" / "200001.png"
    lost.unlink()
    draw_demo(tmp_path, num_workers=1, settings=TINY)
    assert contents(tmp_path) == contents(tiny_demo)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "train").rglob("*.png")} == finished


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(tiny_demo: Path, tmp_path: Path) -> None:
    draw_demo(tmp_path, num_workers=2, settings=TINY)
    assert contents(tmp_path) == contents(tiny_demo)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["demo-full", "demo-hard", "demo-resized"])
def test_variants(variant: str, tmp_path: Path) -> None:
    settings = DemoSettings(variant=variant, num_train=2, num_val=0, num_test=2)
    draw_demo(tmp_path, num_workers=1, settings=settings)
    rows = rows_of(tmp_path)
    in_train = {row["generator"] for row in rows if row["split"] == "train"}
    assert in_train == ({"real", *SIMULATORS} if variant == "demo-full" else {"real", *SEEN})
    low, high = settings.trace_rms
    assert all(low <= float(str(row["strength"])) <= high for row in rows if row["generator"] in SIMULATORS)
    assert all(read_png(tmp_path / str(row["path"])).shape == (224, 224, 3) for row in rows)
    assert not (tmp_path / ".inputs").exists() and not (tmp_path / ".rows").exists()


def test_settings() -> None:
    full = DemoSettings.of("demo-full")
    assert full.num_train + full.num_val + full.num_test >= 600 and full.num_test >= 100
    assert DemoSettings() == DemoSettings.of("demo")
    assert DemoSettings.of("demo-hard").trace_rms == (1.0, 3.0)
    with pytest.raises(ValueError, match="none of demo"):
        DemoSettings(variant="demo-2")
    with pytest.raises(ValueError, match="at least 2 identities"):
        DemoSettings(num_val=1)
    with pytest.raises(ValueError, match="none at all"):
        DemoSettings(num_train=0, num_val=0, num_test=0)


def test_the_manifest_records_its_settings(tiny_demo: Path) -> None:
    metadata = pq.read_schema(tiny_demo / "manifest.parquet").metadata
    stamp = json.loads(metadata[b"bmrl-demo"])
    assert stamp["variant"] == "demo" and stamp["seed"] == 0 and stamp["num_test"] == 3


def test_half_a_png_is_not_whole(tmp_path: Path) -> None:
    data = encode_png(np.zeros((8, 8, 3), dtype=np.uint8), {"source": "real"})
    assert np.array(Image.open(io.BytesIO(data))).shape == (8, 8, 3)
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").write_bytes(data[:-20])
    (tmp_path / "c.png").write_bytes(b"")
    assert [is_whole_png(tmp_path / name) for name in ("a.png", "b.png", "c.png", "d.png")] == [
        True,
        False,
        False,
        False,
    ]


def test_every_variant_is_a_dataset_of_its_published_size() -> None:
    assert {name for name, dataset in DATASETS.items() if dataset.drawn} == set(VARIANTS)
    full = DemoSettings.of("demo-full")
    assert full.num_train + full.num_val + full.num_test == 645 and set(full.sources("train")) == {"real", *SIMULATORS}
    for variant in ("demo", "demo-hard", "demo-resized"):
        settings = DemoSettings.of(variant)
        assert (settings.num_train, settings.num_val, settings.num_test) == (200, 30, 100)


def test_the_command_draws_the_variant_it_is_asked_for(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny(cls: type[DemoSettings], variant: str) -> DemoSettings:
        return cls(variant=variant, num_train=0, num_val=0, num_test=2)

    monkeypatch.setattr(DemoSettings, "of", classmethod(tiny))
    options = ("--dataset", "demo-hard", "--out", tmp_path / "shards", "--workers", 1, "--dry-run")
    result = invoke(main, "build", *options)
    assert result.exit_code == 0, result.output
    stamp = json.loads((tmp_path / "shards-source/settings.json").read_text())
    assert stamp["variant"] == "demo-hard" and not (tmp_path / "shards").exists()
