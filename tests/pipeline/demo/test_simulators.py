from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from bmrl.pipeline.demo.finishes import Instance
from bmrl.pipeline.demo.operators import EmptyRegionError, edit_region
from bmrl.pipeline.demo.simulators import SEEN, SIMULATORS, TRACE_RMS, UNSEEN, simulate

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
KINDS = {"efs": "EFS", "am": "AM", "fs": "FS"}
FAMILIES = {"gan": "GAN", "dif": "diffusion"}


def make(name: str, inputs: list[Pair], index: int = 0, seed: int = 0, **options: object):  # type: ignore[no-untyped-def]
    partner = inputs[index + 1] if SIMULATORS[name].kind == "FS" else None
    return simulate(name, *inputs[index], partner=partner, rng=np.random.default_rng(seed), **options)  # type: ignore[arg-type]


def test_the_table() -> None:
    assert len(SIMULATORS) == 19 and len(SEEN) == 10 and len(UNSEEN) == 9 and (*SEEN, *UNSEEN) == tuple(SIMULATORS)
    for name, simulator in SIMULATORS.items():
        prefix, kind, family, _ = name.split("-")
        assert (prefix, KINDS[kind], FAMILIES[family]) == ("sim", simulator.kind, simulator.family)
        assert (simulator.crop > 0) == (simulator.kind == "FS")
    assert Counter(SIMULATORS[name].relation.split()[0] for name in UNSEEN) == {
        "NEAR": 2,
        "RECOMBINED": 3,
        "MID": 2,
        "FAR": 2,
    }
    assert not any(SIMULATORS[name].kind == "AM" for name in UNSEEN)
    assert {SIMULATORS[name].crop for name in SIMULATORS} == {0, 112, 128, 144, 160}


@pytest.mark.parametrize("name", SIMULATORS)
def test_energy_law_and_determinism(name: str, inputs: list[Pair]) -> None:
    for seed in range(3):
        made = make(name, inputs, index=2 * seed, seed=seed)
        assert made.rgb.shape == (224, 224, 3) and made.rgb.dtype == np.uint8
        assert TRACE_RMS[0] <= made.strength <= TRACE_RMS[1]
        trace = (made.rgb - made.content)[made.mask]
        # Rounding adds 1/12 to the variance; clipping of dark or bright pixels takes a little away.
        expected = np.sqrt(made.strength**2 + 1 / 12)
        assert float(np.sqrt(np.mean(trace.astype(np.float64) ** 2))) == pytest.approx(expected, rel=0.04)
        again = make(name, inputs, index=2 * seed, seed=seed)
        assert np.array_equal(again.rgb, made.rgb) and np.array_equal(again.mask, made.mask)


def test_strengths_follow_one_law(inputs: list[Pair]) -> None:
    for name in ("sim-efs-gan-fir", "sim-am-dif-pixel", "sim-fs-gan-near112"):
        strengths = [make(name, inputs, seed=seed).strength for seed in range(40)]
        reference = [make("sim-efs-dif-flow", inputs, seed=seed).strength for seed in range(40)]
        assert strengths == reference  # the first draw of the generator, whatever the simulator
    assert np.mean(np.log(strengths)) == pytest.approx(np.mean(np.log(TRACE_RMS)), abs=0.12)


@pytest.mark.parametrize("name", SIMULATORS)
def test_only_the_support_changes(name: str, inputs: list[Pair]) -> None:
    x, _ = inputs[0]
    made = make(name, inputs)
    kind = SIMULATORS[name].kind
    changed = np.any(made.rgb != x, axis=2)
    if kind == "EFS":
        assert made.mask.all() and made.region == "frame" and np.array_equal(made.content, x.astype(np.float32))
    else:
        assert 0 < made.mask.mean() < 0.6
        far = np.ones_like(made.mask)
        rows, columns = np.nonzero(made.mask)
        for dr in range(-12, 13, 4):
            for dc in range(-12, 13, 4):
                far[np.clip(rows + dr, 0, 223), np.clip(columns + dc, 0, 223)] = False
        assert not changed[far].any() and changed[made.mask].mean() > 0.5


def test_am_sources_share_one_region_law(inputs: list[Pair]) -> None:
    regions = {
        name: [make(name, inputs, seed=seed).region for seed in range(80)]
        for name in ("sim-am-gan-deconv", "sim-am-dif-pixel")
    }
    assert regions["sim-am-gan-deconv"] == regions["sim-am-dif-pixel"]
    counts = Counter(regions["sim-am-dif-pixel"])
    assert set(counts) == {"hair", "skin", "lips-mouth", "brows"} and min(counts.values()) >= 8


def test_an_empty_region_is_redrawn(inputs: list[Pair]) -> None:
    x, labels = inputs[0]
    bald = np.where(labels == 17, 0, labels).astype(np.uint8)
    found = {edit_region(x.astype(np.float32), bald, np.random.default_rng(seed)).region for seed in range(40)}
    assert found == {"skin", "lips-mouth", "brows"}
    nothing = np.zeros_like(labels)
    with pytest.raises(EmptyRegionError, match="none of the regions"):
        simulate("sim-am-dif-pixel", x, nothing, rng=np.random.default_rng(0))
    with pytest.raises(EmptyRegionError, match="fewer than two"):
        simulate("sim-fs-gan-fir", x, nothing, partner=inputs[1], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected a partner"):
        simulate("sim-fs-gan-fir", x, labels, rng=np.random.default_rng(0))


def test_a_channel_gain_is_6_percent_at_most(inputs: list[Pair]) -> None:
    x = inputs[0][0].astype(np.float32)
    forged = edit_region(x, inputs[0][1], np.random.default_rng(1))
    ratio = forged.content[x > 0] / x[x > 0]
    assert ratio.min() >= 0.94 - 1e-4 and ratio.max() <= 1.06 + 1e-4 and np.ptp(ratio) > 0.03


def test_a_swap_brings_the_partners_face(inputs: list[Pair]) -> None:
    one, two = (
        simulate("sim-fs-gan-fir", *inputs[0], partner=inputs[k], rng=np.random.default_rng(0)).content for k in (1, 2)
    )
    assert np.abs(one - two).max() > 30
    assert np.array_equal(one[:20, :20], inputs[0][0][:20, :20].astype(np.float32))  # a corner is the target's


def test_a_new_seed_changes_the_instance_only(inputs: list[Pair]) -> None:
    plain = make("sim-efs-gan-fir", inputs)
    other = make("sim-efs-gan-fir", inputs, instance=Instance("control-efs-gan-fir-newseed"))
    assert plain.strength == other.strength and not np.array_equal(plain.rgb, other.rgb)


@pytest.mark.slow
def test_the_rms_in_the_support_alone_attributes_at_chance(inputs: list[Pair]) -> None:
    """Ten seen sources, boosted trees on the one number: at most chance + 3 points."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    def measure(seeds: range) -> tuple[npt.NDArray[np.float64], list[str]]:
        values, sources = [], []
        for index, name in enumerate(SEEN):
            for seed in seeds:
                made = make(name, inputs, index=seed % 7, seed=1000 * index + seed)
                trace = (made.rgb - made.content)[made.mask].astype(np.float64)
                values.append([np.sqrt(np.mean(trace**2))])
                sources.append(name)
        return np.array(values), sources

    x, y = measure(range(70))
    x_test, y_test = measure(range(500, 580))
    model = HistGradientBoostingClassifier(max_iter=30, random_state=0).fit(x, y)
    assert np.mean(model.predict(x_test) == y_test) <= 0.13
