"""Times to a target: by hand, on runs of a known speed, and on equal networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.analysis.confirmation import pair_verdict
from sweep.analysis.paired_comparison import PairedComparison, apply_holm, compare_pairs
from sweep.analysis.paired_tests import paper_ratio
from sweep.analysis.speedup import Member, find_target, paper_speedup, times_to
from sweep.config.sections import Objective
from sweep.training.reports import EpochMetrics

LOSS = Objective(metric="val_loss", direction="minimize")


def member(test: Sequence[float], *, seconds: float = 1.0, **outcome: Any) -> Member:
    metrics = [{"test_loss": float(x), "train_loss": float(x), "seconds": seconds} for x in test]
    return Member([EpochMetrics(epoch, each, 0) for epoch, each in enumerate(metrics, 1)], **outcome)


def compared(first: Sequence[Member], second: Sequence[Member]) -> PairedComparison:
    members = dict(enumerate(first)), dict(enumerate(second))
    [comparison] = apply_holm([compare_pairs(7, ("guided", "plain"), members, LOSS)])
    return comparison


# -- the target --------------------------------------------------------------------------------------------------------


def test_the_target_is_95_percent_of_the_mean_improvement() -> None:
    """From 9 to 4 by the first run, from 11 to 4.2 by the second: 10 - 0.95 * (10 - 4.1)."""
    runs = [member([9, 6, 4.0]), member([11, 6, 4.2])]
    assert find_target(runs[:1], "test_loss", sign=-1) == pytest.approx(9 - 0.95 * 5)
    close = [member([9, 6, 4.0]), member([11, 6, 4.0])]
    assert find_target(close, "test_loss", sign=-1) == pytest.approx(10 - 0.95 * 6)
    lost = [member([9.0], diverged=True), member([9, 9, 9.0], collapsed=True), member([9, math.nan])]
    assert find_target([*close, *lost], "test_loss", sign=-1) == pytest.approx(10 - 0.95 * 6)


def test_where_runs_differ_it_is_what_one_in_forty_would_miss() -> None:
    """The best values are 1, 2, 3, 4, 5: mean 3, spread 1.581; t(4) is 2.776 at 97.5 %, from the table."""
    runs = [member([50, 20, x]) for x in (1, 2, 3, 4, 5)]
    reach = 2.7764 * math.sqrt(2.5) * math.sqrt(1 + 1 / 5)
    assert find_target(runs, "test_loss", sign=-1) == pytest.approx(3 + reach, rel=1e-3)
    upwards = [Member([EpochMetrics(m.epoch, {"a": -m.values["test_loss"]}, 0) for m in run.history]) for run in runs]
    assert find_target(upwards, "a", sign=1) == pytest.approx(-(3 + reach), rel=1e-3)


def test_runs_that_do_not_improve_have_no_target() -> None:
    assert find_target([member([3, 3, 3.0])] * 2, "test_loss", sign=-1) is None
    assert find_target([member([3.0, 2.9]), member([3.0, 1.0])], "test_loss", sign=-1) is None
    assert find_target([], "test_loss", sign=-1) is None
    c = compared([member([3.0, 3.0])] * 3, [member([3.0, 3.0])] * 3)
    assert (c.target, c.speedup.values, c.never) == (None, (), 0)
    assert c.speedup.note.startswith("the plain control improves by less than its seeds differ")


# -- times -------------------------------------------------------------------------------------------------------------


def test_a_time_is_interpolated_between_epochs() -> None:
    """From 8 to 4 between the second epoch and the third: 5 is three quarters of the way."""
    run = member([10, 8, 4, 2], seconds=2.0)
    assert times_to(run, "test_loss", 5.0, sign=-1, epochs=4) == (pytest.approx(2.75), pytest.approx(5.5), True)
    assert times_to(run, "test_loss", 4.0, sign=-1, epochs=4).epochs == pytest.approx(3.0)
    assert times_to(run, "test_loss", 10.0, sign=-1, epochs=4).epochs == 1.0, "no metric before the first epoch"
    broken = member([10, math.nan, 4, 2])
    assert times_to(broken, "test_loss", 5.0, sign=-1, epochs=4).epochs == 3.0


def test_a_run_that_never_arrives_counts_with_a_whole_run() -> None:
    assert times_to(member([10, 8]), "test_loss", 5.0, sign=-1, epochs=4) == (4.0, 4.0, False)
    diverged = member([10, 4, 3], diverged=True, seconds=0.5)
    assert times_to(diverged, "test_loss", 5.0, sign=-1, epochs=4) == (4.0, 2.0, False)
    assert times_to(member([]), "test_loss", 5.0, sign=-1, epochs=4).arrived is False


def test_a_first_that_never_arrives_is_told_by_a_bound_and_a_count() -> None:
    """Both targets are 1.15, which a control reaches after 3.85 of 4 epochs."""
    plain = [member([4, 3, 2, 1.0])] * 8
    never = compared([member([4, 4, 4, 4.0])] * 8, plain)
    assert (never.target, never.never, never.never_second) == (pytest.approx(1.15), 8, 0)
    assert never.speedup.values == pytest.approx([3.85 / 4] * 8)
    assert "; never reaches 1.15 in 8 of 8 pairs, the other in 0." in pair_verdict(never, "test_loss")
    there = compared([member([1.0, 1, 1, 1])] * 8, plain)
    assert there.speedup.value == pytest.approx(3.85)
    assert "; reaches 1.15 sooner, by 3.85x in epochs (3.85 to 3.85)." in pair_verdict(there, "test_loss")


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.sampled_from([0.25, 0.5, 2.0]))
def test_a_run_that_is_so_many_times_faster_has_this_speed_up(factor: int, epochs: int, slope: float) -> None:
    """On straight lines, where interpolation is exact; where its epochs take half as long, twice that in seconds."""
    slow = [100 - slope * epoch for epoch in range(1, factor * epochs * 4 + 1)]
    fast = [100 - slope * factor * epoch for epoch in range(1, factor * epochs * 4 + 1)]
    c = compared([member(fast, seconds=0.5)], [member(slow)])
    assert c.speedup.value == pytest.approx(factor)
    assert c.speedup_seconds.value == pytest.approx(2 * factor)
    assert c.speedup_whole.value == factor


def test_all_comparisons_of_a_configuration_have_the_plain_controls_target() -> None:
    plain, placebo, guided = ([member([9, 8, 7, x])] for x in (4.0, 5.0, 3.0))
    members = dict(enumerate(guided)), dict(enumerate(placebo))
    c = compare_pairs(0, ("guided", "placebo"), members, LOSS, plain=dict(enumerate(plain)))
    assert c.target == pytest.approx(9 - 0.95 * 5)
    assert (c.never, c.never_second) == (0, 1)


def test_two_equal_networks_are_neither_late_nor_sooner() -> None:
    """To each second member's own final value, ``never`` was what 45 % of such pairs got."""
    rng, never, pairs, covered = np.random.default_rng(0), 0, 0, 0
    for _ in range(100):
        speed, level = 0.3 * np.exp(0.1 * rng.normal(size=(16, 1))), 0.05 * rng.normal(size=(16, 1))
        curves = 1 + np.exp(-speed * np.arange(1, 21)) + level + 0.01 * rng.normal(size=(16, 20))
        c = compared([member(curve) for curve in curves[:8]], [member(curve) for curve in curves[8:]])
        assert c.speedup.low is not None
        assert c.speedup.high is not None
        never, pairs, covered = never + c.never, pairs + 8, covered + (c.speedup.low <= 1 <= c.speedup.high)
    assert never / pairs <= 0.05
    assert covered >= 95 - 2 * math.sqrt(100 * 0.05 * 0.95)


# -- the paper's count -------------------------------------------------------------------------------------------------


def test_the_papers_ratio_counts_all_epochs_of_the_second() -> None:
    plain, guided = member([9, 8, 4, 3, 2.5, 3.0]), member([9, 3.0, 3, 3, 3, 3])
    assert paper_speedup(guided, plain, "test_loss", sign=-1) == 6 / 2
    assert paper_speedup(plain, plain, "test_loss", sign=-1) == 6 / 4, "more than 1 of itself"
    assert paper_speedup(member([9, 9, 9.0]), plain, "test_loss", sign=-1) == 0.0


def test_the_papers_ratio_is_a_median_that_claims_nothing() -> None:
    assert paper_ratio([2.0, 8.0]).value == pytest.approx(4.0)
    assert paper_ratio([2.0, 3.0, 2.5, 2.2, 0.0]).value == 2.2
    assert paper_ratio([3.0, 0.0, 0.0]).value == 0.0
    assert paper_ratio([3.0, 0.0, 0.0]).note == "2 of 3 never get there"
    assert math.isnan(paper_ratio([]).value)
    # Order statistics: of six values, the smallest and the largest enclose the median in 1 - 2 / 64 of samples.
    six = paper_ratio([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert (six.low, six.high, six.p, six.significant) == (1.0, 1.5, None, False)
    assert paper_ratio([1.0, 1.1, 1.2, 1.3, 1.4]).low is None
