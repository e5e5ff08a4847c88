"""The sensitivity of one objective, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .partial_dependence import FittedSurrogate
from .sobol import Interval

if TYPE_CHECKING:
    import pandas as pd

Scale = Literal["log"]
Strength = Literal["quantitative", "indicative"]


@dataclass(frozen=True)
class Index:
    """Shares of the variance that one hyperparameter explains alone, and with all interactions; 95 % intervals.

    Within constraints, both are its Shapley effect.
    """

    first: float
    first_ci: Interval
    total: float
    total_ci: Interval


@dataclass(frozen=True)
class Interaction:
    """The share of the variance that two hyperparameters explain together, beyond what each explains alone."""

    value: float
    ci: Interval


@dataclass(frozen=True)
class Influence:
    """The uniform trials farthest from the mean, at most 2 %, that carry more than a quarter of the variance.

    Attributes:
        count: number of these trials.
        share: share of the variance that they carry.
        without: analysis of all other trials.
    """

    count: int
    share: float
    without: Analysis


@dataclass(frozen=True)
class Analysis:
    """The sensitivity of one objective, or the reason for a refusal.

    Attributes:
        objective: name of the analysed number.
        epoch: epoch of that number; None in a study without epochs.
        n_full: number of trials that the analysis rests on: full budget, finite value.
        n_uniform: number of those at uniform points.
        n_pruned, n_diverged, n_collapsed, n_failed: trials excluded for that outcome.
        n_missing: completed trials excluded because the number is missing.
        strength: ``quantitative``, or ``indicative`` if the order of the indices is reliable but not their size.
        reason: the reason for a refusal, or for a merely indicative analysis.
        r2: share of the variance of uniform trials that the surrogate predicts without having seen them.
        r2_low: lower bound of ``r2``, one-sided, with confidence 0.9.
        explainable: share of that variance that is no noise, by points repeated on other seeds; None without them.
        scale: ``log`` if the logarithm of the objective is analysed, since it is predicted better; else None.
        warning: flaw of the design.
        influence: trials that carry much of the variance; None if there are none.
        dependent: True if constraints make hyperparameters depend on each other: indices are Shapley effects.
        left_out: hyperparameters without an index, with the reason.
        where: the condition that limits the space, as written; None for the whole space.
        outcome: the outcome whose probability is the objective; None if that is a number.
        share: share of the uniform trials with that outcome.
        fitted: input of `partial_dependence`; None after a refusal.
        divergence, collapse: analyses of the probability of these outcomes; None if no uniform trial has it.
    """

    study: str
    objective: str
    epoch: int | None
    n_full: int
    n_uniform: int
    n_pruned: int
    n_diverged: int
    n_failed: int = 0
    n_missing: int = 0
    n_collapsed: int = 0
    trusted: bool = False
    strength: Strength | None = None
    reason: str | None = None
    r2: float | None = None
    r2_low: float | None = None
    explainable: float | None = None
    surrogate: str | None = None
    scale: Scale | None = None
    warning: str | None = None
    influence: Influence | None = None
    parameters: dict[str, Index] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Interaction] = field(default_factory=dict)
    dependent: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    outcome: str | None = None
    share: float | None = None
    fitted: FittedSurrogate | None = field(default=None, repr=False, compare=False)
    divergence: Analysis | None = None
    collapse: Analysis | None = None

    @property
    def table(self) -> pd.DataFrame:
        """The indices by hyperparameter, shares of the variance with 95 % intervals; empty after a refusal."""
        from .notebook import indices_table

        return indices_table(self)

    def _repr_html_(self) -> str:
        from .notebook import analysis_html

        return analysis_html(self)
