"""The search space: what a dimension becomes in Optuna, and points drawn without a sampler, against Optuna's own."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy import stats

from sweep.config.search_space import Choices, Range
from sweep.study.distributions import contains, distributions, from_unit, random_point, sobol_points, suggest

SPACE: dict[str, Range | Choices] = {
    "lambda1": Range(low=1e-5, high=1e-1, log=True),
    "epsilon": Range(low=-1.0, high=2.0),
    "ratio": Range(low=0.0, high=1.0, step=0.25),
    "depth": Range(low=2, high=6),
    "even": Range(low=2, high=9, step=2),
    "batch": Range(low=1, high=64, log=True),
    "init": Choices(choices=("default", "he", None, 3, True)),
}
GRID = 24_000  # values of u, the middles of as many bins


def grid(distribution: BaseDistribution, size: int = GRID) -> list[Any]:
    return [from_unit(distribution, (i + 0.5) / size) for i in range(size)]


@pytest.mark.parametrize(
    ("dimension", "expected"),
    [
        (SPACE["lambda1"], FloatDistribution(1e-5, 1e-1, log=True)),
        (SPACE["ratio"], FloatDistribution(0.0, 1.0, step=0.25)),
        (Range(low=0.0, high=1.0, step=0.3), FloatDistribution(0.0, 0.9, step=0.3)),
        (Range(low=0.1, high=0.7, step=0.1), FloatDistribution(0.1, 0.7, step=0.1)),
        (SPACE["depth"], IntDistribution(2, 6)),
        (SPACE["even"], IntDistribution(2, 8, step=2)),
        (SPACE["batch"], IntDistribution(1, 64, log=True)),
        (SPACE["init"], CategoricalDistribution(("default", "he", None, 3, True))),
    ],
)
def test_a_dimension_is_an_optuna_distribution(dimension: Range | Choices, expected: BaseDistribution) -> None:
    (distribution,) = distributions({"x": dimension}).values()
    assert type(distribution) is type(expected)
    assert vars(distribution) == pytest.approx(vars(expected)) if dimension != SPACE["init"] else True
    assert dimension != SPACE["init"] or distribution == expected


def test_the_order_is_that_of_the_study_file() -> None:
    assert list(distributions(SPACE)) == list(SPACE)


# -- from_unit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ratio", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("depth", [2, 3, 4, 5, 6]),
        ("even", [2, 4, 6, 8]),
        ("init", ["default", "he", None, 3, True]),
    ],
)
def test_every_value_has_an_equal_part_of_the_unit_interval(name: str, values: list[Any]) -> None:
    counts = Counter((type(v), v) for v in grid(distributions(SPACE)[name]))
    assert set(counts) == {(type(v), v) for v in values}
    assert all(abs(n - GRID / len(values)) <= 1 for n in counts.values())


def test_a_log_uniform_whole_number_is_a_rounded_log_uniform_one() -> None:
    counts = Counter(grid(distributions(SPACE)["batch"]))
    assert set(counts) == set(range(1, 65))
    for k, n in counts.items():
        share = math.log((k + 0.5) / (k - 0.5)) / math.log(64.5 / 0.5)
        assert n / GRID == pytest.approx(share, abs=2 / GRID)


def test_a_continuous_value_is_the_quantile() -> None:
    epsilon, lambda1 = (distributions(SPACE)[n] for n in ("epsilon", "lambda1"))
    for u in (0.0, 0.25, 0.5, 0.999):
        assert from_unit(epsilon, u) == pytest.approx(-1 + 3 * u)
        assert from_unit(lambda1, u) == pytest.approx(10 ** (-5 + 4 * u))
    assert from_unit(epsilon, 0.0) == -1.0
    assert from_unit(lambda1, 0.0) == 1e-5
    assert contains(lambda1, from_unit(lambda1, math.nextafter(1, 0)))


unit = st.floats(0, 1, exclude_max=True)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    if draw(st.booleans()):
        first, count = draw(st.integers(1, 1000)), draw(st.integers(1, 1000))
        if draw(st.booleans()):
            return Range(low=first, high=first + count, log=draw(st.booleans()))
        return Range(low=first, high=first + count, step=draw(st.integers(1, count)))
    low_high = st.lists(st.floats(1e-6, 1e3, allow_subnormal=False), min_size=2, max_size=2, unique=True)
    low, high = sorted(draw(low_high))
    if draw(st.booleans()):
        return Range(low=low, high=high, log=draw(st.booleans()))
    low, high, step = (draw(st.integers(1, 2000)) / 1000 for _ in range(3))
    return Range(low=low, high=low + high, step=step)


@given(ranges(), unit)
def test_any_number_of_the_unit_interval_gives_a_value_of_the_range(dimension: Range, u: float) -> None:
    (distribution,) = distributions({"x": dimension}).values()
    value = from_unit(distribution, u)
    assert isinstance(value, int | float)
    assert type(value) is (int if dimension.is_int else float)
    assert dimension.low <= value <= dimension.high
    assert contains(distribution, value)
    if dimension.step is not None:
        steps = (value - dimension.low) / dimension.step
        assert steps == pytest.approx(round(steps), abs=1e-6)


@given(ranges(), st.lists(unit, min_size=2, max_size=2))
def test_values_rise_with_the_number(dimension: Range, pair: list[float]) -> None:
    (distribution,) = distributions({"x": dimension}).values()
    small, large = (from_unit(distribution, u) for u in sorted(pair))
    assert isinstance(small, int | float)
    assert isinstance(large, int | float)
    assert small <= large


@pytest.mark.parametrize("name", list(SPACE))
def test_random_points_are_distributed_as_those_of_optunas_sampler(name: str) -> None:
    count = 3000
    space = distributions(SPACE)
    ours = [random_point(space, seed=3, number=i)[name] for i in range(count)]
    sampler, study = optuna.samplers.RandomSampler(seed=4), optuna.create_study()
    trial = study._storage.get_trial(study.ask()._trial_id)
    theirs = [sampler.sample_independent(study, trial, name, space[name]) for _ in range(count)]
    if isinstance(space[name], FloatDistribution) and space[name].step is None:  # type: ignore[attr-defined]
        p = stats.ks_2samp(ours, theirs).pvalue
    else:
        values = list({repr(v) for v in theirs})
        table = [[Counter(map(repr, sample))[v] for v in values] for sample in (ours, theirs)]
        assert {repr(v) for v in ours} <= set(values)
        p = stats.chi2_contingency(table).pvalue
    assert p > 0.001


# -- points ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_skip_goes_on_with_the_same_sequence(seed: int) -> None:
    space = distributions(SPACE)
    eight = sobol_points(space, count=8, skip=0, seed=seed)
    for cut in range(9):
        first, rest = (
            sobol_points(space, count=cut, skip=0, seed=seed),
            sobol_points(space, count=8 - cut, skip=cut, seed=seed),
        )
        assert first + rest == eight
    assert sobol_points(space, count=8, skip=0, seed=seed + 1) != eight


@pytest.mark.parametrize("seed", range(5))
def test_sobol_points_fill_the_space_evenly(seed: int) -> None:
    space = distributions(
        {
            "x": Range(low=0.0, high=1.0),
            "y": Range(low=1e-4, high=1.0, log=True),
            "n": Range(low=1, high=4),
            "c": Choices(choices=("a", "b")),
        }
    )
    points = sobol_points(space, count=32, skip=0, seed=seed)
    assert {n: Counter(p[n] for p in points) for n in ("n", "c")} == {
        "n": {1: 8, 2: 8, 3: 8, 4: 8},
        "c": {"a": 16, "b": 16},
    }
    x = np.array([p["x"] for p in points], float)
    y = np.array([p["y"] for p in points], float)
    assert sorted((32 * x).astype(int)) == list(range(32))
    assert sorted((32 * (1 + np.log10(y) / 4)).astype(int)) == list(range(32))


def test_a_random_point_depends_on_seed_and_number_alone() -> None:
    space = distributions(SPACE)
    points = [random_point(space, seed=0, number=i) for i in range(20)]
    np.random.default_rng(5).random(3)
    assert [random_point(space, seed=0, number=i) for i in reversed(range(20))] == points[::-1]
    assert len({repr(p) for p in points}) == 20
    assert not {repr(p) for p in points} & {repr(random_point(space, seed=1, number=i)) for i in range(20)}


def test_a_space_without_dimensions_has_one_point() -> None:
    assert sobol_points({}, count=3, skip=1, seed=0) == [{}, {}, {}]
    assert random_point({}, seed=0, number=0) == {}


# -- Optuna's trials ---------------------------------------------------------------------------------------------------


def test_a_trial_has_the_values_it_was_enqueued_with_and_the_types_of_the_space() -> None:
    space = distributions(SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    point = random_point(space, seed=0, number=0)
    study.enqueue_trial(point)
    trial = study.ask()
    assert {n: suggest(trial, n, d) for n, d in space.items()} == point
    other = study.ask()
    drawn = {n: suggest(other, n, d) for n, d in space.items()}
    assert drawn != point
    assert all(contains(space[n], v) for n, v in drawn.items())
    assert {n: repr(d) for n, d in other.distributions.items()} == {n: repr(d) for n, d in space.items()}


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("lambda1", [1e-5, 1e-1, 0.05], [1e-6, 0.11, "a", None, float("nan")]),
        ("ratio", [0.0, 0.25, 1.0], [0.3, 1.25]),
        ("depth", [2, 6], [1, 7, 2.5, "two"]),
        ("even", [2, 8], [3, 9, 10]),
        ("init", ["he", None, 3, True], ["orthogonal", 4]),
    ],
)
def test_contains(name: str, inside: list[Any], outside: list[Any]) -> None:
    distribution = distributions(SPACE)[name]
    assert [contains(distribution, v) for v in inside] == [True] * len(inside)
    assert [contains(distribution, v) for v in outside] == [False] * len(outside)
