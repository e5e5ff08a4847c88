"""Compares pairs of training runs on one seed, a guided network and its control for example. Pure functions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.sections import Objective
from .paired_tests import (
    ALPHA,
    Estimate,
    difference,
    equivalent_within,
    holm,
    holm_p,
    pairs_needed,
    pairs_needed_range,
    paper_ratio,
    ratio,
    sign_test,
)
from .speedup import Member, find_target, paper_speedup, times_to

ESTIMATES = ("final", "best", "speedup", "speedup_seconds", "speedup_whole")
STATED_GAIN = 0.01  # share of the second arm's mean, for which `pairs_needed` is given


@dataclass(frozen=True)
class PairedComparison:
    """First members of pairs against second members, on the test set.

    Attributes:
        diverged, collapsed: number of first and of second members that did. Such a pair has no gain.
        mcnemar_p: p-value of McNemar's exact test that both members are lost equally often, after Holm's correction.
        generalization_gaps: means of how much better the final metric is on the training set than on the test set. The
            training metric is the mean over the last epoch's steps.
        final: gain in the final metric, positive if the first member is better.
        best: gain in the best value over all epochs.
        target: value of the metric that both members are timed to, see `speedup.find_target`; None if there is none, or
            the confirmation is of a version that timed to each second member's own final value.
        speedup: epochs of the second member to the target over those of the first one, geometric mean. A member that
            never arrives counts with all epochs of a run, so the ratio is of restricted times.
        speedup_seconds: the same in seconds of training by the clock, which includes load of other programs.
        speedup_whole: the paper's count: all epochs of the second member, over those of the first to the second's final
            value. It exceeds 1 even for two equal networks, so it is not tested.
        never, never_second: number of first and of second members that never reach the target.
        pairs_needed: pairs that would show ``needed_for`` four times out of five; None if the gain is significant, or
            more than a million pairs are needed.
        needed_range: 95 % interval of that number.
        needed_for: the gain that it is stated for, in the metric's unit.
        same_as: the arm that the second member is the same network as: the first, or the second of a comparison before.
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
    collapsed: tuple[int, int] = (0, 0)
    target: float | None = None
    never_second: int = 0
    needed_range: tuple[int | None, int | None] = (None, None)
    needed_for: float | None = None
    same_as: str | None = None

    @property
    def first_name(self) -> str:
        """The name of the first member for people; beside default values it is the searched one, guided or not."""
        return "searched" if self.second == "default" else self.first

    @property
    def lost(self) -> tuple[int, int]:
        """Number of first and of second members without a result."""
        return self.diverged[0] + self.collapsed[0], self.diverged[1] + self.collapsed[1]

    @property
    def verdict(self) -> str:
        """The result: ``better``, ``worse`` or ``not shown``; the latter also if runs of the better arm are lost."""
        better = self.final.value > 0
        lost_runs = self.lost[0 if better else 1] > 0
        return "not shown" if not self.final.significant or lost_runs else "better" if better else "worse"

    @property
    def survives(self) -> str:
        """The result of McNemar's test on the first arm: ``more often``, ``less often`` or empty."""
        more = "more often" if self.lost[0] < self.lost[1] else "less often"
        return more if self.mcnemar_p < ALPHA else ""

    @property
    def equivalent_within(self) -> float | None:
        """The margin within which both arms are equal, by two one-sided tests at 5 %; None without an interval."""
        return equivalent_within(self.final.values)


def compare_pairs(
    number: int,
    arms: tuple[str, str],
    members: tuple[Mapping[int, Member], Mapping[int, Member]],
    objective: Objective,
    *,
    plain: Mapping[int, Member] | None = None,
) -> PairedComparison:
    """Compares the pairs of all seeds that both arms have, by the objective's metric on the test set.

    Args:
        number: the trial of the configuration.
        arms: names of the first and the second arm.
        members: runs of both arms by seed.
        objective: the study's objective, of the validation set.
        plain: runs of the plain control, whose improvement sets the target; default: the second arm.
    """
    metric = objective.metric.removeprefix("val_")
    test_metric, train_metric = f"test_{metric}", f"train_{metric}"
    sign = 1 if objective.direction == "maximize" else -1
    pairs = {seed: (members[0][seed], members[1][seed]) for seed in sorted(members[0].keys() & members[1].keys())}
    whole = {seed: pair for seed, pair in pairs.items() if not any(m.is_lost(test_metric) for m in pair)}
    curves = [tuple(sign * m.curve(test_metric) for m in pair) for pair in whole.values()]
    means, gaps = [], []
    for which in (0, 1):
        test = [pair[which].curve(test_metric)[-1] for pair in whole.values()]
        train = [pair[which].curve(train_metric)[-1] for pair in whole.values()]
        means.append(_mean(test))
        gaps.append(_mean([sign * (a - b) for a, b in zip(train, test, strict=True)]))
    collapsed = [tuple(m.collapsed and not m.diverged for m in pair) for pair in pairs.values()]
    lost = [tuple(m.is_lost(test_metric) for m in pair) for pair in pairs.values()]
    return PairedComparison(
        number=number,
        first=arms[0],
        second=arms[1],
        seeds=tuple(whole),
        diverged=(
            sum(a and not c for (a, _), (c, _) in zip(lost, collapsed, strict=True)),
            sum(b and not c for (_, b), (_, c) in zip(lost, collapsed, strict=True)),
        ),
        collapsed=(sum(a for a, _ in collapsed), sum(b for _, b in collapsed)),
        mcnemar_p=sign_test([1.0 + b - a for a, b in lost]),
        final_means=(means[0], means[1]),
        generalization_gaps=(gaps[0], gaps[1]),
        final=difference([a[-1] - b[-1] for a, b in curves]),
        best=difference([float(np.nanmax(a) - np.nanmax(b)) for a, b in curves]),
        **_timed(
            list(pairs.values()), find_target((plain or members[1]).values(), test_metric, sign=sign), test_metric, sign
        ),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _timed(pairs: Sequence[tuple[Member, Member]], target: float | None, name: str, sign: int) -> dict[str, Any]:
    """Returns the fields of a comparison that are about time."""
    epochs = max((len(run.history) for pair in pairs for run in pair), default=0)
    counted = [paper_speedup(*pair, name, sign=sign) for pair in pairs if not pair[1].is_lost(name)]
    timed = []
    if target is not None:
        timed = [tuple(times_to(run, name, target, sign=sign, epochs=epochs) for run in pair) for pair in pairs]
    by_epochs, by_seconds = (ratio([b[i] / a[i] for a, b in timed if a[i] > 0 and b[i] > 0]) for i in (0, 1))
    if pairs and target is None:
        note = "the plain control improves by less than its seeds differ: there is no target to time"
        by_epochs, by_seconds = (dataclasses.replace(each, note=note) for each in (by_epochs, by_seconds))
    return {
        "target": target,
        "speedup": by_epochs,
        "speedup_seconds": by_seconds,
        "speedup_whole": paper_ratio(counted),
        "never": sum(not a.arrived for a, _ in timed),
        "never_second": sum(not b.arrived for _, b in timed),
    }


# -- all comparisons of a confirmation ---------------------------------------------------------------------------------


def apply_holm(
    comparisons: Sequence[PairedComparison], same: Mapping[tuple[int, str], str] | None = None
) -> list[PairedComparison]:
    """Corrects all comparisons of a confirmation, and decides which are significant.

    Those of the guided network, with all opponents and of all configurations, are one family; the others are a second
    one. An opponent that is the same network as one before is compared once: it gets that one's result.

    Args:
        comparisons: the comparisons.
        same: arms that have the configuration of an arm before: (number, arm) -> that arm. Networks whose runs are
            equal in all pairs are found without it.
    """
    aliases = [_alias(c, comparisons[:i], same or {}) for i, c in enumerate(comparisons)]
    corrected = list(comparisons)
    for guided in (True, False):
        own = [i for i, c in enumerate(comparisons) if (c.first == "guided") == guided and aliases[i] is None]
        for i, c in zip(own, _corrected([comparisons[i] for i in own]), strict=True):
            corrected[i] = c
    for i, alias in enumerate(aliases):
        if isinstance(alias, int):
            second = comparisons[i].second
            corrected[i] = dataclasses.replace(corrected[alias], second=second, same_as=comparisons[alias].second)
        elif alias is not None:
            corrected[i] = dataclasses.replace(comparisons[i], same_as=alias)
    return corrected


def _alias(
    c: PairedComparison, before: Sequence[PairedComparison], same: Mapping[tuple[int, str], str]
) -> int | str | None:
    """Returns the place of a comparison with the same network as second, or the first arm if both are one network."""
    if same.get((c.number, c.first)) == c.second or same.get((c.number, c.second)) == c.first:
        return c.first
    still = not any((*c.final.values, *c.best.values)) and set(c.speedup.values) <= {1.0}
    if c.seeds and still and c.generalization_gaps[0] == c.generalization_gaps[1]:
        return c.first
    for i, other in enumerate(before):
        alike = same.get((c.number, c.second)) == other.second or (c.seeds and _runs(c) == _runs(other))
        if alike and (c.number, c.first) == (other.number, other.first):
            return i
    return None


def _runs(c: PairedComparison) -> tuple[object, ...]:
    """Returns all that a comparison holds of its runs: equal if the second arms are one network."""
    return c.seeds, c.final.values, c.best.values, c.speedup.values, c.generalization_gaps


def _corrected(family: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Applies Holm's correction to one family; a speed-up, the second question to the pairs, is corrected for both."""
    estimates = {name: holm([getattr(c, name) for c in family]) for name in ESTIMATES}
    for name in ("speedup", "speedup_seconds"):
        estimates[name] = holm([*(c.final for c in family), *(getattr(c, name) for c in family)])[len(family) :]
    survival = holm_p([c.mcnemar_p for c in family])
    tested = max(1, sum(c.final.p is not None for c in family))
    corrected = []
    for i, c in enumerate(family):
        own: dict[str, Any] = {name: estimates[name][i] for name in ESTIMATES}
        gain = STATED_GAIN * abs(c.final_means[1])
        if not own["final"].significant and gain > 0:
            own["pairs_needed"] = pairs_needed(c.final.values, gain, comparisons=tested)
            own["needed_range"] = pairs_needed_range(c.final.values, gain, comparisons=tested)
            own["needed_for"] = gain
        corrected.append(dataclasses.replace(c, mcnemar_p=survival[i], **own))
    return corrected
