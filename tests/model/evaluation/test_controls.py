"""The controls: features against plain references, tables with leaks planted and absent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from bmrl.model.evaluation.controls.features import (
    CONTENT_FEATURES,
    LEAK_CLASSIFIERS,
    TRACE_FEATURES,
    Rows,
    blurred,
    color_means,
    extract,
    thumbnail,
)
from bmrl.model.evaluation.controls.leaks import (
    CLASSIFIERS,
    _fit,
    control_tables,
    level_controls,
    linear_probe,
)
from bmrl.model.traces import log_spectrum, srm_cooccurrences

F64 = npt.NDArray[np.float64]
SOURCES = {  # name -> kind, family, how many rows
    "a": ("EFS", "GAN", 40),
    "b": ("FS", "GAN", 30),
    "c": ("FS", "diffusion", 30),
    "d": ("", "", 20),
}
NEW = {"e": ("EFS", "diffusion", 12), "f": ("AM", "GAN", 9)}
TRUTHS = {
    level: {name: facts[number] for name, facts in (SOURCES | NEW).items()}
    for number, level in enumerate(("kind", "family"))
}


def picture(side: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (side, side, 3), dtype=np.uint8)


def luma(rgb: npt.NDArray[np.uint8]) -> F64:
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def gaussian(image: F64, sigma: float, radius: int) -> F64:
    weights = np.array([math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)])
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="reflect")
        image = sum(
            w * np.take(padded, range(k, k + image.shape[axis]), axis=axis) for k, w in enumerate(weights.tolist())
        )
    return image


def test_the_log_spectrum_is_the_mean_power_of_36_windows() -> None:
    image = luma(picture(224))
    high = image - gaussian(image, 1.0, 4)
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 63) for n in range(64)])
    grid = np.exp(-2j * np.pi * np.outer(np.arange(64), np.arange(64)) / 64)
    power = np.zeros((64, 33))
    for top in range(0, 161, 32):
        for left in range(0, 161, 32):
            tile = high[top : top + 64, left : left + 64] * hann[:, None] * hann[None, :]
            power += np.abs((grid @ tile @ grid)[:, :33]) ** 2 / 36
    assert log_spectrum(picture(224)) == pytest.approx(np.log(power + 1e-3).ravel(), abs=2e-4)


def test_cooccurrences_are_counted_triple_by_triple() -> None:
    rgb, side = picture(15), 15
    image = luma(rgb)
    square3 = [[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]
    square5 = [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
    filters: list[tuple[dict[tuple[int, int], float], tuple[str, ...]]] = [
        ({(0, 0): -1, (0, 1): 1}, ("along",)),
        ({(0, 0): -1, (1, 0): 1}, ("across",)),
        ({(0, -1): 0.5, (0, 0): -1, (0, 1): 0.5}, ("along",)),
        ({(-1, 0): 0.5, (0, 0): -1, (1, 0): 0.5}, ("across",)),
        ({(r - 1, c - 1): square3[r][c] / 4 for r in range(3) for c in range(3)}, ("along", "across")),
        ({(r - 2, c - 2): square5[r][c] / 12 for r in range(5) for c in range(5)}, ("along", "across")),
    ]
    expected: list[float] = []
    for weights, directions in filters:
        level = {
            (y, x): max(-2, min(2, round(sum(w * image[y + r, x + c] for (r, c), w in weights.items()) / 1.5))) + 2
            for y in range(3, side - 3)
            for x in range(3, side - 3)
        }
        for direction in directions:
            r, c = (0, 1) if direction == "along" else (1, 0)
            triples = [
                25 * level[y, x] + 5 * level[y + r, x + c] + level[y + 2 * r, x + 2 * c]
                for y, x in level
                if (y + 2 * r, x + 2 * c) in level
            ]
            expected += [math.sqrt(triples.count(code) / len(triples)) for code in range(125)]
    assert srm_cooccurrences(rgb) == pytest.approx(expected, abs=1e-6)


def test_content_features_are_means() -> None:
    rgb = picture(224)
    blocks = rgb.reshape(32, 7, 32, 7, 3).mean(axis=(1, 3))
    assert thumbnail(rgb) == pytest.approx(blocks.ravel(), abs=0.5)  # OpenCV rounds to whole gray levels
    assert color_means(rgb) == pytest.approx([rgb[..., channel].mean() for channel in range(3)], abs=1e-3)
    smooth = np.stack([gaussian(rgb[..., channel].astype(np.float64), 4.0, 12) for channel in range(3)], axis=-1)
    assert blurred(rgb) == pytest.approx(smooth[3::7, 3::7].ravel(), abs=1.5)  # bytes: fixed point, twice


def test_features_of_batches_stand_in_the_order_of_the_rows() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)
    maps = np.random.default_rng(2).integers(0, 19, (5, 224, 224), dtype=np.uint8)
    batches = [
        {
            "image": torch.from_numpy(images[part]).permute(0, 3, 1, 2),
            "parsing": torch.from_numpy(maps[part]),
            "label": torch.tensor(labels),
            "generator": [str(label) for label in labels],
            "key": [f"k{row}" for row in range(*part.indices(5))],
        }
        for part, labels in ((slice(0, 2), [1, 0]), (slice(2, 5), [-1, 2, 2]))
    ]
    rows = extract(batches, {f"k{row}": (256.0, 128.0 + row, 1.0, -1.0) for row in range(5)})
    assert rows.labels.tolist() == [1, 0, -1, 2, 2] and rows.generators == ["1", "0", "-1", "2", "2"]
    for name, make in (TRACE_FEATURES | CONTENT_FEATURES).items():
        assert np.array_equal(rows.columns[name], np.stack([make(image) for image in images])), name
    for areas, labels in zip(rows.columns["label-map areas"], maps, strict=True):
        assert areas == pytest.approx([(labels == number).mean() for number in range(19)])
    assert rows.columns["native size and format"].tolist() == [[256, 128 + row, 1, -1] for row in range(5)]


def planted(sources: dict[str, tuple[str, str, int]], seed: int, **leaks: str) -> Rows:
    """Noise, and in the columns that `leaks` names numbers that tell source, kind or family."""
    rng = np.random.default_rng(seed)
    names = [name for name, (*_, count) in sources.items() for _ in range(count)]
    known = list(SOURCES)
    said = {"source": list(known), "kind": ["EFS", "FS", "", "AM"], "family": ["GAN", "diffusion", ""]}
    columns = {}
    for feature in ("colour means", "label-map areas", *TRACE_FEATURES):
        values = rng.standard_normal((len(names), 120)).astype(np.float32)
        if told := leaks.get(feature.split()[0].replace("-", "_")):
            place = {"source": None, "kind": 0, "family": 1}[told]
            for row, name in enumerate(names):
                answer = name if place is None else sources[name][place]
                values[row, said[told].index(answer) :: 4] += 40.0
        columns[feature] = values
    columns["native size and format"] = np.ones((len(names), 4), dtype=np.float32)
    labels = np.array([known.index(name) if name in known else -1 for name in names], dtype=np.int64)
    return Rows(labels=labels, generators=names, columns=columns)


def test_a_planted_leak_is_the_best_and_an_absent_one_is_chance() -> None:
    def tables(**leaks: str) -> dict[str, Any]:
        parts = [planted(SOURCES, seed, **leaks) for seed in (0, 1)]
        return control_tables(*parts, planted({}, 2), num_classes=4)

    found = tables(colour="source", SRM="source")
    assert found["best_leak"]["accuracy"] == 1.0 and found["best_leak"]["control"].startswith("colour means, ")
    assert found["leaks"]["colour means"] == {"nearest centre": 1.0, "logistic": 1.0, "1-NN": 1.0}
    assert found["classical"]["SRM co-occurrences"] == {"accuracy": 1.0, "auroc": None, "per_generator": None}
    assert found["classical"]["log-spectrum"]["accuracy"] < 0.5 and found["shuffled_labels"] < 0.5
    assert found["leaks"]["native size and format"]["1-NN"] == 40 / 120, "a constant tells nothing: the commonest class"
    assert (found["chance"], found["majority"]) == (0.25, 40 / 120)
    assert tables()["best_leak"]["accuracy"] < 0.5


def told(level: str, sources: Iterable[str]) -> list[int]:
    """All of the sources whose answer is known, where every image is answered right."""
    return [len({name for name in sources if TRUTHS[level].get(name)})] * 2


def test_what_content_tells_of_each_level() -> None:
    train, seen, new = (
        planted(sources, seed, colour="kind", log_spectrum="family")
        for sources, seed in ((SOURCES, 0), (SOURCES, 1), (NEW, 2))
    )
    found = level_controls(train, seen, new, TRUTHS)
    kind, family = found["content"]["kind"], found["probe"]["family"]
    assert (kind["candidates"], kind["chance"]) == (["EFS", "FS"], 0.5)  # of the trained sources; unknown is no answer
    about = {"accuracy": 1.0, "majority": 0.6, "n": 100, "n_outside": 20, "sources_right": told("kind", SOURCES)}
    assert kind["seen"] == {**about, "control": "colour means, nearest centre"}
    assert kind["unseen"]["accuracy"] == 1.0 and (kind["unseen"]["n"], kind["unseen"]["n_outside"]) == (12, 9)
    assert family["seen"] == {
        "accuracy": 1.0,
        "majority": 0.7,
        "n": 100,
        "n_outside": 20,
        "sources_right": told("family", SOURCES),
        "control": "log-spectrum, logistic",
    }
    assert family["unseen"] == {
        "accuracy": 1.0,
        "majority": 12 / 21,
        "n": 21,
        "n_outside": 0,
        "sources_right": told("family", NEW),
        "control": "log-spectrum, logistic",
    }
    assert found["probe"]["kind"]["seen"]["accuracy"] < 0.8, "what one feature tells of family says nothing of kind"


def test_levels_that_cannot_be_asked_are_left_out() -> None:
    train, none = planted(SOURCES, 0), planted({}, 1)
    truths = {"kind": dict.fromkeys(SOURCES, "FS"), "family": TRUTHS["family"]}
    found = level_controls(train, train, none, truths)
    assert list(found["content"]) == list(found["probe"]) == ["family"]
    assert found["content"]["family"]["unseen"] is None
    assert found["content"]["family"]["seen"]["control"].endswith("1-NN"), "each row is its own neighbour"
    assert level_controls(train, train, none, {"kind": dict.fromkeys(SOURCES, "")}) == {"content": {}, "probe": {}}


@pytest.mark.parametrize("name", LEAK_CLASSIFIERS)
def test_a_feature_that_tells_nothing_gives_the_commonest_class(name: str) -> None:
    """Also 0.1 in float32, whose standard deviation over 1,000 rows is 1e-6."""
    labels = np.array([0] * 400 + [1] * 600)
    model = _fit(CLASSIFIERS[name](), np.full((1000, 4), 0.1, dtype=np.float32), labels)
    assert set(model.predict(np.array([[0.1] * 4, [9.0] * 4], dtype=np.float32))) == {1}


def test_classes_that_share_their_size_and_format_are_no_warning() -> None:
    """A source's images often have one size: within the class nothing varies (a warning would fail the test)."""
    values = np.repeat(np.array([[224.0, 1.0], [512.0, 2.0]], dtype=np.float32), 5, axis=0)
    model = _fit(CLASSIFIERS["nearest centre"](), values, np.repeat([0, 1], 5))
    assert model.predict(values).tolist() == [0] * 5 + [1] * 5


def test_the_probe_s_unseen_auroc_and_the_seen_majority_by_plain_loops() -> None:
    rng = np.random.default_rng(3)

    def rows(*sources: tuple[str, int, float, int]) -> Rows:
        """Of (name, label, shift, count); every feature is noise about the shift."""
        noise = {name: [rng.normal(shift, 1.0, (n, 3)) for _, _, shift, n in sources] for name in TRACE_FEATURES}
        columns = {name: np.concatenate(parts).astype(np.float32) for name, parts in noise.items()}
        columns["colour means"] = columns["log-spectrum"]
        return Rows(
            labels=np.repeat([label for _, label, _, _ in sources], [n for *_, n in sources]),
            generators=[name for name, _, _, n in sources for _ in range(n)],
            columns=columns,
        )

    train, seen = rows(("a", 0, -1, 30), ("b", 1, 1, 10)), rows(("a", 0, -1, 6), ("b", 1, 1, 14))
    unseen = rows(("u", -1, 0, 20), ("v", -1, 3, 5))
    found = control_tables(train, seen, unseen, num_classes=2, seed=5)
    assert found["majority"] == 14 / 20
    for name in TRACE_FEATURES:
        model = linear_probe().fit(train.columns[name], train.labels)
        high, low = (model.predict_proba(part.columns[name]).max(axis=1).tolist() for part in (seen, unseen))
        plain = {}
        for source, chosen in (("u", low[:20]), ("v", low[20:])):
            plain[source] = sum((h > x) + (h == x) / 2 for h in high for x in chosen) / (len(high) * len(chosen))
        assert found["classical"][name]["per_generator"] == pytest.approx(plain, abs=1e-12)
        assert found["classical"][name]["auroc"] == pytest.approx((plain["u"] + plain["v"]) / 2, abs=1e-12)
        assert abs(plain["u"] - plain["v"]) > 0.1
    shuffled = np.random.Generator(np.random.PCG64(5)).permutation(train.labels)
    model = linear_probe().fit(train.columns["SRM co-occurrences"], shuffled)
    expected = float((model.predict(seen.columns["SRM co-occurrences"]) == seen.labels).mean())
    assert found["shuffled_labels"] == expected
