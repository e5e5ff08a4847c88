"""Statistics of paired differences and ratios: intervals, tests, Holm's correction, equivalence, pairs needed.

An interval and its test are one statistic, so 0 lies in the 95 % interval if and only if p is at least 0.05.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALPHA, POWER = 0.05, 0.8
MAX_PAIRS = 1_000_000
SYMMETRIC = 8  # a sample's skewness counts as if it had so many more values without any


@dataclass(frozen=True)
class Estimate:
    """A mean or a median over pairs.

    Attributes:
        values: difference or ratio of each pair.
        low, high: ends of the 95 % interval; None if there is none.
        p: two-sided p-value of the hypothesis that there is no effect; None if it cannot be tested.
        p_holm: p-value after Holm's correction for all comparisons of the family.
        significant: True if ``p_holm`` is under 0.05.
    """

    values: tuple[float, ...]
    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    significant: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """The median over pairs, which one strange pair does not move; NaN without pairs."""
        return float(np.median(self.values)) if self.values else math.nan


def difference(values: Sequence[float]) -> Estimate:
    """Estimates the mean of paired differences, with its interval and a test of the hypothesis that it is 0.

    Example:
        Sleep gained with two drugs (Student 1908, ten patients), for which R reports p = 0.002833 and -2.46 to -0.70.
        The differences have a long lower tail, so the lower end is extended:

        >>> estimate = difference([-1.2, -2.4, -1.3, -1.3, 0.0, -1.0, -1.8, -0.8, -4.6, -1.4])
        >>> round(estimate.value, 2), round(estimate.low, 2), round(estimate.high, 2), round(estimate.p, 6)
        (-1.58, -2.76, -0.7, 0.002833)
    """
    values = tuple(map(float, values))
    if not values:
        return Estimate(values, math.nan, note="no pairs")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(values, mean, note="one pair has no interval")
    if not np.std(values):
        alike = "all pairs are the same" if values[0] == 0 else "all differences are the same: no spread to judge by"
        return Estimate(values, mean, note=alike)
    return Estimate(values, mean, *mean_interval(values), p=min(1.0, 2 * min(_tails(values, 0.0))))


def mean_interval(values: Sequence[float], level: float = 1 - ALPHA) -> tuple[float, float]:
    """Returns the interval of a mean: Student's, and wider on the side of a long tail.

    Each end is the outer one of Student's interval and of Hall's, which corrects t for skewness. So nothing is claimed
    that the t-test does not show, and few skewed pairs are covered too. Coverage: ``tests.benchmarks.coverage``.

    Source: Hall, On the removal of skewness by transformation, J. R. Statist. Soc. B 54 (1992).
    """
    from scipy.stats import t

    n, mean, a = len(values), float(np.mean(values)), _skewness(values)
    error, reach = float(np.std(values, ddof=1)) / math.sqrt(n), float(t.ppf((1 + level) / 2, n - 1))

    def uncorrected(found: float) -> float:  # the inverse of the transformation in `_tails`
        return 3 / a * (float(np.cbrt(1 + a * (found - a / 6))) - 1) if a else found

    return mean - max(reach, uncorrected(reach)) * error, mean + max(reach, -uncorrected(-reach)) * error


def _tails(values: Sequence[float], mean: float) -> tuple[float, float]:
    """Returns the one-sided p-values of the hypotheses that the mean is at least, and at most, a number."""
    from scipy.stats import t

    n, a = len(values), _skewness(values)
    student = (float(np.mean(values)) - mean) / float(np.std(values, ddof=1)) * math.sqrt(n)
    corrected = ((1 + a * student / 3) ** 3 - 1) / a + a / 6 if a else student
    return float(t.cdf(max(student, corrected), n - 1)), float(t.sf(min(student, corrected), n - 1))


def _skewness(values: Sequence[float]) -> float:
    """Returns the skewness over the square root of n, shrunk towards 0; exactly 0 if it is rounding error.

    The skewness of few values is mostly noise, which would stretch intervals without need.
    """
    from scipy.stats import skew

    n = len(values)
    found = float(skew(values)) * n / (n + SYMMETRIC) / math.sqrt(n)
    return found if abs(found) > 1e-6 else 0.0


def equivalence(values: Sequence[float], margin: float) -> float:
    """Returns the p-value of two one-sided tests that a mean difference lies within ``-margin`` to ``margin``.

    1.0 if fewer than two pairs differ.

    Source: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987).
    """
    if len(values) < 2 or not np.std(values):
        return 1.0
    return max(_tails(values, -margin)[1], _tails(values, margin)[0])


def equivalent_within(values: Sequence[float]) -> float | None:
    """Returns the smallest margin that `equivalence` shows at 5 %; None if fewer than two pairs differ."""
    if len(values) < 2 or not np.std(values):
        return None
    return max(map(abs, mean_interval(values, 1 - 2 * ALPHA)))


def ratio(values: Sequence[float]) -> Estimate:
    """Estimates the geometric mean of paired ratios, from the mean of their logarithms; no effect is 1.

    A sign test takes the place of the t-test if all ratios are equal.
    """
    values = tuple(map(float, values))
    logs = difference([math.log(value) for value in values])
    value = math.exp(logs.value)
    if len(values) > 1 and logs.p is None and value != 1:
        return Estimate(values, value, value, value, p=sign_test(values))
    if logs.low is None or logs.high is None:
        return Estimate(values, value, note=logs.note)
    return Estimate(values, value, math.exp(logs.low), math.exp(logs.high), p=logs.p)


def paper_ratio(values: Sequence[float]) -> Estimate:
    """Estimates the median of the paper's ratios, 0 for a network that never arrives; it has no test.

    Two equal networks exceed 1 by this count. The interval is that of order statistics, which needs six pairs.
    """
    from scipy.stats import quantile_test

    values = tuple(map(float, values))
    if not values:
        return Estimate(values, math.nan, note="no pairs")
    never = sum(value == 0 for value in values)
    ends = quantile_test(values).confidence_interval(1 - ALPHA)
    low, high = (float(end) if math.isfinite(end) else None for end in (ends.low, ends.high))
    note = f"{never} of {len(values)} never get there" if never else ""
    return Estimate(values, median_ratio(values), low, high, note=note)


def median_ratio(ratios: Sequence[float]) -> float:
    """Returns the median; of an even number, the geometric mean of the two middle ratios, so that a 0 stays a 0."""
    lower, upper = (np.quantile(ratios, 0.5, method=method) for method in ("lower", "higher"))
    return float(np.sqrt(lower * upper))


# -- several comparisons -----------------------------------------------------------------------------------------------


def holm(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Decides which comparisons of one family are significant; the chance of any wrong decision is at most 5 %.

    Those that cannot be tested do not count.
    """
    corrected = iter(holm_p([e.p for e in estimates if e.p is not None]))
    judged = []
    for estimate in estimates:
        p = None if estimate.p is None else next(corrected)
        judged.append(dataclasses.replace(estimate, p_holm=p, significant=p is not None and p < ALPHA))
    return judged


def holm_p(ps: Sequence[float]) -> list[float]:
    """Returns p-values after Holm's correction: the smallest of m times m, the next times m - 1, never falling.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    corrected, largest = list(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        corrected[i] = largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
    return corrected


def false_discovery(ps: Sequence[float | None]) -> list[float | None]:
    """Returns p-values of distinct studies after the correction of Benjamini and Hochberg; None stays None.

    Under 0.05, at most one in twenty claims is expected to be wrong.
    """
    from scipy.stats import false_discovery_control

    corrected = iter(false_discovery_control([p for p in ps if p is not None]).tolist())
    return [None if p is None else next(corrected) for p in ps]


def sign_test(ratios: Sequence[float]) -> float:
    """Returns the two-sided p-value of the exact sign test that ratios above and below 1 are equally likely."""
    from scipy.stats import binomtest

    faster, slower = sum(r > 1 for r in ratios), sum(r < 1 for r in ratios)
    return float(binomtest(faster, faster + slower).pvalue) if faster + slower else 1.0


# -- pairs needed ------------------------------------------------------------------------------------------------------


def pairs_needed(values: Sequence[float], difference: float | None = None, *, comparisons: int = 1) -> int | None:
    """Returns the number of pairs with which a two-sided paired t-test at 5 % has a power of 80 %.

    None if there is no spread, no difference, or more than a million pairs are needed.

    Args:
        values: differences; their standard deviation stands for that of the population.
        difference: the mean difference to detect; default: the mean of ``values``.
        comparisons: number of comparisons that share the 5 %; each is tested at the strictest of Holm's levels.

    Example:
        An effect of half a standard deviation needs 34 pairs (Cohen's tables, G*Power 3):

        >>> pairs_needed([0.5 - 0.5**0.5, 0.5 + 0.5**0.5])
        34
    """
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    effect = float(np.mean(values)) if len(values) and difference is None else difference or 0.0
    return _pairs_for(abs(effect) / spread, comparisons) if spread else None


def pairs_needed_range(
    values: Sequence[float], difference: float, *, comparisons: int = 1
) -> tuple[int | None, int | None]:
    """Returns the 95 % interval of `pairs_needed` that comes from the spread, which few pairs hardly determine.

    An end is None under the conditions of `pairs_needed`. The spread's interval is that of chi-square.
    """
    from scipy.stats import chi2

    n, spread = len(values), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if not spread:
        return None, None
    spreads = [spread * math.sqrt((n - 1) / chi2.ppf(1 - tail, n - 1)) for tail in (ALPHA / 2, 1 - ALPHA / 2)]
    low, high = (_pairs_for(abs(difference) / each, comparisons) for each in spreads)
    return low, high


def _pairs_for(effect: float, comparisons: int) -> int | None:
    """Returns the pairs that show an effect, given in standard deviations."""
    from scipy.stats import nct, t

    if not effect > 0:
        return None

    def power(n: int) -> float:
        threshold, shift = t.ppf(1 - ALPHA / comparisons / 2, n - 1), effect * math.sqrt(n)
        return float(nct.sf(threshold, n - 1, shift) + nct.cdf(-threshold, n - 1, shift))

    needed = 2 + bisect.bisect_left(range(2, MAX_PAIRS), POWER, key=power)
    return needed if needed < MAX_PAIRS else None
