"""Variance-based sensitivity of a study: Sobol indices with intervals, or the reason why there are none.

The variance is over the declared space, with every hyperparameter independent and uniform (in log if its scale is).
Only uniform trials measure how well a surrogate predicts there: a sampler leaves holes, pruning prefers early epochs.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..config.errors import SweepError
from .classifiers import MAX_TRIALS, LogisticChaos, ProcessClassifier
from .partial_dependence import FittedSurrogate
from .sobol import Interval, indices_with_intervals
from .surrogates import Array, GaussianProcess, Input, Inputs, Mask, PolynomialChaos, Surrogate

if TYPE_CHECKING:
    import pandas as pd

    from ..study.dataframe import Table
    from .conditions import Condition

logger = logging.getLogger(__name__)

MIN_UNIFORM = 32
MIN_PER_INPUT = 4  # full-budget trials for each hyperparameter
SIMILAR_R2 = 0.1  # difference in R2 below which two surrogates count as equally good


@dataclass(frozen=True)
class Method:
    """Surrogates and thresholds of an analysis."""

    surrogates: Sequence[Callable[[Inputs, Array, Array, Mask, int], Surrogate]]
    trusted: float  # least R2 of an analysis that is reported, as indicative
    quantitative: float  # least R2 of an analysis whose sizes are reported, too
    points: int  # base sample of the pick-freeze estimators for replicates; the surrogate gets four times as many
    min_per_value: int = 1  # least number of uniform trials with each value of the objective; 1 for numbers


REGRESSION = Method((PolynomialChaos, GaussianProcess), 0.6, 0.8, 2048)
# The R2 of 0 or 1 by a probability stays far below 1 even if the probability is known.
CLASSIFICATION = Method((LogisticChaos, ProcessClassifier), 0.2, math.inf, 1024, min_per_value=8)


@dataclass(frozen=True)
class Index:
    """Shares of the variance that one hyperparameter explains alone, and with all interactions; 95 % intervals."""

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
class Analysis:
    """The sensitivity of one objective, or the reason for a refusal.

    Attributes:
        objective: name of the analysed number.
        epoch: epoch of that number; None in a study without epochs.
        n_full: number of trials that the analysis rests on: full budget, finite value.
        n_uniform: number of those at uniform points.
        n_pruned, n_diverged, n_failed: trials excluded for that outcome.
        n_missing: completed trials excluded because the number is missing.
        strength: ``quantitative``, or ``indicative`` if the order of the indices is reliable but not their size.
        reason: the reason for a refusal, or for a merely indicative analysis.
        r2: cross-validated share of the variance of uniform trials that the surrogate predicts.
        left_out: hyperparameters without an index, with the reason.
        where: the condition that limits the space, as written; None for the whole space.
        share: share of trials that diverged, if the objective is the probability of diverging; else None.
        fitted: input of `partial_dependence`; None after a refusal.
        divergence: analysis of the probability of diverging; None if no uniform trial diverged.
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
    trusted: bool = False
    strength: Literal["quantitative", "indicative"] | None = None
    reason: str | None = None
    r2: float | None = None
    surrogate: str | None = None
    parameters: dict[str, Index] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Interaction] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    share: float | None = None
    fitted: FittedSurrogate | None = field(default=None, repr=False, compare=False)
    divergence: Analysis | None = None


def analyse(table: Table, *, where: Mapping[str, Condition] | None = None, seed: int = 0) -> Analysis:
    """Estimates the sensitivity of a table's value to its hyperparameters.

    Uses the surrogate with the higher cross-validated R2; if both are close, intervals cover both. Conditions limit the
    space that the variance is over. The same seed gives the same analysis.

    Raises:
        SweepError: no value of a hyperparameter fulfils its condition.
    """
    return _analyse(table, where or {}, seed, REGRESSION)


def analyse_divergence(table: Table, *, where: Mapping[str, Condition] | None = None, seed: int = 0) -> Analysis | None:
    """Estimates the sensitivity of the probability of diverging from uniform trials; None if none diverged.

    The analysis of the objective is conditional on survival, so this is its complement. Arguments: see `analyse`.
    """
    trials = _within(table.trials, where or {})
    ended = trials[trials["design"] & trials["outcome"].isin(["completed", "diverged"])].head(MAX_TRIALS)
    diverged = (ended["outcome"] == "diverged").astype(float)
    if not diverged.any():
        return None
    trials = ended.assign(value=diverged)
    probability = replace(table, objective="the probability of diverging", epoch=None, trials=trials)
    result = _analyse(probability, where or {}, seed, CLASSIFICATION)
    return replace(result, n_diverged=int(diverged.sum()), share=float(diverged.mean()))


def _analyse(table: Table, where: Mapping[str, Condition], seed: int, method: Method) -> Analysis:
    inputs, left_out = _inputs(table, where)
    trials = _within(table.trials, where)
    full, gone = trials[trials["value"].notna()], Counter(trials[trials["value"].isna()]["outcome"])
    uniform, y = full["design"].to_numpy(bool), full["value"].to_numpy(float)
    result = Analysis(
        table.study,
        table.objective,
        table.epoch,
        reason=_refusal(trials, y, uniform, len(inputs), method, table.hint),
        n_full=len(full),
        n_uniform=int(uniform.sum()),
        n_pruned=gone["pruned"],
        n_diverged=gone["diverged"],
        n_failed=gone["failed"],
        n_missing=gone["completed"],
        left_out={**table.left_out, **left_out},
    )
    if result.reason is not None:
        logger.debug("%s of %s: no analysis: %s", table.objective, table.study, result.reason)
        return result
    from threadpoolctl import threadpool_limits

    x = inputs.encode({each.name: full[f"params_{each.name}"].tolist() for each in inputs})
    with threadpool_limits(1):  # one thread sums in the same order on every machine
        fits = sorted((fit(inputs, x, y, uniform, seed) for fit in method.surrogates), key=lambda fitted: -fitted.r2)
        best = fits[0]
        logger.debug("%s of %s: %s", table.objective, table.study, ", ".join(f"{f.name} R2 {f.r2:.3f}" for f in fits))
        result = replace(result, r2=best.r2, surrogate=best.name)
        if best.r2 < method.trusted:
            return replace(result, reason=_unpredicted(best, method.trusted, table.hint))
        similar = [fitted for fitted in fits if best.r2 - fitted.r2 < SIMILAR_R2]
        value, low, high = indices_with_intervals(similar, inputs, points=method.points, seed=seed)
    names, spans = [each.name for each in inputs], list(zip(low, high, strict=True))
    d, strong = len(names), best.r2 >= method.quantitative
    couples = enumerate(itertools.combinations(names, 2), start=2 * d)
    return replace(
        result,
        trusted=True,
        strength="quantitative" if strong else "indicative",
        reason=None if strong else "the surrogate determines the order of the indices, not their size",
        parameters={n: Index(value[i], spans[i], value[d + i], spans[d + i]) for i, n in enumerate(names)},
        pairs={pair: Interaction(value[i], spans[i]) for i, pair in couples},
        fitted=FittedSurrogate(inputs, best),
    )


def _within(trials: pd.DataFrame, where: Mapping[str, Condition]) -> pd.DataFrame:
    for name, condition in where.items():
        trials = trials[trials[f"params_{name}"].map(condition).astype(bool)]
    return trials


def _inputs(table: Table, where: Mapping[str, Condition]) -> tuple[Inputs, dict[str, str]]:
    """Returns the hyperparameters that take several values under the conditions; and the others, with the reason."""
    every = [Input(name, distribution, where.get(name)) for name, distribution in table.space.items()]
    if empty := [each.name for each in every if not each.levels]:
        raise SweepError(f"--where: no value of {', '.join(empty)} in the search space fulfils it")
    alone = {each.name: f"its only value is {each.levels[0]}" for each in every if len(each.levels) == 1}
    return Inputs([each for each in every if each.name not in alone]), alone


def _refusal(trials: pd.DataFrame, y: Array, uniform: Mask, d: int, method: Method, hint: str) -> str | None:
    """Returns the reason for not fitting a surrogate; None if the trials suffice."""
    if not len(trials):
        return "no trial has ended"
    if not d:
        return "no hyperparameter takes more than one value"
    if len(y) > 1 and np.ptp(y[uniform] if uniform.any() else y) <= 1e-12 * np.abs(y).max():
        return "all values are equal: there is no variance to explain"
    if uniform.sum() < MIN_UNIFORM:
        why = ": a sampler prefers regions with good results, so its trials say little about the rest"
        return (
            f"{uniform.sum()} of {len(y)} full-budget trials are uniform over the space, {MIN_UNIFORM} are needed"
            f"{'' if uniform.all() else why}. Add some: {hint}"
        )
    if len(y) < MIN_PER_INPUT * d:
        return f"{len(y)} full-budget trials are few for {d} hyperparameters, {MIN_PER_INPUT * d} are needed: {hint}"
    if (rare := int(np.unique(y[uniform], return_counts=True)[1].min())) < method.min_per_value:
        unlike = f"only {rare} of {uniform.sum()} uniform trials ended differently from the others"
        return f"{unlike}: too few for an analysis"
    return None


def _unpredicted(best: Surrogate, bar: float, hint: str) -> str:
    return (
        f"the better surrogate, a {best.name}, predicts {max(0.0, best.r2):.0%} of the variance of held-out uniform "
        f"trials; below {bar:.0%} its indices would be guesswork. Either noise is larger than the effect of the "
        f"hyperparameters, or more uniform trials are needed: {hint}"
    )
