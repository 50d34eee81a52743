"""Statistics of numbers are NumPy's, however many there are; those of pictures follow from
statistics of parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from roboshard.shards import collected, quantiles, statistics
from roboshard.shards.collected import CollectedNumbers
from roboshard.shards.quantiles import exact_quantiles
from roboshard.shards.statistics import NAMES, QUANTILES, Numbers, mixed, statistics_of, usable

LEVELS = [*QUANTILES.values()]
FEWER = settings(max_examples=settings.default.max_examples // 2)

some_numbers = st.one_of(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e100, 1e100)),
    hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(-(2**52), 2**52)),
    hnp.arrays(np.bool_, st.integers(1, 60)),
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([-1.5, -0.0, 0.0, 2.0])),
)


@pytest.fixture(params=["sorted", "searched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether few numbers are sorted, or searched as many are."""
    if request.param == "searched":
        monkeypatch.setattr(quantiles, "SORTED", 0)


def close(found: Any, expected: Any) -> None:
    scale = np.abs(np.asarray(expected, dtype=np.float64)).max(initial=1e-30)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.usefixtures("way")
def test_quantiles_of_any_numbers_are_those_of_numpy() -> None:
    @FEWER
    @given(some_numbers, st.data())
    def check(values: NDArray[Any], data: st.DataObject) -> None:
        cut = data.draw(st.integers(0, len(values)))
        pieces = [(values[:cut], None), (values[cut:], None)]
        found = exact_quantiles(lambda: pieces, LEVELS, len(values))
        close(found, np.quantile(values.astype(np.float64), LEVELS))

    check()


@pytest.mark.usefixtures("way")
def test_whole_weights_are_numbers_that_come_so_often() -> None:
    @FEWER
    @given(some_numbers, st.data())
    def check(values: NDArray[Any], data: st.DataObject) -> None:
        often = data.draw(hnp.arrays(np.int64, len(values), elements=st.integers(1, 5)))
        weights = often.astype(np.float64)
        found = exact_quantiles(lambda: [(values, weights)], LEVELS, weights.sum())
        close(found, np.quantile(np.repeat(values.astype(np.float64), often), LEVELS))

    check()


@pytest.mark.usefixtures("way")
def test_fractions_of_weights_lie_between() -> None:
    @FEWER
    @given(
        hnp.arrays(np.float32, 30, elements=st.floats(-100, 100, width=32)),
        hnp.arrays(np.float64, 30, elements=st.floats(0.25, 4)),
    )
    def check(values: NDArray[Any], weights: NDArray[np.float64]) -> None:
        total = weights.sum()
        found = exact_quantiles(lambda: [(values, weights)], LEVELS, total)
        order = np.argsort(values)
        reached = np.cumsum(weights[order])

        def at(place: float) -> float:
            return float(values[order][np.searchsorted(reached, place).clip(max=29)])

        for quantile, level in zip(found, LEVELS, strict=True):
            place = np.floor((total - 1) * level)
            assert at(place - 1e-6) <= quantile <= at(place + 1 + 1e-6)

    check()


@pytest.mark.usefixtures("way")
def test_there_may_be_one_number_or_infinities() -> None:
    assert exact_quantiles(lambda: [(np.float32([7]), None)], LEVELS, 1).tolist() == [7] * 5
    values = np.asarray([-np.inf, -np.inf, 1, np.inf, np.inf])
    found = exact_quantiles(lambda: [(values, None)], [0.0, 0.2, 0.5, 0.8, 1.0], 5)
    assert found.tolist() == [-np.inf, -np.inf, 1, np.inf, np.inf]


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 20), st.integers(1, 3)),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
def test_statistics_are_those_of_numpy(values: NDArray[np.float32]) -> None:
    together = CollectedNumbers(len(values))
    half = len(values) // 2
    for part in (values[:half], values[half:]):
        together.add("x", part)
    found = together.stats()["x"]
    assert tuple(found) == NAMES
    wide = values.astype(np.float64)
    for name in ("min", "max", "mean", "std"):
        close(found[name], getattr(wide, name)(axis=0))
    for name, level in QUANTILES.items():
        close(found[name], np.quantile(wide, level, axis=0))
    assert found["count"].tolist() == [len(values)]


def test_more_numbers_than_are_held_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collected, "IN_MEMORY", 0)
    monkeypatch.setattr(quantiles, "SORTED", 0)
    monkeypatch.setattr(statistics, "PIECE", 7)
    values = np.random.default_rng(0).normal(size=(50, 2, 3)).astype(np.float32)
    together = CollectedNumbers(60)
    for first in range(0, 50, 9):
        together.add("x", values[first : first + 9], weight=2.0)
    numbers = together.numbers()["x"]
    assert isinstance(numbers.values.base, np.memmap)
    found = together.stats()["x"]
    twice = np.repeat(values.astype(np.float64), 2, axis=0)
    close(found["q10"], np.quantile(twice, 0.1, axis=0))
    close(found["std"], twice.std(axis=0))
    assert found["mean"].shape == (2, 3)
    assert found["count"].tolist() == [50]


def test_what_is_no_number_has_no_statistics() -> None:
    values = np.asarray([[1.0, 2.0], [np.nan, 4.0]], dtype=np.float32)
    together = CollectedNumbers(9)
    together.add("x", values)
    together.add("ragged", values)
    together.add("ragged", values[:, :1])
    together.add("wide", np.zeros((2, 5000)))
    together.add("none", values[:0])
    found = together.stats()
    assert found.keys() == {"x"}
    assert all(np.isnan(own[0]) for name, own in found["x"].items() if name != "count")
    assert found["x"]["q50"][1] == 3


def test_a_feature_of_one_number_has_statistics_with_an_axis() -> None:
    flags = np.asarray([True, False, True])
    (found,) = [statistics_of([Numbers(values=flags[None], shape=(1,))])]
    assert {name: own.tolist() for name, own in found.items()} == {
        "min": [0.0],
        "max": [1.0],
        "mean": [pytest.approx(2 / 3)],
        "std": [pytest.approx(flags.std())],
        "count": [3],
        "q01": [pytest.approx(0.02)],
        "q10": [pytest.approx(0.2)],
        "q50": [1.0],
        "q90": [1.0],
        "q99": [1.0],
    }


# -- Of statistics ---------------------------------------------------------------------------------


def picture_stats(values: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Of pictures (n, channels)."""
    shape = (values.shape[1], 1, 1)
    found = {name: getattr(values, name)(axis=0) for name in ("min", "max", "mean", "std")}
    found |= {name: np.quantile(values, level, axis=0) for name, level in QUANTILES.items()}
    return {name: own.reshape(shape) for name, own in found.items()} | {
        "count": np.asarray([len(values)])
    }


def test_pictures_of_parts_have_the_moments_of_all_and_about_their_quantiles() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.beta(a, b, (4000, 3)) for a, b in ((1, 9), (5, 5), (9, 1))]
    found = mixed([(picture_stats(part), len(part)) for part in parts])
    expected = picture_stats(np.concatenate(parts))
    assert tuple(found) == NAMES
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found[name], expected[name])
    assert found["count"].tolist() == [12000]
    for name in QUANTILES:
        np.testing.assert_allclose(found[name], expected[name], atol=0.05)
        mean_of_quantiles = np.mean([picture_stats(part)[name] for part in parts], axis=0)
        if name in ("q01", "q99"):  # what a mean of quantiles makes of them
            assert np.abs(mean_of_quantiles - expected[name]).min() > 0.1


def test_shares_say_how_much_of_all_a_part_is() -> None:
    dark, light = (picture_stats(np.full((10, 1), value)) for value in (0.0, 1.0))
    found = mixed([(dark, 3.0), (light, 1.0)])
    assert found["mean"].item() == 0.25
    assert found["q50"].item() == pytest.approx(0.0, abs=2e-3)
    assert found["q90"].item() == pytest.approx(1.0, abs=2e-3)
    same = mixed([(dark, 1.0), (dark, 5.0)])
    assert all(own.item() == 0 for name, own in same.items() if name != "count")


def test_quantiles_are_left_out_where_a_part_has_none() -> None:
    whole = picture_stats(np.random.default_rng(0).uniform(size=(9, 3)))
    without = {name: own for name, own in whole.items() if name != "q99"}
    assert mixed([(whole, 1), (without, 1)]).keys() == {"min", "max", "mean", "std", "count"}
    other_shape = picture_stats(np.zeros((9, 1)))
    np.testing.assert_allclose(mixed([(whole, 1), (other_shape, 1)])["mean"], whole["mean"])


@pytest.mark.parametrize(
    "damage",
    [
        {"mean": None},
        {"mean": "much"},
        {"std": [[1.0]]},
        {"min": []},
    ],
    ids=str,
)
def test_statistics_that_say_nothing_are_not_usable(damage: dict[str, Any]) -> None:
    whole = {"min": [0.0], "max": [2.0], "mean": [1.0], "std": [1.0]}
    assert usable(whole) is not None
    assert usable(whole | damage) is None
    assert usable(whole | {"q01": [1.0, 2.0]}).keys() == {*whole, "count"}  # type: ignore[union-attr]
