"""What pairs of training runs say: gains and speed-ups with intervals over the pairs, and tests. Pure functions.

A pair is two runs of one seed, its first and its second member: a guided network and its control, say.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..config.sections import Objective
from ..training.reports import EpochMetrics

ALPHA, POWER = 0.05, 0.8
RESAMPLES = 9_999
MOST_PAIRS = 1_000_000

Floats = NDArray[np.float64]
Statistic = Callable[..., Floats]


@dataclass(frozen=True)
class Member:
    """One run of a pair.

    Attributes:
        history: its epochs, in order.
        diverged: whether its loss was not finite at last.
    """

    history: Sequence[EpochMetrics]
    diverged: bool = False

    def curve(self, name: str) -> Floats:
        """A metric by epoch; NaN where it is not there."""
        return np.array([epoch.values.get(name, math.nan) for epoch in self.history])


@dataclass(frozen=True)
class Estimate:
    """A mean or a median over pairs.

    Attributes:
        values: of each pair.
        value: their mean or median.
        low, high: its 95 % interval by the bootstrap (BCa); None where there is none.
        p: of the test, two-sided, that there is no effect.
        p_holm: the same, corrected for the comparisons of all configurations.
        clear: whether there is an effect: the interval, as wide as the correction wants it, excludes no effect, and
            the test agrees.
        note: what a reader must know of it.
    """

    values: tuple[float, ...]
    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    clear: bool = False
    note: str = ""


@dataclass(frozen=True)
class PairedComparison:
    """First members of pairs against the second ones, on the test set.

    Attributes:
        number: trial of the configuration.
        first, second: what they are.
        seeds: of the pairs that are compared.
        diverged: how many of either have diverged; such a pair has no gain, and a first member no speed-up but 0.
        survival: p, corrected for all configurations, of the exact test that both diverge as often (McNemar's).
        levels: means of the final metric.
        gaps: means of how much better the metric of the training set is than that of the test set, both final; the
            former is the mean over the last epoch's steps.
        final: gain in the final metric, positive where the first is better.
        best: gain in the best one over the run.
        speedup: epochs in which the second reaches its final value, over those in which the first reaches it. 0 for
            never, which is less than any speed-up: its median is exact as long as that is less than half of the pairs.
        speedup_seconds: the same in seconds of training, by the clock: what else a shared machine had to do is in it.
        speedup_whole: the paper's: all epochs of the second over those of the first. More than 1 also for two runs
            that are the same, where the metric is noisy or gets worse in the end.
        never: how many of the first members do not get there.
        needed: pairs with which a gain of this size and spread would be found four times out of five; None where it is
            found, or beyond a million.
    """

    number: int
    first: str
    second: str
    seeds: tuple[int, ...]
    diverged: tuple[int, int]
    survival: float
    levels: tuple[float, float]
    gaps: tuple[float, float]
    final: Estimate
    best: Estimate
    speedup: Estimate
    speedup_seconds: Estimate
    speedup_whole: Estimate
    never: int
    needed: int | None = None

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``not shown``, which it also is where the better ones are those that survived."""
        better = self.final.value > 0
        survivors = self.diverged[0 if better else 1] > 0
        return "not shown" if not self.final.clear or survivors else "better" if better else "worse"

    @property
    def survives(self) -> str:
        """``more often`` or ``less often`` than the second; empty where that is not shown."""
        more = "more often" if self.diverged[0] < self.diverged[1] else "less often"
        return more if self.survival < ALPHA else ""


def compare_pairs(
    number: int, arms: tuple[str, str], members: tuple[Mapping[int, Member], Mapping[int, Member]], objective: Objective
) -> PairedComparison:
    """Compares the pairs of the seeds that both have.

    Args:
        number: trial of the configuration.
        arms: names of the first and of the second.
        members: theirs, by seed.
        objective: of the study; its metric is taken of the test set.
    """
    name = objective.metric.removeprefix("val_")
    sign = 1 if objective.direction == "maximize" else -1
    pairs = {seed: (members[0][seed], members[1][seed]) for seed in sorted(members[0].keys() & members[1].keys())}
    lost = [[_is_lost(member, f"test_{name}") for member in pair] for pair in pairs.values()]
    whole = {seed: pair for (seed, pair), gone in zip(pairs.items(), lost, strict=True) if not any(gone)}
    paced = [pair for pair, (_, gone) in zip(pairs.values(), lost, strict=True) if not gone]
    curves = [tuple(sign * m.curve(f"test_{name}") for m in pair) for pair in whole.values()]
    speedups = [_speedups(*pair, name=f"test_{name}", sign=sign) for pair in paced]
    levels, gaps = [], []
    for which in (0, 1):
        test = [pair[which].curve(f"test_{name}")[-1] for pair in whole.values()]
        train = [pair[which].curve(f"train_{name}")[-1] for pair in whole.values()]
        levels.append(_mean(test))
        gaps.append(_mean([sign * (a - b) for a, b in zip(train, test, strict=True)]))
    by_epochs, by_seconds, by_whole = (ratio([s[which] for s in speedups]) for which in range(3))
    return PairedComparison(
        number=number,
        first=arms[0],
        second=arms[1],
        seeds=tuple(whole),
        diverged=(sum(a for a, _ in lost), sum(b for _, b in lost)),
        survival=_sign_test([1.0 + b - a for a, b in lost]),
        levels=(levels[0], levels[1]),
        gaps=(gaps[0], gaps[1]),
        final=difference([a[-1] - b[-1] for a, b in curves]),
        best=difference([float(np.nanmax(a) - np.nanmax(b)) for a, b in curves]),
        speedup=by_epochs,
        speedup_seconds=by_seconds,
        speedup_whole=by_whole,
        never=sum(s[0] == 0 for s in speedups),
    )


def _is_lost(member: Member, name: str) -> bool:
    return member.diverged or not len(member.history) or not math.isfinite(member.curve(name)[-1])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _speedups(first: Member, second: Member, *, name: str, sign: int) -> tuple[float, float, float]:
    """By epochs, by seconds, and as the paper has it; 0 where the first never reaches the second's final value."""
    target = sign * second.curve(name)[-1]
    arrivals = [np.flatnonzero(sign * member.curve(name) >= target) for member in (first, second)]
    if _is_lost(first, name) or not len(arrivals[0]):
        return 0.0, 0.0, 0.0
    epochs = [int(arrival[0]) + 1 for arrival in arrivals]
    seconds = [float(m.curve("seconds")[:n].sum()) for m, n in zip((first, second), epochs, strict=True)]
    return epochs[1] / epochs[0], seconds[1] / seconds[0], len(second.history) / epochs[0]


# -- estimates ---------------------------------------------------------------------------------------------------------


def difference(values: Sequence[float]) -> Estimate:
    """The mean of differences, with a paired t-test that it is 0."""
    values = tuple(map(float, values))
    if not values:
        return Estimate(values, math.nan, note="no pairs")
    estimate = Estimate(values, float(np.mean(values)))
    if len(values) == 1:
        return dataclasses.replace(estimate, note="one pair has no interval")
    if len(set(values)) == 1:
        alike = "all pairs are the same" if values[0] == 0 else "all differences are the same: no spread to judge by"
        return dataclasses.replace(estimate, note=alike)
    low, high = _interval(values, np.mean, 1 - ALPHA)
    return dataclasses.replace(estimate, low=low, high=high, p=_t_test(values))


def ratio(values: Sequence[float]) -> Estimate:
    """The median of ratios, with a paired t-test of their logarithms that it is 1.

    With a 0 among them, or where all are the same, it is a sign test.
    """
    values = tuple(map(float, values))
    if not values:
        return Estimate(values, math.nan, note="no pairs")
    estimate = Estimate(values, float(median_ratio(values)))
    never = sum(value == 0 for value in values)
    note = f"{never} of {len(values)} never get there" if never else ""
    if len(values) == 1:
        return dataclasses.replace(estimate, note="; ".join(filter(None, (note, "one pair has no interval"))))
    low, high = _interval(values, median_ratio, 1 - ALPHA)
    alike = len(set(values)) == 1
    p = _sign_test(values) if never or alike else _t_test([math.log(value) for value in values])
    note = note or ("all pairs are the same" if alike else "")
    return dataclasses.replace(estimate, low=low, high=high, p=p, note=note)


def median_ratio(ratios: Sequence[float] | Floats, axis: int = -1) -> Floats:
    """The median of ratios; of an even number the geometric mean of the two in the middle, so that a 0 stays one."""
    lower, upper = (np.quantile(ratios, 0.5, axis=axis, method=method) for method in ("lower", "higher"))
    return np.asarray(np.sqrt(lower * upper))


def holm(estimates: Sequence[Estimate], *, no_effect: float, statistic: Statistic) -> list[Estimate]:
    """Decides which of several comparisons show an effect, by Holm's procedure: the smallest p first, until one fails.

    The k-th of m has an interval of level 1 - 0.05 / (m - k + 1), so that 0.05 bounds the chance of any wrong one.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    ps = [1.0 if estimate.p is None else estimate.p for estimate in estimates]
    found, corrected, going = list(estimates), _holm(ps), True
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        estimate, left = estimates[i], len(estimates) - rank
        if estimate.p is None or estimate.low is None or estimate.high is None:
            continue
        low, high = estimate.low, estimate.high
        if left > 1:
            low, high = _interval(estimate.values, statistic, 1 - ALPHA / left)
        going = going and corrected[i] < ALPHA and not low <= no_effect <= high
        found[i] = dataclasses.replace(estimate, p_holm=corrected[i], clear=going)
    return found


def _holm(ps: Sequence[float]) -> list[float]:
    """P values, corrected by Holm's procedure."""
    corrected, largest = list(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        corrected[i] = largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
    return corrected


def apply_holm(comparisons: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Comparisons of the same two members for several configurations, with what holds of all of them together."""
    decided = list(comparisons)
    for name, no_effect, statistic in (
        ("final", 0.0, np.mean),
        ("best", 0.0, np.mean),
        ("speedup", 1.0, median_ratio),
        ("speedup_seconds", 1.0, median_ratio),
        ("speedup_whole", 1.0, median_ratio),
    ):
        estimates = holm([getattr(c, name) for c in comparisons], no_effect=no_effect, statistic=statistic)
        pairs = zip(decided, estimates, strict=True)
        decided = [dataclasses.replace(c, **{name: e}) for c, e in pairs]  # type: ignore[arg-type]
    survival = _holm([c.survival for c in decided])
    decided = [dataclasses.replace(c, survival=p) for c, p in zip(decided, survival, strict=True)]
    needed = [None if c.final.clear else pairs_needed(c.final.values, comparisons=len(decided)) for c in decided]
    return [dataclasses.replace(c, needed=n) for c, n in zip(decided, needed, strict=True)]


def pairs_needed(values: Sequence[float], difference: float | None = None, *, comparisons: int = 1) -> int | None:
    """Pairs with which a paired t-test at 5 %, two-sided, finds a mean difference in 80 % of all cases.

    Args:
        values: differences, whose spread is taken for that of the population.
        difference: the mean to be found; default: that of ``values``.
        comparisons: how many the 5 % are for; each is tested at its share, the strictest of Holm's levels.

    Returns:
        None beyond a million, and where there is no spread, or nothing to find.
    """
    from scipy.stats import nct, t

    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    effect = abs(float(np.mean(values)) if difference is None else difference) / spread if spread else 0.0
    if not effect > 0:
        return None

    def power(n: int) -> float:
        threshold, shift = t.ppf(1 - ALPHA / comparisons / 2, n - 1), effect * math.sqrt(n)
        return float(nct.sf(threshold, n - 1, shift) + nct.cdf(-threshold, n - 1, shift))

    needed = 2 + bisect.bisect_left(range(2, MOST_PAIRS), POWER, key=power)
    return needed if needed < MOST_PAIRS else None


def _interval(values: Sequence[float], statistic: Statistic, level: float) -> tuple[float, float]:
    """The bias-corrected and accelerated bootstrap interval; the percentiles' where the jackknife shows no spread.

    Source: Efron, Better bootstrap confidence intervals, JASA 82 (1987).
    """
    from scipy.stats import bootstrap

    if len(set(values)) == 1:  # of which every sample is the same
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
                rng=np.random.default_rng(0),  # the same pairs have the same interval
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return float(found.low), float(found.high)


def _t_test(values: Sequence[float]) -> float:
    from scipy.stats import ttest_1samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of differences that are nearly the same
        return float(ttest_1samp(values, 0.0).pvalue)


def _sign_test(ratios: Sequence[float]) -> float:
    from scipy.stats import binomtest

    faster, slower = sum(r > 1 for r in ratios), sum(r < 1 for r in ratios)
    return float(binomtest(faster, faster + slower).pvalue) if faster + slower else 1.0
