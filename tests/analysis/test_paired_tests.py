"""Pairs: against textbooks and tables, a second computation, and simulated experiments."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.analysis.confirmation import pair_verdict
from sweep.analysis.paired_comparison import Member, PairedComparison, apply_holm, compare_pairs
from sweep.analysis.paired_tests import Estimate, difference, holm, pairs_needed, ratio
from sweep.config.sections import Objective
from sweep.training.reports import EpochMetrics

LOSS = Objective(metric="val_loss", direction="minimize")
ACCURACY = Objective(metric="val_accuracy", direction="maximize")

# Student, The probable error of a mean, Biometrika 6 (1908): hours of sleep gained with two drugs, ten patients.
FIRST_DRUG = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND_DRUG = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
SLEEP = [a - b for a, b in zip(FIRST_DRUG, SECOND_DRUG, strict=True)]


def member(test: Sequence[float], *, metric: str = "loss", diverged: bool = False, **curves: Any) -> Member:
    """A run with this curve of the test metric; one second an epoch, unless ``seconds`` says otherwise."""
    train, seconds = curves.get("train", test), curves.get("seconds", [1.0] * len(test))
    values = [
        {f"test_{metric}": a, f"train_{metric}": b, "seconds": c} for a, b, c in zip(test, train, seconds, strict=True)
    ]
    return Member([EpochMetrics(epoch, v, 0) for epoch, v in enumerate(values, 1)], diverged)


def compared(first: Sequence[Member], second: Sequence[Member], objective: Objective = LOSS) -> PairedComparison:
    members = dict(enumerate(first)), dict(enumerate(second))
    [comparison] = apply_holm([compare_pairs(7, ("guided", "plain"), members, objective)])
    return comparison


# -- a mean difference -------------------------------------------------------------------------------------------------


def test_the_t_test_is_students_own() -> None:
    """R reports t = -4.0621, df = 9, p-value = 0.002833."""
    estimate = difference(SLEEP)
    assert estimate.value == pytest.approx(-1.58)
    assert estimate.p == pytest.approx(0.002833, abs=5e-7)
    assert estimate.values == tuple(SLEEP)


def bca(values: list[float], resamples: int, rng: random.Random) -> tuple[float, float]:
    """Efron's interval of a mean, as JASA 82 (1987) writes it."""
    normal, n, mean = statistics.NormalDist(), len(values), statistics.fmean(values)
    means = sorted(statistics.fmean(rng.choices(values, k=n)) for _ in range(resamples))
    below = (sum(m < mean for m in means) + sum(m <= mean for m in means)) / 2 / resamples
    bias = normal.inv_cdf(below)
    left_out = [(sum(values) - v) / (n - 1) for v in values]
    centred = [statistics.fmean(left_out) - v for v in left_out]
    acceleration = sum(c**3 for c in centred) / (6 * sum(c**2 for c in centred) ** 1.5)
    ends = (bias + normal.inv_cdf(0.025), bias + normal.inv_cdf(0.975))
    shares = [normal.cdf(bias + end / (1 - acceleration * end)) for end in ends]
    low, high = (means[min(resamples - 1, round(share * resamples))] for share in shares)
    return low, high


@pytest.mark.parametrize("values", [SLEEP, [0.1, 0.2, 0.15, 1.5, 0.3], [-1.0, 2.0, 3.0, 2.5, 9.0, 0.1, 0.2, 0.3]])
def test_the_interval_is_the_bias_corrected_and_accelerated_one(values: list[float]) -> None:
    low, high = bca(values, 20_000, random.Random(3))
    estimate = difference(values)
    assert estimate.low == pytest.approx(low, abs=0.05 * (high - low))
    assert estimate.high == pytest.approx(high, abs=0.05 * (high - low))
    again = difference(values)
    assert (again.low, again.high) == (estimate.low, estimate.high)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=8, unique=True), st.integers(-9, 9)
)
def test_an_interval_stretches_with_its_values_and_lies_among_them(values: list[float], power: int) -> None:
    estimate, other = difference(values), difference([math.ldexp(v, power) for v in values])  # exact
    assert estimate.low is not None
    assert estimate.high is not None
    rounding = 1e-12 * max(map(abs, values))
    assert min(values) - rounding <= estimate.low <= estimate.value <= estimate.high <= max(values) + rounding
    assert (other.low, other.high) == (math.ldexp(estimate.low, power), math.ldexp(estimate.high, power))
    assert other.p == pytest.approx(estimate.p, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ([], "no pairs"),
        ([0.3], "one pair has no interval"),
        ([0.0, 0.0, 0.0], "all pairs are the same"),
        ([0.25, 0.25], "all differences are the same: no spread to judge by"),
    ],
)
def test_what_cannot_be_judged_has_no_interval_and_says_why(values: list[float], note: str) -> None:
    estimate = difference(values)
    assert estimate.note == note
    assert (estimate.low, estimate.high, estimate.p) == (None, None, None)
    assert math.isnan(estimate.value) if not values else estimate.value == values[0]
    [judged] = holm([estimate], no_effect=0.0, statistic=np.mean)
    assert not judged.significant
    assert pairs_needed(values) is None


# -- how many pairs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_pairs_needed_are_those_of_the_tables(effect: float, pairs: int) -> None:
    """Cohen's effects, paired and two-sided, at a power of 0.8: as G*Power 3 has them."""
    assert pairs_needed([effect - math.sqrt(0.5), effect + math.sqrt(0.5)]) == pairs
    assert pairs_needed([9 - math.sqrt(0.5), 9 + math.sqrt(0.5)], difference=-effect) == pairs


def test_so_many_pairs_find_it_four_times_out_of_five() -> None:
    spread, effect, rng = 2.0, 1.5, np.random.default_rng(0)
    pairs = pairs_needed([-math.sqrt(2.0), math.sqrt(2.0)], difference=effect)
    assert pairs is not None
    samples = rng.normal(effect, spread, (20_000, pairs))
    t = samples.mean(1) / samples.std(1, ddof=1) * math.sqrt(pairs)
    threshold = {15: 2.1448, 16: 2.1314, 17: 2.1199}[pairs]  # of Student's t, 5 %, from the table
    assert np.mean(abs(t) > threshold) == pytest.approx(0.8, abs=0.03)
    assert np.mean(abs(t) > threshold) > 0.79


def test_an_effect_too_small_has_no_number_of_pairs() -> None:
    assert pairs_needed([-1.0, 1.0]) is None
    assert pairs_needed([-1.0, 1.0 + 1e-6]) is None
    assert pairs_needed([5.0, 5.0]) is None


# -- several comparisons -----------------------------------------------------------------------------------------------


def spread_around(mean: float, spread: float) -> tuple[float, ...]:
    return tuple(mean + spread * x for x in (-1.2, -0.7, -0.2, 0.1, 0.6, 1.4))


def test_holms_correction_is_that_of_the_textbook() -> None:
    """Holm, Scand. J. Statist. 6 (1979): the smallest p times 4, the next times 3, ..., never falling."""
    raw = (0.01, 0.04, 0.03, 0.005)
    clear = difference(spread_around(5.0, 1.0))
    estimates = [Estimate(clear.values, clear.value, clear.low, clear.high, p) for p in raw]
    judged = holm(estimates, no_effect=0.0, statistic=np.mean)
    assert [e.p_holm for e in judged] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [e.significant for e in judged] == [True, False, False, True]
    assert [e.p for e in judged] == list(raw)


def test_the_interval_must_exclude_no_effect_at_the_corrected_level_as_well() -> None:
    """Alone it does at 95 %; as the first of 20 it must at 99.75 %."""
    values = spread_around(0.9, 1.0)
    estimate = difference(values)
    assert (estimate.low or 0) > 0
    sure = Estimate(values, estimate.value, estimate.low, estimate.high, 1e-9)
    unsure = [Estimate(values, estimate.value, estimate.low, estimate.high, 0.9)] * 19
    assert holm([sure], no_effect=0.0, statistic=np.mean)[0].significant
    wide = difference(spread_around(0.75, 1.0))
    sure = Estimate(wide.values, wide.value, wide.low, wide.high, 1e-9)
    assert holm([sure], no_effect=0.0, statistic=np.mean)[0].significant
    assert not holm([sure, *unsure], no_effect=0.0, statistic=np.mean)[0].significant


def test_where_nothing_differs_hardly_any_experiment_shows_a_difference() -> None:
    """Three configurations and six pairs each, 200 times: any difference shown is a wrong one."""
    rng, wrong, found = np.random.default_rng(1), 0, 0
    for _ in range(200):
        values = rng.normal(0.0, 1.0, (3, 6))
        judged = holm([difference(row) for row in values.tolist()], no_effect=0.0, statistic=np.mean)
        wrong += any(e.significant for e in judged)
    for _ in range(20):
        values = rng.normal([[0.0], [3.0], [0.0]], 1.0, (3, 6))
        found += holm([difference(row) for row in values.tolist()], no_effect=0.0, statistic=np.mean)[1].significant
    assert wrong / 200 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    assert found > 15


# -- pairs of runs -----------------------------------------------------------------------------------------------------


def test_gains_speed_ups_and_gaps_of_three_pairs() -> None:
    """By hand: the control ends at 4.0, 5.0, 3.0 in its sixth, sixth and fourth epoch."""
    plain = [
        member([9, 8, 7, 6, 5, 4.0], train=[9, 8, 7, 6, 5, 3.0]),
        member([9, 8, 7, 7, 6, 5.0], train=[9, 8, 7, 7, 6, 4.5]),
        member([9, 8, 4, 3, 2.5, 3.0], train=[9, 8, 4, 3, 2, 1.0]),
    ]
    guided = [
        member([8, 5, 4.0, 3, 3, 3.5], train=[8, 5, 4, 3, 3, 3.0], seconds=[2.0] * 6),
        member([8, 5, 5.5, 4, 4, 4.0], train=[8, 5, 5, 4, 4, 3.5], seconds=[2.0] * 6),
        member([8, 6, 5.0, 4, 3.5, 3.5], train=[8, 6, 5, 4, 3, 3.0], seconds=[2.0] * 6),
    ]
    c = compared(guided, plain)
    assert c.seeds == (0, 1, 2)
    assert c.final.values == pytest.approx((0.5, 1.0, -0.5))
    assert c.final.value == pytest.approx(1 / 3)
    assert c.best.values == pytest.approx((1.0, 1.0, -1.0))
    assert c.speedup.values == (6 / 3, 6 / 2, 0.0)
    assert c.speedup.value == 2.0
    assert c.speedup_seconds.values == (6 / 6, 6 / 4, 0.0)
    assert c.speedup_whole.values == (6 / 3, 6 / 2, 0.0)
    assert c.never == 1
    assert c.speedup.note == "1 of 3 never get there"
    assert c.final_means == pytest.approx((11 / 3, 4.0))
    assert c.generalization_gaps == pytest.approx((0.5, (1.0 + 0.5 + 2.0) / 3))
    assert c.verdict == "not shown"
    assert c.pairs_needed == pairs_needed(c.final.values)


def test_a_speed_up_counts_from_where_the_control_first_is_at_its_final_value() -> None:
    """The third control is there in its fourth epoch already, and goes beyond it for a while."""
    plain, guided = member([9, 8, 4, 3, 2.5, 3.0]), member([9, 3.0, 3, 3, 3, 3])
    c = compared([guided], [plain])
    assert c.speedup.values == (4 / 2,)
    assert c.speedup_whole.values == (6 / 2,)


curve = st.lists(st.floats(0.01, 10).map(lambda x: round(x, 2)), min_size=3, max_size=8)


@settings(deadline=None, max_examples=30)
@given(st.lists(curve, min_size=2, max_size=4), st.sampled_from([LOSS, ACCURACY]))
def test_runs_that_are_the_same_show_no_gain_and_no_speed_up(curves: list[list[float]], objective: Objective) -> None:
    runs = [member(c, metric=objective.metric.removeprefix("val_")) for c in curves]
    c = compared(runs, runs, objective)
    assert set(c.final.values) == set(c.best.values) == {0.0}
    assert set(c.speedup.values) == set(c.speedup_seconds.values) == {1.0}
    assert min(c.speedup_whole.values) >= 1.0
    assert (c.verdict, c.pairs_needed, c.never) == ("not shown", None, 0)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(curve, curve), min_size=2, max_size=4))
def test_an_accuracy_is_a_loss_upside_down(curves: list[tuple[list[float], list[float]]]) -> None:
    loss = compared([member(a) for a, _ in curves], [member(b) for _, b in curves])
    turned = [[member([-x for x in c], metric="accuracy") for c in side] for side in zip(*curves, strict=True)]
    accuracy = compared(turned[0], turned[1], ACCURACY)
    assert accuracy.final == loss.final
    assert accuracy.best == loss.best
    assert accuracy.speedup == loss.speedup
    assert accuracy.generalization_gaps == pytest.approx(loss.generalization_gaps)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.floats(0.5, 0.95))
def test_a_run_that_is_so_many_times_faster_has_this_speed_up(factor: int, epochs: int, decay: float) -> None:
    """In epochs; where its epochs take half as long, twice that in seconds."""
    slow = [decay**e for e in range(1, factor * epochs + 1)]
    fast = [decay ** (factor * e) for e in range(1, factor * epochs + 1)]
    c = compared([member(fast, seconds=[0.5] * len(fast))], [member(slow)])
    assert c.speedup.value == c.speedup_whole.value == factor
    assert c.speedup_seconds.value == pytest.approx(2 * factor)


def test_more_than_half_that_never_get_there_have_no_speed_up() -> None:
    plain = [member([4, 3, 2, 1.0])] * 4
    there, never = member([1.0, 1, 1, 1]), member([4, 4, 4, 4.0])
    assert compared([there, there, there, never], plain).speedup.value == 4.0
    assert compared([there, there, never, never], plain).speedup.value == 0.0
    assert compared([never] * 4, plain).never == 4


def test_a_speed_up_with_runs_that_never_get_there_has_a_sign_test() -> None:
    """Four of five faster, one never there: twice the chance of at most one tail in five tosses, 2 * (1 + 5) / 32."""
    assert ratio([2.0, 3.0, 2.5, 2.2, 0.0]).p == pytest.approx(0.375)
    assert ratio([2.0, 3.0, 2.5, 2.2, 0.0]).value == 2.2
    assert ratio([2.0, 8.0]).value == pytest.approx(4.0)
    # By hand: the logarithms to base 2 are 1, 3; t = 2 / (sqrt(2) / sqrt(2)) = 2, of one degree of freedom.
    assert ratio([2.0, 8.0]).p == pytest.approx(1 - 2 / math.pi * math.atan(2.0))


def test_a_speed_up_that_is_the_same_in_all_pairs_is_shown_by_their_signs() -> None:
    """Eight of eight are faster: twice the chance of eight heads, 2 / 256. Four may be by chance, 2 / 16."""
    plain, guided = member([4, 3, 2, 1.0]), member([4, 1.0, 1, 1])
    c = compared([guided] * 8, [plain] * 8)
    assert (c.speedup.value, c.speedup.low, c.speedup.high) == (2.0, 2.0, 2.0)
    assert c.speedup.p == pytest.approx(2 / 256)
    assert c.speedup.significant
    assert compared([guided] * 4, [plain] * 4).speedup.p == pytest.approx(2 / 16)
    assert not compared([guided] * 4, [plain] * 4).speedup.significant
    never = compared([member([4, 4, 4, 4.0])] * 8, [plain] * 8)
    assert (never.speedup.value, never.speedup.high, never.speedup.significant) == (0.0, 0.0, True)


def test_more_pairs_are_needed_for_several_configurations_than_for_one() -> None:
    differences = [0.0, 0.2, 0.9, 1.2, 1.4]
    members = [member([3.0, 2.0 - d]) for d in differences], [member([3.0, 2.0]) for _ in differences]
    one = compare_pairs(0, ("guided", "plain"), (dict(enumerate(members[0])), dict(enumerate(members[1]))), LOSS)
    [alone] = apply_holm([one])
    several = apply_holm([one] * 4)[0]
    assert alone.pairs_needed is not None and several.pairs_needed is not None  # noqa: PT018 (for the types)
    assert len(differences) < alone.pairs_needed < several.pairs_needed


def test_a_clear_gain_is_called_better_or_worse() -> None:
    plain = [member([3.0, 2.0 + 0.01 * i]) for i in range(6)]
    guided = [member([3.0, 1.0 + 0.013 * i]) for i in range(6)]
    assert compared(guided, plain).verdict == "better"
    assert compared(guided, plain).pairs_needed is None
    assert compared(plain, guided).verdict == "worse"


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_pairs_of_which_one_has_diverged_are_counted_and_the_survivors_are_not_called_better() -> None:
    plain = [member([3.0, 2.0 + 0.01 * i]) for i in range(7)]
    guided = [member([3.0, 1.0 + 0.013 * i]) for i in range(6)]
    c = compared([*guided, member([3.0], diverged=True)], plain)
    assert c.diverged == (1, 0)
    assert c.seeds == (0, 1, 2, 3, 4, 5)
    assert c.final.significant
    assert c.verdict == "not shown"
    # A run that has diverged gets nowhere.
    assert len(c.speedup.values) == 7
    assert (c.speedup.values[6], c.never) == (0.0, 1)
    turned = compared(plain, [*guided, member([3.0], diverged=True)])
    assert (turned.diverged, turned.verdict) == ((0, 1), "not shown")
    assert len(turned.speedup.values) == 6  # there is no final value to reach
    # It is no excuse for those that are worse.
    assert compared([*guided, guided[5]], [*plain[:6], member([3.0], diverged=True)]).verdict == "better"


def test_what_survives_where_the_other_diverges_is_said_to() -> None:
    """One member of each of eight pairs diverges: twice the chance of eight heads, by McNemar's exact test."""
    lost, whole = [member([3.0], diverged=True)] * 8, [member([3.0, 2.0 + 0.1 * i]) for i in range(8)]
    c = compared(whole, lost)
    assert (c.mcnemar_p, c.survives, c.verdict) == (pytest.approx(2 / 256), "more often", "not shown")
    assert pair_verdict(c, "test_loss").endswith("diverged: 0 guided, 8 of the others: survives more often (p 0.0078).")
    assert compared(lost, whole).survives == "less often"
    assert compared(whole, [*lost[:4], *whole[4:]]).survives == "", "four of four may be by chance"
    [first, second] = apply_holm(
        [compare_pairs(n, ("guided", "plain"), (dict(enumerate(whole)), dict(enumerate(lost))), LOSS) for n in (1, 2)]
    )
    assert first.mcnemar_p == second.mcnemar_p == pytest.approx(4 / 256)


def test_a_metric_that_is_not_a_number_at_the_end_is_lost_and_before_it_is_passed_over() -> None:
    c = compared([member([1.0, math.nan]), member([1.0, 0.5])], [member([1.0, 0.7]), member([math.nan, 0.7])])
    assert c.diverged == (1, 0)
    assert c.seeds == (1,)
    assert c.best.values == pytest.approx((0.2,))
    assert c.final.note == "one pair has no interval"


def test_without_pairs_there_are_no_numbers() -> None:
    for first, second in (([], []), ([member([1.0])], [member([], diverged=True)])):
        c = compared(first, second)
        assert c.seeds == ()
        assert c.final.note == "no pairs"
        assert all(map(math.isnan, (*c.final_means, *c.generalization_gaps, c.final.value, c.speedup.value)))
        assert (c.verdict, c.pairs_needed) == ("not shown", None)


def test_seeds_that_only_one_of_them_has_make_no_pair() -> None:
    run = member([2.0, 1.0])
    c = compare_pairs(0, ("guided", "plain"), ({1: run, 2: run}, {2: run, 3: run}), LOSS)
    assert c.seeds == (2,)
