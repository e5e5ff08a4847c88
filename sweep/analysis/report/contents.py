"""The contents of a report, computed once for the page and for the PNG files."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from ...config.search_space import Choices, Range
from ...config.settings import Settings
from ...study.records import TrialRecord
from ..confirmation import Confirmation
from ..expected_best import BestOfN, best_of_design
from ..health import health
from ..partial_dependence import Effect, Surface, partial_dependence, partial_dependence_2d
from ..sensitivity import Analysis
from ..summary import Summary
from .cost import Cost, cost
from .curves import Curve, Role, select_curves


class Failure(NamedTuple):
    """Trials that failed, diverged or collapsed for the same cause."""

    outcome: str
    cause: str  # the last line of their errors
    trials: list[str]  # "3" for a trial of the search, "3 (control)" for one of the sister study
    example: str  # the whole error of one of them, usually a traceback


@dataclass(frozen=True)
class ReportContents:
    """A study, its sensitivity, and the data of the figures."""

    summary: Summary
    metric: str  # of the objective
    searched: dict[str, Range | Choices]  # dimensions of the search space
    best: list[TrialRecord]  # completed trials of the search, best first
    analysis: Analysis
    effects: dict[str, Effect]  # E[y | x_i] of each hyperparameter with an index
    surface: tuple[str, str, Surface] | None  # E[y | x_a, x_b]; None if fewer than two have an index
    curves: list[Curve]  # with a history
    missing: list[Curve]  # without one
    failures: list[Failure]  # most frequent first
    cost: Cost
    expected_best: dict[str, BestOfN]  # of the search, and of the strongest control's after `sweep confirm`
    health: list[str]  # sentences

    @classmethod
    def of(
        cls, summary: Summary, analysis: Analysis, settings: Settings, confirmed: Confirmation | None = None
    ) -> Self:
        """Computes the data of all figures and tables."""
        config, metric, rows = summary.config, summary.config.objective.metric, [*summary.rows, *summary.controls]
        fitted, pair = analysis.fitted, _pair(analysis)
        effects = {name: partial_dependence(fitted, name) for name in analysis.parameters} if fitted else {}
        surface = (*pair, partial_dependence_2d(fitted, *pair)) if fitted and pair else None
        curves = select_curves(summary, settings)
        kept = [curve for curve in curves if curve.values(metric)]
        missing = [curve for curve in curves if curve not in kept]
        spent = cost(config, summary.rows, summary.controls)
        own = best_of_design(summary.rows, maximize=config.objective.direction == "maximize")
        searches = {**({"guided": own} if own else {}), **(confirmed.expected_best if confirmed else {})}
        said = [found.sentence for found in health(replace(summary, analysis=analysis), confirmed)]
        study = summary, metric, config.searched, summary.best
        return cls(*study, analysis, effects, surface, kept, missing, _failures(rows), spent, searches, said)

    @property
    def y_limits(self) -> tuple[float, float]:
        """Limits of the y axis that all effects share, so that a hyperparameter without an effect looks flat."""
        low = min(float(each.low.min()) for each in self.effects.values())
        high = max(float(each.high.max()) for each in self.effects.values())
        return low - 0.05 * (high - low), high + 0.05 * (high - low)

    @property
    def networks(self) -> tuple[Curve, Curve | None] | None:
        """The guided network whose entropies are drawn, and its control; both on one fresh seed if possible."""
        found: dict[Role, Curve] = {curve.role: curve for curve in self.curves if curve.layers}
        guided = found.get("finalist", found.get("best"))
        return (guided, found.get("control")) if guided else None


def _pair(analysis: Analysis) -> tuple[str, str] | None:
    """Returns both lambdas, or the two hyperparameters that interact most."""
    if {"lambda1", "lambda2"} <= analysis.parameters.keys():
        return "lambda1", "lambda2"
    return max(analysis.pairs, key=lambda pair: analysis.pairs[pair].value, default=None)


def _failures(rows: Sequence[TrialRecord]) -> list[Failure]:
    groups: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for row in rows:
        if row.outcome in ("failed", "diverged", "collapsed"):
            lines = (row.error or "no reason recorded").strip().splitlines()
            groups[row.outcome, lines[-1]].append(row)  # the last line of a traceback is the error
    found = []
    for (outcome, cause), group in groups.items():
        trials = [f"{row.number}" if row.kind == "trial" else f"{row.number} ({row.kind})" for row in group]
        found.append(Failure(outcome, cause, trials, (group[0].error or "").strip()))
    return sorted(found, key=lambda failure: -len(failure.trials))
