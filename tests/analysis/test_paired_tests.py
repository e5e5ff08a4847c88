"""Pairs: against textbooks and tables, a second computation, and simulated experiments."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.analysis.confirmation import pair_verdict
from sweep.analysis.paired_comparison import PairedComparison, apply_holm, compare_pairs
from sweep.analysis.paired_tests import (
    Estimate,
    difference,
    equivalence,
    equivalent_within,
    false_discovery,
    holm,
    mean_interval,
    pairs_needed,
    pairs_needed_range,
    ratio,
)
from sweep.analysis.speedup import Member
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


@pytest.mark.parametrize(("n", "threshold"), [(2, 12.706), (5, 2.776), (8, 2.365), (30, 2.045)])
def test_the_interval_of_symmetric_differences_is_students(n: int, threshold: float) -> None:
    """The 97.5 % quantile of Student's t with n - 1 degrees of freedom, from the table."""
    values = [0.3 + i - (n - 1) / 2 for i in range(n)]
    reach = threshold * statistics.stdev(values) / math.sqrt(n)
    estimate = difference(values)
    assert estimate.low == pytest.approx(0.3 - reach, rel=1e-3)
    assert estimate.high == pytest.approx(0.3 + reach, rel=1e-3)


def test_the_end_on_the_side_of_a_long_tail_is_where_halls_statistic_reaches_students_quantile() -> None:
    """Hall (1992) adds a (t^2 / 3 + 1 / 6) + a^2 t^3 / 27 to t, with a the skewness over sqrt(n); see `_skewness`."""
    values, n = [0.0, 0.1, 0.2, 0.2, 0.3, 2.5], 6
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    third = statistics.fmean((v - mean) ** 3 for v in values)
    skewness = third / statistics.pvariance(values) ** 1.5 * n / (n + 8)
    low, high = mean_interval(values)
    assert low == pytest.approx(mean - 2.5706 * spread / math.sqrt(n), rel=1e-3), "Student's"
    assert high > mean + 2.5706 * spread / math.sqrt(n)
    t = (mean - high) * math.sqrt(n) / spread
    corrected = t + skewness / math.sqrt(n) * (t**2 / 3 + 1 / 6) + skewness**2 / (27 * n) * t**3
    assert corrected == pytest.approx(-2.5706, rel=1e-3)
    turned = mean_interval([-v for v in values])
    assert turned == (pytest.approx(-high), pytest.approx(-low))


def test_intervals_of_few_pairs_cover_the_truth() -> None:
    """The bootstrap's (BCa) cover 0.83 and 0.88 of normal differences; the rest is in ``tests.benchmarks.coverage``."""
    rng = np.random.default_rng(0)
    for n, draw, mean, least in (
        (5, rng.normal, 0.0, 0.94),
        (8, rng.normal, 0.0, 0.94),
        (5, rng.exponential, 1.0, 0.88),
        (8, rng.exponential, 1.0, 0.90),
    ):
        found = [mean_interval(sample) for sample in draw(size=(2000, n))]
        covered = np.mean([low <= mean <= high for low, high in found])
        assert covered > least - 2 * math.sqrt(least * (1 - least) / 2000)
        assert draw != rng.normal or covered < 0.97 + 0.01


several = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=8, unique=True)


@settings(deadline=None, max_examples=50)
@given(several, st.integers(-9, 9))
def test_an_interval_stretches_with_its_values_and_holds_their_mean(values: list[float], power: int) -> None:
    estimate, other = difference(values), difference([math.ldexp(v, power) for v in values])  # exact
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low <= estimate.value <= estimate.high
    ends = math.ldexp(estimate.low, power), math.ldexp(estimate.high, power)
    assert (other.low, other.high) == (pytest.approx(ends[0]), pytest.approx(ends[1]))
    assert other.p == pytest.approx(estimate.p, rel=1e-6)


@settings(deadline=None, max_examples=100)
@given(several, st.floats(-3, 3))
def test_interval_and_test_agree(values: list[float], shift: float) -> None:
    spread = statistics.stdev(values)
    estimate = difference([v - statistics.fmean(values) + shift * spread for v in values])
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.p is not None
    assert (estimate.p < 0.05) == (not estimate.low <= 0 <= estimate.high)


def test_the_median_is_beside_the_mean() -> None:
    """One dead network of eight: the ten-layer CNN of the evidence, in points of accuracy."""
    gains = [-0.5, -0.4, 0.1, -28.0, 0.8, 0.9, -1.4, -0.2]
    assert difference(gains).value == pytest.approx(-3.5875)
    assert difference(gains).median == pytest.approx(-0.3)
    assert math.isnan(difference([]).median)


# -- equivalence -------------------------------------------------------------------------------------------------------


def test_equivalence_is_two_one_sided_tests() -> None:
    """Symmetric values: mean 0.1, standard error 0.2236; t(4) is 2.132 at 5 %, from the table."""
    values = [0.1 + x for x in (-0.5, -0.5, 0.0, 0.5, 0.5)]
    margin = 0.1 + 2.1318 * statistics.stdev(values) / math.sqrt(5)
    assert equivalent_within(values) == pytest.approx(margin, rel=1e-4)
    assert equivalence(values, margin) == pytest.approx(0.05, rel=1e-3)
    assert equivalence(values, 2 * margin) < 0.05 < equivalence(values, margin / 2)
    assert equivalent_within([0.5]) is None
    assert (equivalence([0.5], 1.0), equivalence([0.5, 0.5], 1.0)) == (1.0, 1.0)


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
    [judged] = holm([estimate])
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


@pytest.mark.parametrize(("n", "low", "high"), [(5, 0.36, 8.26), (8, 0.44, 4.14), (16, 0.55, 2.40)])
def test_the_range_of_the_pairs_needed_is_that_of_the_variance(n: int, low: float, high: float) -> None:
    """(n - 1) over the quantiles of chi-square, from the table: 4 / 11.14 and 4 / 0.484. Of an effect this small, the
    pairs needed are proportional to the variance."""
    values = [(-1.0) ** i for i in range(n)]
    needed, found = pairs_needed(values, 0.02), pairs_needed_range(values, 0.02)
    assert needed is not None
    assert found == (pytest.approx(low * needed, rel=0.02), pytest.approx(high * needed, rel=0.02))
    assert pairs_needed_range([1.0], 0.1) == (None, None)
    assert pairs_needed_range([-1.0, 1.0], 0.02)[1] is None, "a million is where it ends"


# -- several comparisons -----------------------------------------------------------------------------------------------


def spread_around(mean: float, spread: float) -> tuple[float, ...]:
    return tuple(mean + spread * x for x in (-1.2, -0.7, -0.2, 0.1, 0.6, 1.4))


def test_holms_correction_is_that_of_the_textbook() -> None:
    """Holm, Scand. J. Statist. 6 (1979): the smallest p times 4, the next times 3, ..., never falling."""
    raw = (0.01, 0.04, 0.03, 0.005)
    clear = difference(spread_around(5.0, 1.0))
    estimates = [Estimate(clear.values, clear.value, clear.low, clear.high, p) for p in raw]
    judged = holm(estimates)
    assert [e.p_holm for e in judged] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [e.significant for e in judged] == [True, False, False, True]
    assert [e.p for e in judged] == list(raw)


def test_what_cannot_be_tested_is_of_no_family() -> None:
    alike = difference([0.0, 0.0, 0.0])
    judged = holm([Estimate((1.0, 2.0), 1.5, p=0.04), alike, alike])
    assert [e.p_holm for e in judged] == [0.04, None, None]
    assert [e.significant for e in judged] == [True, False, False]


def test_over_studies_the_share_of_wrong_claims_is_held() -> None:
    """Benjamini and Hochberg (1995): the k-th smallest of m times m / k, never larger than the next."""
    assert false_discovery([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.04, 0.04])
    assert false_discovery([]) == []
    assert false_discovery([None]) == [None]


@pytest.mark.exhaustive
def test_one_network_against_nine_equal_ones_hardly_ever_claims_a_difference() -> None:
    """In 28 % of confirmations it did while each opponent was a family of its own."""
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(60):
        arms = [[member([3.0, x]) for x in rng.normal(2.0, 0.1, 6)] for _ in range(10)]
        first = dict(enumerate(arms[0]))
        family = [compare_pairs(0, ("guided", f"{i}"), (first, dict(enumerate(arms[i]))), LOSS) for i in range(1, 10)]
        wrong += any(c.verdict != "not shown" for c in apply_holm(family))
    assert wrong / 60 <= 0.06 + 2 * math.sqrt(0.06 * 0.94 / 60)


def test_comparisons_of_the_guided_network_are_one_family_and_the_others_are_another() -> None:
    rng = np.random.default_rng(3)
    arms = {name: dict(enumerate(member([3.0, x]) for x in rng.normal(2.0, 0.1, 6))) for name in "abcd"}
    names = [("guided", "a", "b"), ("guided", "a", "c"), ("guided", "a", "d"), ("strongest", "b", "c")]
    found = apply_holm([compare_pairs(0, (f, f"over {b}"), (arms[a], arms[b]), LOSS) for f, a, b in names])
    ps = [c.final.p or 0.0 for c in found]
    assert min(c.final.p_holm or 0.0 for c in found[:3]) == pytest.approx(min(1.0, 3 * min(ps[:3])))
    assert found[3].final.p_holm == pytest.approx(ps[3])


def test_where_nothing_differs_hardly_any_experiment_shows_a_difference() -> None:
    """Three configurations and six pairs each, 200 times: any difference shown is a wrong one."""
    rng, wrong, found = np.random.default_rng(1), 0, 0
    for _ in range(200):
        values = rng.normal(0.0, 1.0, (3, 6))
        judged = holm([difference(row) for row in values.tolist()])
        wrong += any(e.significant for e in judged)
    for _ in range(20):
        values = rng.normal([[0.0], [3.0], [0.0]], 1.0, (3, 6))
        found += holm([difference(row) for row in values.tolist()])[1].significant
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
    # The paper's count: all epochs over those to the other's final value.
    assert c.speedup_whole.values == (6 / 3, 6 / 2, 0.0)
    assert c.speedup_whole.value == 2.0
    assert c.speedup_whole.note == "1 of 3 never get there"
    assert c.final_means == pytest.approx((11 / 3, 4.0))
    assert c.generalization_gaps == pytest.approx((0.5, (1.0 + 0.5 + 2.0) / 3))
    assert c.verdict == "not shown"
    assert c.pairs_needed == pairs_needed(c.final.values, 0.04)


curve = st.lists(st.floats(0.01, 10).map(lambda x: round(x, 2)), min_size=3, max_size=8)


@settings(deadline=None, max_examples=30)
@given(st.lists(curve, min_size=2, max_size=4), st.sampled_from([LOSS, ACCURACY]))
def test_runs_that_are_the_same_show_no_gain_and_no_speed_up(curves: list[list[float]], objective: Objective) -> None:
    runs = [member(c, metric=objective.metric.removeprefix("val_")) for c in curves]
    c = compared(runs, runs, objective)
    assert set(c.final.values) == set(c.best.values) == {0.0}
    assert set(c.speedup.values) | set(c.speedup_seconds.values) <= {1.0}
    assert min(c.speedup_whole.values) >= 1.0
    assert (c.verdict, c.pairs_needed, c.never - c.never_second) == ("not shown", None, 0)
    assert c.same_as == "guided"
    assert "the same network as the guided one: nothing to compare" in pair_verdict(c, "test_loss")


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(curve, curve), min_size=2, max_size=4))
def test_an_accuracy_is_a_loss_upside_down(curves: list[tuple[list[float], list[float]]]) -> None:
    loss = compared([member(a) for a, _ in curves], [member(b) for _, b in curves])
    turned = [[member([-x for x in c], metric="accuracy") for c in side] for side in zip(*curves, strict=True)]
    accuracy = compared(turned[0], turned[1], ACCURACY)
    assert accuracy.final == loss.final
    assert accuracy.best == loss.best
    assert accuracy.speedup.values == pytest.approx(loss.speedup.values)
    assert accuracy.speedup_whole.values == loss.speedup_whole.values
    assert accuracy.generalization_gaps == pytest.approx(loss.generalization_gaps)


def test_a_ratio_is_estimated_on_its_logarithm() -> None:
    # By hand: the logarithms to base 2 are 1, 3; t = 2 / (sqrt(2) / sqrt(2)) = 2, of one degree of freedom.
    assert ratio([2.0, 8.0]).value == pytest.approx(4.0)
    assert ratio([2.0, 8.0]).p == pytest.approx(1 - 2 / math.pi * math.atan(2.0))
    low, high = mean_interval([math.log(2.0), math.log(8.0)])
    assert (ratio([2.0, 8.0]).low, ratio([2.0, 8.0]).high) == pytest.approx((math.exp(low), math.exp(high)))
    assert math.isnan(ratio([]).value)
    assert ratio([2.0]).note == "one pair has no interval"


def test_a_ratio_that_is_the_same_in_all_pairs_is_shown_by_their_signs() -> None:
    """Eight of eight are faster: twice the chance of eight heads, 2 / 256. Four may be by chance, 2 / 16."""
    alike = ratio([2.0] * 8)
    assert (alike.low, alike.value, alike.high) == pytest.approx((2.0, 2.0, 2.0))
    assert alike.p == pytest.approx(2 / 256)
    assert ratio([0.5] * 4).p == pytest.approx(2 / 16)
    assert (ratio([1.0] * 8).p, ratio([1.0] * 8).note) == (None, "all pairs are the same")


def test_more_pairs_are_needed_for_several_configurations_than_for_one() -> None:
    differences = [0.0, 0.2, 0.9, 1.2, 1.4]
    members = [member([3.0, 2.0 - d]) for d in differences], [member([3.0, 2.0]) for _ in differences]
    runs = dict(enumerate(members[0])), dict(enumerate(members[1]))
    configurations = [compare_pairs(number, ("guided", "plain"), runs, LOSS) for number in range(4)]
    [alone] = apply_holm(configurations[:1])
    several = apply_holm(configurations)[0]
    assert alone.pairs_needed is not None and several.pairs_needed is not None  # noqa: PT018 (for the types)
    assert len(differences) < alone.pairs_needed < several.pairs_needed
    # They are stated for 1 % of what the control has, 2.0, and not for the gain that happened to be found.
    assert alone.needed_for == pytest.approx(0.02)
    assert alone.pairs_needed == pairs_needed(alone.final.values, 0.02)
    assert alone.needed_range == pairs_needed_range(alone.final.values, 0.02)


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
    # A run that has diverged gets nowhere, and counts with all epochs of a run.
    assert len(c.speedup.values) == len(c.speedup_whole.values) == 7
    assert (c.speedup_whole.values[6], c.never, c.never_second) == (0.0, 1, 0)
    assert c.speedup.values[6] < 1
    turned = compared(plain, [*guided, member([3.0], diverged=True)])
    assert (turned.diverged, turned.verdict) == ((0, 1), "not shown")
    assert (len(turned.speedup.values), turned.never_second) == (7, 1)
    assert len(turned.speedup_whole.values) == 6  # by the paper's count there is no final value to reach
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


def test_a_collapsed_run_counts_like_one_that_has_diverged() -> None:
    """The CNN of ten layers: one of eight guided networks is at chance from the first epoch on."""
    plain = [member([0.2, 0.41 + 0.003 * i], metric="accuracy") for i in range(8)]
    guided = [member([0.2, 0.41 + 0.003 * i + 0.004 * (-1) ** i], metric="accuracy") for i in range(7)]
    dead = member([0.1, 0.1], metric="accuracy")
    taken_as_whole = compared([*guided, dead], plain, ACCURACY)
    assert taken_as_whole.final.value < -0.03
    c = compared([*guided, Member(dead.history, collapsed=True)], plain, ACCURACY)
    assert (c.diverged, c.collapsed, c.lost, c.seeds) == ((0, 0), (1, 0), (1, 0), tuple(range(7)))
    assert abs(c.final.value) < 0.001
    assert c.final.high is not None
    assert c.final.high < 0.028, "the paper's gain is excluded"
    said = pair_verdict(c, "test_accuracy")
    assert f"a gain above {c.final.high:.2g} is excluded, equal within {c.equivalent_within:.2g}" in said
    assert said.endswith("; collapsed: 1 guided, 0 of the others.")
    better = compared([*[member([3.0, 1.0 + 0.01 * i]) for i in range(7)], Member(dead.history, collapsed=True)],
                      [member([3.0, 2.0 + 0.013 * i]) for i in range(8)])  # fmt: skip
    assert (better.verdict, better.final.significant) == ("not shown", True), "survivors are not better"


def test_arms_that_are_one_network_are_named_and_compared_once() -> None:
    rng = np.random.default_rng(5)
    arms = {name: dict(enumerate(member([3.0, x]) for x in rng.normal(2, 0.1, 5))) for name in ("guided", "plain")}
    arms |= {"strongest": arms["plain"], "dropout": dict(enumerate(member([3.0, x]) for x in rng.normal(2, 0.1, 5)))}
    pairs = [("guided", arm) for arm in ("plain", "strongest", "dropout")] + [("strongest", "plain")]
    found = [compare_pairs(1, pair, (arms[pair[0]], arms[pair[1]]), LOSS) for pair in pairs]
    plain, strongest, dropout, twins = apply_holm(found)
    assert [c.same_as for c in (plain, strongest, dropout, twins)] == [None, "plain", None, "strongest"]
    # The family has two members.
    ps = sorted([plain.final.p or 0.0, dropout.final.p or 0.0])
    assert min(plain.final.p_holm or 0.0, dropout.final.p_holm or 0.0) == pytest.approx(min(1.0, 2 * ps[0]))
    assert (strongest.final, strongest.verdict) == (plain.final, plain.verdict)
    assert pair_verdict(strongest, "test_loss") == (
        "Trial 1 against the strongest control: the same network as its plain control, compared once."
    )
    # Networks that are trained alike are one even where their numbers differ, as on a GPU.
    [first, second] = apply_holm([found[0], found[2]], {(1, "dropout"): "plain"})
    assert (second.same_as, second.final) == ("plain", first.final)


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
