"""Compares pairs of training runs on one seed, a guided network and its control for example. Pure functions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.sections import Objective
from ..training.reports import EpochMetrics
from .paired_tests import (
    ALPHA,
    Estimate,
    Floats,
    difference,
    holm,
    holm_p,
    median_ratio,
    pairs_needed,
    ratio,
    sign_test,
)

ESTIMATES = ("final", "best", "speedup", "speedup_seconds", "speedup_whole")


@dataclass(frozen=True)
class Member:
    """One run of a pair."""

    history: Sequence[EpochMetrics]
    diverged: bool = False

    def curve(self, name: str) -> Floats:
        """Returns a metric by epoch; NaN for an epoch without it."""
        return np.array([epoch.values.get(name, math.nan) for epoch in self.history])


@dataclass(frozen=True)
class PairedComparison:
    """First members of pairs against second members, on the test set.

    Attributes:
        diverged: number of first and of second members that diverged. Such a pair has no gain; a diverged first
            member has the speed-up 0.
        mcnemar_p: p-value of McNemar's exact test that both members diverge equally often, after Holm's correction.
        generalization_gaps: means of how much better the final metric is on the training set than on the test set. The
            training metric is the mean over the last epoch's steps.
        final: gain in the final metric, positive if the first member is better.
        best: gain in the best value over all epochs.
        speedup: epochs in which the second member reaches its final value, divided by the epochs in which the first
            one reaches it. A first member that never does counts as 0, less than any speed-up: the median is exact as
            long as fewer than half of the pairs do so.
        speedup_seconds: the same in seconds of training by the clock, which includes load of other programs.
        speedup_whole: the paper's count: all epochs of the second member in place of those that it needs. It exceeds 1
            even for two equal runs if the metric is noisy or gets worse in the end.
        never: number of first members that never reach the second one's final value.
        pairs_needed: pairs that would show a gain of this size and spread four times out of five; None if the gain is
            significant, or more than a million pairs are needed.
    """

    number: int
    first: str
    second: str
    seeds: tuple[int, ...]
    diverged: tuple[int, int]
    mcnemar_p: float
    final_means: tuple[float, float]
    generalization_gaps: tuple[float, float]
    final: Estimate
    best: Estimate
    speedup: Estimate
    speedup_seconds: Estimate
    speedup_whole: Estimate
    never: int
    pairs_needed: int | None = None

    @property
    def verdict(self) -> str:
        """The result: ``better``, ``worse`` or ``not shown``; the latter also if runs of the better arm diverged."""
        better = self.final.value > 0
        lost_runs = self.diverged[0 if better else 1] > 0
        return "not shown" if not self.final.significant or lost_runs else "better" if better else "worse"

    @property
    def survives(self) -> str:
        """The result of McNemar's test on the first arm: ``more often``, ``less often`` or empty."""
        more = "more often" if self.diverged[0] < self.diverged[1] else "less often"
        return more if self.mcnemar_p < ALPHA else ""


def compare_pairs(
    number: int, arms: tuple[str, str], members: tuple[Mapping[int, Member], Mapping[int, Member]], objective: Objective
) -> PairedComparison:
    """Compares the pairs of all seeds that both arms have, by the objective's metric on the test set.

    ``number`` is the trial of the configuration; ``members`` are the runs of both arms by seed.
    """
    metric = objective.metric.removeprefix("val_")
    test_metric, train_metric = f"test_{metric}", f"train_{metric}"
    sign = 1 if objective.direction == "maximize" else -1
    pairs = {seed: (members[0][seed], members[1][seed]) for seed in sorted(members[0].keys() & members[1].keys())}
    lost = [[_is_lost(member, test_metric) for member in pair] for pair in pairs.values()]
    whole = {seed: pair for (seed, pair), gone in zip(pairs.items(), lost, strict=True) if not any(gone)}
    paced = [pair for pair, (_, gone) in zip(pairs.values(), lost, strict=True) if not gone]
    curves = [tuple(sign * m.curve(test_metric) for m in pair) for pair in whole.values()]
    speedups = [_speedups(*pair, name=test_metric, sign=sign) for pair in paced]
    means, gaps = [], []
    for which in (0, 1):
        test = [pair[which].curve(test_metric)[-1] for pair in whole.values()]
        train = [pair[which].curve(train_metric)[-1] for pair in whole.values()]
        means.append(_mean(test))
        gaps.append(_mean([sign * (a - b) for a, b in zip(train, test, strict=True)]))
    by_epochs, by_seconds, by_whole = (ratio([s[i] for s in speedups]) for i in range(3))
    return PairedComparison(
        number=number,
        first=arms[0],
        second=arms[1],
        seeds=tuple(whole),
        diverged=(sum(a for a, _ in lost), sum(b for _, b in lost)),
        mcnemar_p=sign_test([1.0 + b - a for a, b in lost]),
        final_means=(means[0], means[1]),
        generalization_gaps=(gaps[0], gaps[1]),
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
    """Returns the speed-up by epochs, by seconds, and by the paper's count; 0 if the first run never arrives."""
    target = sign * second.curve(name)[-1]
    arrivals = [np.flatnonzero(sign * member.curve(name) >= target) for member in (first, second)]
    if _is_lost(first, name) or not len(arrivals[0]):
        return 0.0, 0.0, 0.0
    epochs = [int(arrival[0]) + 1 for arrival in arrivals]
    seconds = [float(m.curve("seconds")[:n].sum()) for m, n in zip((first, second), epochs, strict=True)]
    return epochs[1] / epochs[0], seconds[1] / seconds[0], len(second.history) / epochs[0]


def apply_holm(comparisons: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Corrects comparisons of the same two arms for all configurations, and decides which are significant."""
    estimates = {}
    for name in ESTIMATES:
        no_effect, statistic = (1.0, median_ratio) if name.startswith("speedup") else (0.0, np.mean)
        estimates[name] = holm([getattr(c, name) for c in comparisons], no_effect=no_effect, statistic=statistic)
    corrected = []
    for i, (c, p) in enumerate(zip(comparisons, holm_p([c.mcnemar_p for c in comparisons]), strict=True)):
        own: dict[str, Any] = {name: estimates[name][i] for name in ESTIMATES}
        missing = not own["final"].significant
        needed = pairs_needed(c.final.values, comparisons=len(comparisons)) if missing else None
        corrected.append(dataclasses.replace(c, mcnemar_p=p, pairs_needed=needed, **own))
    return corrected
