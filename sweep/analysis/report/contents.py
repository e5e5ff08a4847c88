"""What the report shows of a study, computed once for the page and for the pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...config.settings import Settings
from ..sensitivity import Analysis, Effect, Surface, partial_dependence, partial_dependence_2d
from ..summary import Summary
from .cost import Cost, cost
from .curves import Curve, Role, compared

if TYPE_CHECKING:
    from ...config.search_space import Choices, Range
    from ...study.records import TrialRecord


@dataclass(frozen=True)
class Failure:
    """Trials that failed or diverged for one cause.

    Attributes:
        trials: what they are called, ``3`` in the search and ``3 (control)`` beside it.
        example: what one of them left, a traceback for the most part.
    """

    outcome: str
    cause: str
    trials: list[str]
    example: str


@dataclass(frozen=True)
class ReportContents:
    """A study, its sensitivity, and what is drawn of them.

    Attributes:
        effects: E[y | x_i] of each hyperparameter that has an index.
        surface: two hyperparameters and E[y | x_a, x_b]; None where there are not two with an index.
        curves: histories that are there.
        missing: those that are not.
        failures: by cause, the most frequent first.
    """

    summary: Summary
    analysis: Analysis
    effects: dict[str, Effect]
    surface: tuple[str, str, Surface] | None
    curves: list[Curve]
    missing: list[Curve]
    failures: list[Failure]
    cost: Cost

    @classmethod
    def of(cls, summary: Summary, analysis: Analysis, settings: Settings) -> ReportContents:
        """Computes what is drawn."""
        config, rows = summary.config, [*summary.rows, *summary.controls]
        fitted, pair = analysis.fitted, _pair(analysis)
        effects = {name: partial_dependence(fitted, name) for name in analysis.parameters} if fitted else {}
        shown = (*pair, partial_dependence_2d(fitted, *pair)) if fitted and pair else None
        curves = compared(summary, settings)
        there = [curve for curve in curves if curve.values(config.objective.metric)]
        missing = [curve for curve in curves if curve not in there]
        spent = cost(config, summary.rows, summary.controls)
        return cls(summary, analysis, effects, shown, there, missing, _failures(rows), spent)

    @property
    def searched(self) -> dict[str, Range | Choices]:
        """The dimensions of the search space."""
        return self.summary.config.searched

    @property
    def best(self) -> list[TrialRecord]:
        """Completed trials of the search, best first."""
        return self.summary.best

    @property
    def metric(self) -> str:
        """The objective's."""
        return self.summary.config.objective.metric

    @property
    def reach(self) -> tuple[float, float]:
        """The values that effects and their bands reach, with a margin: one scale for all, or the idle look busy."""
        low = min(float(each.low.min()) for each in self.effects.values())
        high = max(float(each.high.max()) for each in self.effects.values())
        return low - 0.05 * (high - low), high + 0.05 * (high - low)

    @property
    def networks(self) -> tuple[Curve, Curve | None] | None:
        """The guided network whose entropies are shown, and its control: on the same seed where there are both."""
        found: dict[Role, Curve] = {curve.role: curve for curve in self.curves if curve.layers}
        guided = found.get("finalist", found.get("best"))
        return (guided, found.get("control")) if guided else None


def _pair(analysis: Analysis) -> tuple[str, str] | None:
    """Both lambdas, or the two hyperparameters that interact most."""
    if {"lambda1", "lambda2"} <= analysis.parameters.keys():
        return "lambda1", "lambda2"
    return max(analysis.pairs, key=lambda pair: analysis.pairs[pair].value, default=None)


def _failures(rows: Sequence[TrialRecord]) -> list[Failure]:
    groups: dict[tuple[str, str], list[TrialRecord]] = defaultdict(list)
    for row in rows:
        if row.outcome in ("failed", "diverged"):
            lines = (row.error or "no reason recorded").strip().splitlines()
            groups[row.outcome, lines[-1]].append(row)  # the last line of a traceback is the error
    found = []
    for (outcome, cause), group in groups.items():
        trials = [f"{row.number}" if row.kind == "trial" else f"{row.number} ({row.kind})" for row in group]
        found.append(Failure(outcome, cause, trials, (group[0].error or "").strip()))
    return sorted(found, key=lambda failure: -len(failure.trials))
