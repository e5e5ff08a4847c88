"""Statistics of paired differences and ratios: bootstrap intervals, tests, Holm's correction, pairs needed."""

from __future__ import annotations

import bisect
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHA, POWER = 0.05, 0.8
RESAMPLES = 9_999
MAX_PAIRS = 1_000_000

Floats = NDArray[np.float64]
Statistic = Callable[..., Floats]


@dataclass(frozen=True)
class Estimate:
    """A mean or a median over pairs.

    Attributes:
        values: difference or ratio of each pair.
        low, high: ends of the 95 % bootstrap interval (BCa); None if there is none.
        p: two-sided p-value of the hypothesis that there is no effect.
        p_holm: p-value after Holm's correction for the comparisons of all configurations.
        significant: True if the interval at the corrected level excludes no effect, and the corrected p-value agrees.
    """

    values: tuple[float, ...]
    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    significant: bool = False
    note: str = ""


def difference(values: Sequence[float]) -> Estimate:
    """Estimates the mean of paired differences, with a t-test of the hypothesis that the mean is 0.

    Example:
        Sleep gained with two drugs (Student 1908, ten patients), for which R reports p = 0.002833:

        >>> estimate = difference([-1.2, -2.4, -1.3, -1.3, 0.0, -1.0, -1.8, -0.8, -4.6, -1.4])
        >>> round(estimate.value, 2), round(estimate.p, 6)
        (-1.58, 0.002833)
    """
    values = tuple(map(float, values))
    if not values:
        return Estimate(values, math.nan, note="no pairs")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Estimate(values, mean, note="one pair has no interval")
    if len(set(values)) == 1:
        alike = "all pairs are the same" if values[0] == 0 else "all differences are the same: no spread to judge by"
        return Estimate(values, mean, note=alike)
    return Estimate(values, mean, *_interval(values, np.mean, 1 - ALPHA), p=_t_test(values))


def ratio(values: Sequence[float]) -> Estimate:
    """Estimates the median of paired ratios, with a t-test of their logarithms that the ratio is 1.

    A sign test takes the place of the t-test if a ratio is 0 or all ratios are equal.
    """
    values = tuple(map(float, values))
    if not values:
        return Estimate(values, math.nan, note="no pairs")
    median, never, alike = float(median_ratio(values)), sum(value == 0 for value in values), len(set(values)) == 1
    note = f"{never} of {len(values)} never get there" if never else ""
    if len(values) == 1:
        return Estimate(values, median, note="; ".join(filter(None, (note, "one pair has no interval"))))
    p = sign_test(values) if never or alike else _t_test([math.log(value) for value in values])
    note = note or ("all pairs are the same" if alike else "")
    return Estimate(values, median, *_interval(values, median_ratio, 1 - ALPHA), p=p, note=note)


def median_ratio(ratios: Sequence[float] | Floats, axis: int = -1) -> Floats:
    """Returns the median; of an even number, the geometric mean of the two middle ratios, so that a 0 stays a 0."""
    lower, upper = (np.quantile(ratios, 0.5, axis=axis, method=method) for method in ("lower", "higher"))
    return np.asarray(np.sqrt(lower * upper))


def holm(estimates: Sequence[Estimate], *, no_effect: float, statistic: Statistic) -> list[Estimate]:
    """Decides which of several comparisons are significant by Holm's procedure: smallest p first, until one fails.

    The k-th of m comparisons needs an interval of level 1 - 0.05 / (m - k + 1). So the chance of any wrong decision is
    at most 0.05. No effect is 0 for differences and 1 for ratios; ``statistic`` made the estimates from their values.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    ps = [1.0 if estimate.p is None else estimate.p for estimate in estimates]
    found, corrected, going = list(estimates), holm_p(ps), True
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        estimate, left = estimates[i], len(estimates) - rank
        low, high = estimate.low, estimate.high
        if estimate.p is None or low is None or high is None:
            continue
        if left > 1:
            low, high = _interval(estimate.values, statistic, 1 - ALPHA / left)
        going = going and corrected[i] < ALPHA and not low <= no_effect <= high
        found[i] = dataclasses.replace(estimate, p_holm=corrected[i], significant=going)
    return found


def holm_p(ps: Sequence[float]) -> list[float]:
    """Returns p-values after Holm's correction: the smallest of m times m, the next times m - 1, never falling."""
    corrected, largest = list(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        corrected[i] = largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
    return corrected


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
    from scipy.stats import nct, t

    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    effect = abs(float(np.mean(values)) if difference is None else difference) / spread if spread else 0.0
    if not effect > 0:
        return None

    def power(n: int) -> float:
        threshold, shift = t.ppf(1 - ALPHA / comparisons / 2, n - 1), effect * math.sqrt(n)
        return float(nct.sf(threshold, n - 1, shift) + nct.cdf(-threshold, n - 1, shift))

    needed = 2 + bisect.bisect_left(range(2, MAX_PAIRS), POWER, key=power)
    return needed if needed < MAX_PAIRS else None


def _interval(values: Sequence[float], statistic: Statistic, level: float) -> tuple[float, float]:
    """Returns the BCa bootstrap interval (Efron, JASA 82, 1987); percentiles if the jackknife has no spread."""
    from scipy.stats import bootstrap

    if len(set(values)) == 1:  # every resample is the same
        return values[0], values[0]
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the jackknife of a median may have no spread
            found = bootstrap(
                (np.array(values),),
                statistic,
                confidence_level=level,
                n_resamples=RESAMPLES,
                method=method,
                rng=np.random.default_rng(0),  # the same pairs get the same interval
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return float(found.low), float(found.high)


def _t_test(values: Sequence[float]) -> float:
    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # differences that are nearly equal lose precision
        return float(ttest_1samp(values, 0.0).pvalue)


def sign_test(ratios: Sequence[float]) -> float:
    """Returns the two-sided p-value of the exact sign test that ratios above and below 1 are equally likely."""
    from scipy.stats import binomtest

    faster, slower = sum(r > 1 for r in ratios), sum(r < 1 for r in ratios)
    return float(binomtest(faster, faster + slower).pvalue) if faster + slower else 1.0
