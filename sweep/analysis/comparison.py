"""Compares the finalists with their controls on fresh seeds, and words the result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from ..study.finalists import best_rows, chosen_rows, fresh_seeds, ranked_rows, tuned_space, tuning_rows, unguided
from ..study.records import Kind, TrialRecord
from .formats import format_params


@dataclass(frozen=True)
class Sample:
    """The objective of one configuration by seed."""

    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds; NaN without any."""
        return statistics.fmean(self.values.values()) if self.values else float("nan")

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds; NaN with fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else float("nan")

    def gain_over(self, other: Sample, *, sign: int) -> Sample:
        """Returns the gains on common seeds; ``sign`` is 1 if the objective is maximised, -1 if it is minimised."""
        return Sample({s: sign * (v - other.values[s]) for s, v in self.values.items() if s in other.values})


@dataclass(frozen=True)
class Finalist:
    """One of the best configurations and its controls, on fresh seeds."""

    number: int
    hyperparameters: dict[str, Scalar]
    guided: Sample
    plain: Sample
    tuned: Sample
    gain_over_plain: Sample
    gain_over_tuned: Sample


@dataclass(frozen=True)
class FinalistComparison:
    """The finalists, and the origin of the tuned control."""

    finalists: list[Finalist]  # the best on fresh seeds first
    tuned_trials: int  # those that tried an initialisation and a learning rate for the tuned control
    tuned: dict[str, Scalar] | None  # hyperparameters of the best of those trials; None if none of them completed


def compare_finalists(
    config: StudyConfig, search: Sequence[TrialRecord], controls: Sequence[TrialRecord]
) -> FinalistComparison:
    """Compares the finalists of the present best configurations with their controls.

    The best on fresh seeds comes first, and the tuned control is that one's.
    """
    sign = 1 if config.objective.direction == "maximize" else -1
    chosen = {row.number for row in chosen_rows(config, search)}
    ranked = ranked_rows(config, search, controls)
    top = [row for row in ranked if row.number in chosen]
    seeds = set(fresh_seeds(config))
    tuning = tuning_rows(config, top[0], controls) if top else []
    best_tuned = next((row.hyperparameters for row in best_rows(config, tuning, 1)), None)

    def sample(kind: Kind, hyperparameters: Mapping[str, Scalar]) -> Sample:
        rows = [r for r in controls if r.kind == kind and r.hyperparameters == hyperparameters and r.seed in seeds]
        return Sample({r.seed: r.value for r in rows if r.outcome == "completed" and r.value is not None})

    finalists = []
    tuned = Sample({}) if best_tuned is None else sample("tuned", best_tuned)
    for row in top:
        guided = sample("finalist", row.hyperparameters)
        plain = sample("control", unguided({**config.constants, **row.hyperparameters}))
        gains = guided.gain_over(plain, sign=sign), guided.gain_over(tuned, sign=sign)
        finalists.append(Finalist(row.number, row.hyperparameters, guided, plain, tuned, *gains))
    return FinalistComparison([f for f in finalists if f.guided.values], len(tuning), best_tuned)


def finalist_verdicts(config: StudyConfig, comparison: FinalistComparison) -> list[str]:
    """Returns sentences on the best configuration: its gain over each control, and the limits of the sample."""
    if not comparison.finalists:
        return []
    first = comparison.finalists[0]
    plain = "its plain control (the same network without guidance)"
    sentences = [gain_verdict(first.gain_over_plain, plain)] if config.guided else []
    if comparison.tuned:
        own = {k: v for k, v in comparison.tuned.items() if k in tuned_space(config, config.constants)}
        trials = "one trial" if comparison.tuned_trials == 1 else f"{comparison.tuned_trials} trials"
        sentences.append(gain_verdict(first.gain_over_tuned, f"a control tuned in {trials} ({format_params(own)})"))
    n = config.search.finalists.seeds
    sample = f"{n} seed{'s are' if n > 1 else ' is'} a small sample"
    if (several := len(comparison.finalists)) > 1:
        sample += f", by which it is the best of {several} finalists"
    indication = "on the validation set: an indication, not a test. For a test: sweep confirm."
    return [*sentences, f"{sample}, {indication}"]


def gain_verdict(gain: Sample, control: str) -> str:
    """Returns one sentence: a difference is claimed only if the 95 % interval of its mean excludes 0."""
    from scipy.special import stdtrit  # the quantile of Student's t; scipy.stats takes half a second

    values = gain.values.values()
    if not values:
        return f"The best configuration could not be compared with {control}."
    wins, n = sum(v > 0 for v in values), len(values)
    # Half the width of the interval, by Student's t; NaN with one value, which no mean exceeds.
    clear = abs(gain.mean) > float(stdtrit(n - 1, 0.975)) * gain.spread / math.sqrt(n)
    direction = "better" if gain.mean > 0 else "worse"
    size = f"is {abs(gain.mean):.3g} {direction} than" if clear else "is not clearly different from"
    return f"The best configuration {size} {control}; better on {wins} of {n} seeds."
