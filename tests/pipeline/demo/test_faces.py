import numpy as np
import pytest

from bmrl.pipeline.demo.canvas import LABEL_OF, Canvas, M, ellipse
from bmrl.pipeline.demo.faces import IDENTITY_RANGES, Face, draw_face, identity_split, split_of
from bmrl.pipeline.demo.traits import HAIR_STYLES, SKIN_TONES


def test_a_face_follows_from_its_identity(faces: list[Face]) -> None:
    again = draw_face(identity_split("test", 1)[0])
    assert np.array_equal(again.rgb, faces[0].rgb) and np.array_equal(again.labels, faces[0].labels)
    assert again.rgb.shape == (512, 512, 3) and again.rgb.dtype == np.uint8
    assert again.labels.shape == (512, 512) and again.labels.dtype == np.uint8
    assert not np.array_equal(faces[0].rgb, faces[1].rgb)


def test_all_19_classes_occur_and_optional_items_are_optional(faces: list[Face]) -> None:
    present = np.array([np.bincount(face.labels.ravel(), minlength=19) > 0 for face in faces])
    assert present.shape[1] == 19 and present.any(axis=0).all()
    for optional in (M.GLASSES, M.EARRING, M.NECKLACE, M.HAT, M.HAIR):
        assert not present[:, optional].all()
    for always in (M.BACKGROUND, M.SKIN, M.NOSE, M.U_LIP, M.L_LIP, M.NECK, M.CLOTH):
        assert present[:, always].all()
    assert len({face.traits.hair_style for face in faces}) >= len(HAIR_STYLES) - 2


def test_labels_name_the_subjects_own_sides(faces: list[Face]) -> None:
    for left, right in ((M.L_BROW, M.R_BROW), (M.L_EYE, M.R_EYE)):
        for face in faces:
            columns = [np.nonzero(face.labels == side)[1] for side in (left, right)]
            if all(len(c) for c in columns):
                assert columns[0].mean() > columns[1].mean()  # the subject's left is on the image's right


def test_a_label_covers_exactly_the_pixels_of_its_shape(faces: list[Face]) -> None:
    canvas = Canvas(faces[0].traits)
    canvas.fill(M.SKIN, ellipse((0.0, 0.0), (1.0, 1.0)))
    canvas.fill(M.L_PUPIL, ellipse((0.3, 0.0), (0.1, 0.1)))
    canvas.fill(M.HAT, ellipse((0.0, -3.0), (9.0, 2.8)), within=M.L_PUPIL)
    labels = canvas.labels()
    for material in np.unique(canvas.material):
        assert np.all(labels[canvas.material == material] == LABEL_OF[material])
    assert set(np.unique(labels)) <= {M.BACKGROUND, M.SKIN, M.L_EYE, M.HAT} and (labels == M.L_EYE).sum() > 100


def test_colours_change_where_labels_change(faces: list[Face]) -> None:
    """The drawing has no soft edges: a teeth or sclera pixel is bright right up to the label's border."""
    face = next(f for f in faces if f.traits.mouth_open > 0.1 and f.traits.skin.mean() < 120)
    gray = face.rgb.mean(axis=2)
    mouth = face.labels == M.MOUTH
    teeth = mouth & (gray > 180)
    assert teeth.sum() > 50
    below_upper_lip = np.zeros_like(mouth)
    below_upper_lip[1:] = (face.labels[:-1] == M.U_LIP) & mouth[1:]
    assert teeth[below_upper_lip].mean() > 0.5


def test_skin_tones_are_sampled_evenly(faces: list[Face]) -> None:
    lightness = np.sort([float(face.traits.skin.mean()) for face in faces])
    assert lightness[0] < 70 and lightness[-1] > 175
    assert len(SKIN_TONES) == 10
    steps = ((np.array(identity_split("train", 100)) * 0.6180339887498949) % 1.0 * 10).astype(int)
    assert np.bincount(steps, minlength=10).min() >= 8


def test_identities_of_splits_are_disjoint() -> None:
    ranges = list(IDENTITY_RANGES.values())
    assert set(IDENTITY_RANGES) == {"train", "val", "test", "parser"}
    for index, a in enumerate(ranges):
        for b in ranges[index + 1 :]:
            assert a.stop <= b.start or b.stop <= a.start
    for split, identities in IDENTITY_RANGES.items():
        assert split_of(identities[0]) == split_of(identities[-1]) == split
    with pytest.raises(ValueError, match="has 100000"):
        identity_split("train", 100_001)
    with pytest.raises(ValueError, match="in no split"):
        split_of(-1)
