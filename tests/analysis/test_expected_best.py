"""The best of n trials: by enumeration of all draws, and what counts as a trial."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.analysis.expected_best import best_of_design, budgets, expected_best

from ..support.records import point, row


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 20).map(float), min_size=1, max_size=4))
def test_it_is_what_all_draws_give(values: list[float]) -> None:
    for maximize in (False, True):
        best = max if maximize else min
        mean, low, high = expected_best(values, maximize=maximize)
        for n in range(1, len(values) + 1):
            drawn = sorted(best(draw) for draw in itertools.product(values, repeat=n))
            assert mean[n - 1] == pytest.approx(statistics.fmean(drawn))
            for end, share in ((low, 0.05), (high, 0.95)):
                below = sum(x < end[n - 1] - 1e-9 for x in drawn) / len(drawn)
                upto = sum(x <= end[n - 1] + 1e-9 for x in drawn) / len(drawn)
                assert below <= share + 1e-9 and share - 1e-9 <= upto  # noqa: PT018 (a quantile)


def test_design_trials_count_and_those_that_are_lost_are_the_worst() -> None:
    values = point(0.1, 1)
    rows = [
        row(0, 0.5, values, design=True),
        row(1, 0.3, values, design=True),
        row(2, None, values, design=True, outcome="diverged"),
        row(3, None, values, design=True, outcome="failed"),
        row(4, None, values, design=True, state="running", outcome=None),
        row(5, 0.1, values),
    ]
    found = best_of_design(rows, maximize=False)
    assert found is not None
    assert (found.trials, found.lost) == (3, 1)
    assert found.mean[0] == pytest.approx((0.5 + 0.3 + 0.5) / 3)
    assert found.mean[1] == pytest.approx((4 * 0.5 + 5 * 0.3) / 9)
    assert best_of_design(rows[2:], maximize=False) is None


def test_a_table_shows_powers_of_two_and_the_largest() -> None:
    assert [budgets(n) for n in (0, 1, 2, 5, 8)] == [[], [1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]
