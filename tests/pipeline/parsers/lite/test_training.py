import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from bmrl.pipeline.demo.faces import IDENTITY_RANGES
from bmrl.pipeline.parsers.lite.augmentation import IGNORE, Augmentation
from bmrl.pipeline.parsers.lite.celebamask import find_photographs, split_held_out
from bmrl.pipeline.parsers.lite.scores import confusion, iou, summarize
from bmrl.pipeline.parsers.lite.training import TrainingParams, dice_loss, main
from bmrl.pipeline.parsers.orders import CLASSES, flip, to_bisenet
from bmrl.pipeline.parsers.weights import load_bisenet, read_metadata

QUIET = Augmentation(color=0, gray=0, low_resolution=0, blur=0, noise=0, jpeg=0, rotation_deg=0, shift=0, zoom=(1, 1))


def write_folder(folder: Path, count: int) -> None:
    """A folder in the layout: blocks of labels and pictures coloured by them."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for i in range(count):
        labels = np.kron(rng.integers(0, 19, (4, 4)), np.ones((128, 128))).astype(np.uint8)
        Image.fromarray(labels).save(folder / "masks" / f"{i}.png")
        Image.fromarray(np.repeat(labels[..., None] * 13, 3, axis=2)).save(folder / "images" / f"{i}.jpg")


def test_flip_in_augmentation_exchanges_sides() -> None:
    labels = np.zeros((512, 512), dtype=np.uint8)
    labels[100:200, 50:150] = CLASSES.index("l_eye")
    rgb = np.repeat(labels[..., None], 3, axis=2)
    always = Augmentation(**{**vars(QUIET), "flip": 1.0})
    out, out_labels = always.apply(rgb, labels, size=512, rng=np.random.default_rng(0))
    assert np.array_equal(out_labels, flip(labels)) and out_labels[150, 410] == CLASSES.index("r_eye")
    assert np.array_equal(out, rgb[:, ::-1])


def test_augmentation_moves_image_and_labels_together() -> None:
    labels = np.zeros((512, 512), dtype=np.uint8)
    labels[180:300, 220:380] = 17
    rgb = np.repeat((labels > 0)[..., None].astype(np.uint8) * 255, 3, axis=2)
    moving = Augmentation(**{**vars(QUIET), "zoom": (0.7, 1.4), "rotation_deg": 18.0, "shift": 0.08})
    for seed in range(8):
        out, out_labels = moving.apply(rgb, labels, size=256, rng=np.random.default_rng(seed))
        inside = out_labels != IGNORE
        assert out.shape == (256, 256, 3) and inside.any()
        assert np.mean((out[..., 0] > 127)[inside] == (out_labels == 17)[inside]) > 0.985


def test_damage_keeps_shape_and_dtype() -> None:
    harsh = Augmentation(color=1, gray=1, low_resolution=1, blur=1, noise=1, jpeg=1)
    rgb = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    out, labels = harsh.apply(rgb, rgb[..., 0] % 19, size=160, rng=np.random.default_rng(1))
    assert out.shape == (160, 160, 3) and out.dtype == np.uint8
    assert labels.shape == (160, 160) and set(np.unique(labels)) <= {*range(19), IGNORE}


def test_published_layout_is_painted_in_order(tmp_path: Path) -> None:
    (tmp_path / "CelebA-HQ-img").mkdir()
    anno = tmp_path / "CelebAMask-HQ-mask-anno" / "1"
    anno.mkdir(parents=True)
    Image.new("RGB", (1024, 1024)).save(tmp_path / "CelebA-HQ-img" / "2001.jpg")
    skin, nose = np.zeros((512, 512), dtype=np.uint8), np.zeros((512, 512), dtype=np.uint8)
    skin[100:400, 100:400], nose[200:300, 200:300] = 255, 255
    Image.fromarray(skin).convert("RGB").save(anno / "02001_skin.png")
    Image.fromarray(nose).convert("RGB").save(anno / "02001_nose.png")
    (photo,) = find_photographs(tmp_path)
    rgb, labels = photo.read()
    assert rgb.shape == (512, 512, 3)
    assert labels[250, 250] == CLASSES.index("nose") and labels[150, 150] == CLASSES.index("skin") and labels[0, 0] == 0


def test_masks_are_read_in_the_official_order(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    raw = np.asarray(Image.open(tmp_path / "masks" / "0.png"))
    assert np.array_equal(find_photographs(tmp_path)[0].read()[1], to_bisenet("celebamask-hq")[raw])


def test_held_out_depends_on_stems_only(tmp_path: Path) -> None:
    write_folder(tmp_path, 8)
    photos = find_photographs(tmp_path)
    training, held_out = split_held_out(photos, count=3)
    again = split_held_out(photos[::-1], count=3)[1]
    assert len(training) == 5 and {p.stem for p in again} == {p.stem for p in held_out}


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images"):
        find_photographs(tmp_path)


def test_scores_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 19, (50, 50)).astype(np.uint8), rng.integers(0, 19, (50, 50)).astype(np.uint8)
    truth[:5], truth[truth == 18], predicted[predicted == 18] = 255, 0, 0
    per_class = iou(confusion(truth, predicted))
    for k in range(18):
        a, b = (truth == k), (predicted == k) & (truth < 19)
        assert per_class[k] == pytest.approx((a & b).sum() / (a | b).sum())
    assert np.isnan(per_class[18])
    scores = summarize(confusion(truth, predicted))
    assert scores["miou"] == pytest.approx(np.nanmean(per_class))
    assert scores["accuracy"] == pytest.approx(np.mean((truth == predicted)[truth < 19]))


def test_dice_loss_against_a_plain_loop() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 19, 6, 6, dtype=torch.float64)
    labels = torch.randint(0, 7, (2, 6, 6))
    labels[0, :2] = IGNORE
    prob, total = logits.softmax(1), 0.0
    for k in range(7):
        shared = sum(
            float(prob[b, k, i, j]) for b in range(2) for i in range(6) for j in range(6) if labels[b, i, j] == k
        )
        size = sum(
            float(prob[b, k, i, j]) + float(labels[b, i, j] == k)
            for b in range(2) for i in range(6) for j in range(6) if labels[b, i, j] != IGNORE
        )  # fmt: skip
        total += 2 * shared / size
    assert float(dice_loss(logits, labels)) == pytest.approx(1 - total / 7)


def test_schedule() -> None:
    params = TrainingParams(stages=((64, 10), (96, 5)), decay_steps=5, warmup_steps=2, learning_rate=1.0)
    assert [params.size_at(step) for step in (0, 9, 10, 14, 99)] == [64, 64, 96, 96, 96]
    assert [params.rate_at(step) for step in (0, 1, 5, 10, 11, 14)] == pytest.approx([0.5, 1, 1, 1, 0.8, 0.2])


@pytest.mark.slow
def test_command_trains_stops_and_goes_on(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 103)
    out = tmp_path / "small.safetensors"
    arguments = ["--celebamask-hq", str(tmp_path / "data"), "--out", str(out), "--drawn-faces", "2", "--width", "8"]
    arguments += ["--batch-size", "4", "--threads", "1", "--decay-steps", "2", "--stages"]
    for stages, steps in (("64x2", 2), ("64x2,96x1", 3)):
        result = CliRunner().invoke(main, [*arguments, stages], catch_exceptions=False)
        assert result.exit_code == 0
        assert json.loads(result.stdout.splitlines()[-1])["step"] == steps
    assert load_bisenet(out).width == 8 and read_metadata(out)["input_size"] == "96"
    record = json.loads(out.with_suffix(".json").read_text())
    first = IDENTITY_RANGES["parser"].start
    assert len(record["photographs"]) == 3 and record["drawn_identities"] == [first, first + 2]
