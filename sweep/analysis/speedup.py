"""Times that training runs take to a target that both members of a pair may miss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..training.reports import EpochMetrics

SHARE = 0.95  # of the mean improvement
MISSED = 0.025  # share of runs of the same law that may miss the target

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """One run of a pair."""

    history: Sequence[EpochMetrics]
    diverged: bool = False
    collapsed: bool = False  # ended at the level of a constant predictor

    def curve(self, name: str) -> Floats:
        """Returns a metric by epoch; NaN for an epoch without it."""
        return np.array([epoch.values.get(name, math.nan) for epoch in self.history])

    def is_lost(self, name: str) -> bool:
        """Returns True for a run without a result: it diverged, collapsed, or has no finite metric at the end."""
        return self.diverged or self.collapsed or not len(self.history) or not math.isfinite(self.curve(name)[-1])


class Times(NamedTuple):
    """The time of a run to the target; of a run that never arrives, its whole length."""

    epochs: float
    seconds: float
    arrived: bool


def find_target(runs: Iterable[Member], name: str, *, sign: int) -> float | None:
    """Returns the value of a metric that runs are timed to; None if they improve by less than they differ.

    It is reached after 95 % of the runs' mean improvement from the first to the last epoch. Where runs differ so much
    that one in 40 would miss that, it is the value that one in 40 is predicted to miss.

    Args:
        runs: plain controls; those that are lost are left out.
        name: the metric.
        sign: 1 if the metric is maximised, -1 if it is minimised.
    """
    from scipy.stats import t

    curves = [sign * run.curve(name) for run in runs if not run.is_lost(name)]
    if not curves:
        return None
    n = len(curves)
    start, end = (float(np.mean([curve[i] for curve in curves])) for i in (0, -1))
    target = start + SHARE * (end - start)
    if n > 1:
        best = [float(np.nanmax(curve)) for curve in curves]
        reach = float(t.ppf(1 - MISSED, n - 1)) * float(np.std(best, ddof=1)) * math.sqrt(1 + 1 / n)
        target = min(target, float(np.mean(best)) - reach)
    return sign * target if target > start else None


def times_to(run: Member, name: str, target: float, *, sign: int, epochs: int) -> Times:
    """Returns the time of a run to a target, interpolated linearly between epochs.

    Args:
        run: the run; one that is lost never arrives.
        name: the metric.
        target: the value to reach.
        sign: 1 if the metric is maximised, -1 if it is minimised.
        epochs: epochs of a whole run, the time of a run that never arrives.
    """
    seconds = run.curve("seconds")
    clock = np.concatenate([[0.0], np.cumsum(seconds)])
    ahead = sign * (run.curve(name) - target)
    reached = np.flatnonzero(ahead >= 0)
    if run.is_lost(name) or not len(reached):
        return Times(float(epochs), epochs * float(np.mean(seconds)) if len(seconds) else math.nan, arrived=False)
    after = int(reached[0])  # index of the first epoch at the target
    behind = -ahead[after - 1] if after else 0.0
    step = behind / (behind + ahead[after]) if after and math.isfinite(behind) and behind + ahead[after] else 1.0
    time = after + step
    return Times(time, float(np.interp(time, np.arange(len(clock)), clock)), arrived=True)


def paper_speedup(first: Member, second: Member, name: str, *, sign: int) -> float:
    """Returns the paper's count: all epochs of the second run over those of the first to the second's final value.

    0 if the first run never arrives.
    """
    target = second.curve(name)[-1]
    arrivals = np.flatnonzero(sign * (first.curve(name) - target) >= 0)
    return 0.0 if first.is_lost(name) or not len(arrivals) else len(second.history) / (int(arrivals[0]) + 1)
