"""Compares the finalists with their controls on fresh seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from ..study.finalists import best_rows, fresh_seeds, tuning_rows, unguided
from ..study.records import Kind, TrialRecord


@dataclass(frozen=True)
class Sample:
    """Values of one configuration over seeds, by seed."""

    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN without any."""
        return statistics.fmean(self.values.values()) if self.values else float("nan")

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; NaN below two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else float("nan")

    def gain_over(self, other: Sample, *, sign: int) -> Sample:
        """Differences on common seeds, positive where this one is better (``sign`` is 1 to maximise, else -1)."""
        return Sample({s: sign * (v - other.values[s]) for s, v in self.values.items() if s in other.values})


@dataclass(frozen=True)
class Finalist:
    """One of the best configurations beside its controls, on fresh seeds."""

    number: int
    hyperparameters: dict[str, Scalar]
    guided: Sample
    plain: Sample
    tuned: Sample
    gain_over_plain: Sample
    gain_over_tuned: Sample


@dataclass(frozen=True)
class FinalistComparison:
    """The finalists, and how the tuned control came about.

    Attributes:
        tuned_trials: trials that the tuned control's initialisation and learning rate were chosen from.
        tuned: what was chosen; None where no such trial has completed.
    """

    finalists: list[Finalist]
    tuned_trials: int
    tuned: dict[str, Scalar] | None


def compare_finalists(
    config: StudyConfig, search: Sequence[TrialRecord], controls: Sequence[TrialRecord]
) -> FinalistComparison:
    """Sets the finalists of the present best configurations beside their controls."""
    sign = 1 if config.objective.direction == "maximize" else -1
    top = best_rows(config, search, config.search.finalists.top)
    seeds = set(fresh_seeds(config))
    tuning = tuning_rows(config, top[0], controls) if top else []
    chosen = next(iter(best_rows(config, tuning, 1)), None)

    def sample(kind: Kind, hyperparameters: Mapping[str, Scalar]) -> Sample:
        chosen = [r for r in controls if r.kind == kind and r.hyperparameters == hyperparameters and r.seed in seeds]
        return Sample({r.seed: r.value for r in chosen if r.outcome == "completed" and r.value is not None})

    finalists = []
    tuned = sample("tuned", chosen.hyperparameters) if chosen else Sample({})
    for row in top:
        guided = sample("finalist", row.hyperparameters)
        plain = sample("control", unguided({**config.constants, **row.hyperparameters}))
        gains = guided.gain_over(plain, sign=sign), guided.gain_over(tuned, sign=sign)
        finalists.append(Finalist(row.number, row.hyperparameters, guided, plain, tuned, *gains))
    chosen_values = chosen.hyperparameters if chosen else None
    return FinalistComparison([f for f in finalists if f.guided.values], len(tuning), chosen_values)
