"""Variance-based sensitivity of a study: Sobol indices with intervals, or the reason why there are none.

The variance is over the declared space, with every hyperparameter independent and uniform (in log if its scale is).
Within constraints, where they depend on each other, it has Shapley effects in place of Sobol indices.
Only uniform trials measure how well a surrogate predicts there: a sampler leaves holes, pruning prefers early epochs.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .classifiers import MAX_TRIALS, LogisticChaos, ProcessClassifier
from .conditions import implied
from .formats import format_percent
from .gaussian_process import GaussianProcess
from .goodness_of_fit import Fit, goodness_of_fit, influential
from .partial_dependence import FittedSurrogate
from .selection import encode_trials, has_value, refusal, too_many_lost, uniform_trials, varied_inputs, within
from .sensitivity_result import Analysis, Index, Influence, Interaction, Scale, Strength
from .shapley import MOST_INPUTS, shapley_effects
from .sobol import indices_with_intervals, sobol_indices
from .surrogates import PolynomialChaos, Surrogate, Trials

if TYPE_CHECKING:
    import pandas as pd

    from ..config.search_space import Scalar
    from ..study.constrained import Inside
    from ..study.dataframe import Table
    from .conditions import Condition

__all__ = ["Analysis", "Index", "Influence", "Interaction", "analyse", "analyse_outcome", "fit_surrogates"]
logger = logging.getLogger(__name__)

MANY = f"within constraints there are indices of {MOST_INPUTS} hyperparameters at most: give some one value by --where"
SIMILAR_R2 = 0.1  # difference in R2 below which two surrogates count as equally good
STRENGTHS: tuple[Strength | None, ...] = (None, "indicative", "quantitative")
OUTCOMES = {"diverged": "the probability of diverging", "collapsed": "the probability of collapsing"}


@dataclass(frozen=True)
class Method:
    """Surrogates and thresholds of an analysis.

    Attributes:
        indicative, quantitative: the least share of the variance, by a lower bound, that the surrogate predicts or that
            is known to be noise.
        of_value: True for shares of the value's variance; False for shares of the variance of what is predicted.
        min_per_value: least number of uniform trials with each value of the objective; 1 for numbers.
    """

    surrogates: Sequence[Callable[[Trials, int], Surrogate]]
    indicative: float
    quantitative: float
    of_value: bool = True
    min_per_value: int = 1


REGRESSION = Method((PolynomialChaos, GaussianProcess), 0.85, 0.9)
# The R2 of 0 or 1 by a probability stays far below 1 even if the probability is known.
CLASSIFICATION = Method((LogisticChaos, ProcessClassifier), 0.1, math.inf, of_value=False, min_per_value=8)


def analyse(table: Table, *, where: Mapping[str, Condition] | None = None, seed: int = 0) -> Analysis:
    """Estimates the sensitivity of a table's value to its hyperparameters.

    Uses the surrogate whose cross-validated R2 has the higher lower bound; if both are close, intervals cover both. The
    logarithm of a positive value is analysed where the value is not predicted well and half as much of the logarithm
    stays unknown. Conditions limit the space that the variance is over. The same seed gives the same analysis.

    Raises:
        SweepError: no value of a hyperparameter fulfils its condition.
    """
    where = implied(where or {}, table.conditional)
    trials = within(table.trials, where)
    whole = _analyse(table, trials, where, seed, REGRESSION)
    if whole.r2 is None:
        return whole
    uniform = trials[uniform_trials(trials) & has_value(trials)]
    value = uniform["value"].to_numpy(float)
    largest = influential(np.log(value) if whole.scale == "log" else value)
    if largest is None:
        return whole
    mask, share = largest
    rest = _analyse(table, trials.drop(index=uniform.index[mask]), where, seed, REGRESSION)
    return _weakened(replace(whole, influence=Influence(int(mask.sum()), share, rest)))


def _weakened(analysis: Analysis) -> Analysis:
    """Returns an analysis with the next weaker word, since a few trials carry much of the variance."""
    reason = "few trials carry much of the variance"
    if analysis.strength == "quantitative":
        return replace(analysis, strength="indicative", reason=reason)
    return replace(analysis, trusted=False, strength=None, reason=analysis.reason, parameters={}, pairs={}, fitted=None)


def analyse_outcome(
    table: Table, outcome: str, *, where: Mapping[str, Condition] | None = None, seed: int = 0
) -> Analysis | None:
    """Estimates the sensitivity of the probability of an outcome, one of ``OUTCOMES``, from uniform trials.

    The analysis of the objective leaves these trials out, so this is its complement. Returns None if no uniform trial
    has the outcome. Other arguments: see `analyse`.
    """
    where = implied(where or {}, table.conditional)
    trials = within(table.trials, where)
    ended = trials[uniform_trials(trials) & trials["outcome"].isin(["completed", *OUTCOMES])].head(MAX_TRIALS)
    happened = (ended["outcome"] == outcome).astype(float)
    if not happened.any():
        return None
    probability = replace(table, objective=OUTCOMES[outcome], epoch=None)
    result = _analyse(probability, ended.assign(value=happened, outcome="completed"), where, seed, CLASSIFICATION)
    counts = {name: int((ended["outcome"] == name).sum()) for name in OUTCOMES}
    gone = replace(result, n_diverged=counts["diverged"], n_collapsed=counts["collapsed"])
    return replace(gone, outcome=outcome, share=float(happened.mean()))


def _analyse(table: Table, trials: pd.DataFrame, where: Mapping[str, Condition], seed: int, method: Method) -> Analysis:
    inputs, left_out = varied_inputs(table, trials, where)
    full, gone = trials[has_value(trials)], Counter(trials[~has_value(trials)]["outcome"])
    dependent = table.inside is not None
    many = MANY if dependent and len(inputs) > MOST_INPUTS else None
    why = table.refusal or many or (too_many_lost(trials, OUTCOMES) if len(trials) else "no trial has ended")
    result = Analysis(
        table.study,
        table.objective,
        table.epoch,
        reason=why or refusal(full, len(inputs), min_per_value=method.min_per_value, hint=table.hint),
        n_full=len(full),
        n_uniform=int(uniform_trials(full).sum()),
        n_pruned=gone["pruned"],
        n_diverged=gone["diverged"],
        n_collapsed=gone["collapsed"],
        n_failed=gone["failed"],
        n_missing=gone["completed"],
        dependent=dependent,
        left_out={**table.left_out, **left_out},
    )
    if result.reason is not None:
        logger.debug("%s of %s: no analysis: %s", table.objective, table.study, result.reason)
        return result
    from threadpoolctl import threadpool_limits

    encoded, warning = encode_trials(inputs, full)
    with threadpool_limits(1):  # one thread sums in the same order on every machine
        scale, fits = fit_surrogates(encoded, seed, method)
        result = replace(result, scale=scale, warning=warning)
        fixed = {n: trials[f"params_{n}"].iloc[0] for n in table.space if n not in {each.name for each in inputs}}
        within_them = None if table.inside is None else _with(table.inside, fixed)
        return _judged(result, encoded, fits, seed, method, table.hint, within_them)


def _with(inside: Inside, fixed: Mapping[str, Scalar]) -> Inside:
    return lambda values: inside({**fixed, **values})


def fit_surrogates(trials: Trials, seed: int, method: Method) -> tuple[Scale | None, list[tuple[Fit, Surrogate]]]:
    """Fits the surrogates to the values; or to their logarithms, if the values are not predicted well, and logs better.

    Returns the scale, ``log`` or None, and the surrogates, the best first.
    """

    def fitted(of: Trials) -> list[tuple[Fit, Surrogate]]:
        each = [fit(of, seed) for fit in method.surrogates]
        return sorted(((goodness_of_fit(of, one.held_out), one) for one in each), key=lambda pair: -pair[0].low)

    plain = fitted(trials)
    if not method.of_value or trials.y.min() <= 0:
        return None, plain
    fit = plain[0][0]
    if fit.known >= method.quantitative and influential(trials.y[trials.tested]) is None:
        return None, plain
    log = fitted(replace(trials, y=np.log(trials.y)))
    return ("log", log) if log[0][0].hidden < fit.hidden / 2 else (None, plain)


def _judged(
    result: Analysis,
    trials: Trials,
    fits: list[tuple[Fit, Surrogate]],
    seed: int,
    method: Method,
    hint: str,
    inside: Inside | None,
) -> Analysis:
    """Returns the analysis with a word for its strength, and with indices if there is one."""
    (fit, best), *others = fits
    strength = STRENGTHS[(fit.known >= method.indicative) + (fit.known >= method.quantitative)]
    result = replace(
        result,
        r2=fit.r2,
        r2_low=fit.low,
        explainable=None if fit.noise is None else 1 - fit.noise,
        surrogate=best.name,
        strength=strength,
        trusted=strength is not None,
    )
    logger.debug("%s of %s: %s", result.objective, result.study, ", ".join(f"{s.name} R2 {f.r2:.3f}" for f, s in fits))
    if strength is None:
        return replace(result, reason=_unpredicted(fit, best, method, hint))
    similar = [best, *(other for second, other in others if fit.r2 - second.r2 < SIMILAR_R2)]
    estimate = sobol_indices if inside is None else functools.partial(shapley_effects, inside=inside)
    value, low, high = indices_with_intervals(similar, trials.inputs, seed=seed, estimate=estimate)
    if method.of_value:
        value, low, high = fit.r2 * value, fit.low * low, fit.low * high + fit.hidden
    names = [each.name for each in trials.inputs]
    ends = zip(value, np.maximum(low, 0), np.minimum(high, 1), strict=True)
    shares = [Interaction(float(middle), (float(a), float(b))) for middle, a, b in ends]
    first, total, both = shares[: len(names)], shares[len(names) : 2 * len(names)], shares[2 * len(names) :]
    indices = zip(names, first, total or first, strict=True)
    pairs = () if inside else itertools.combinations(names, 2)
    return replace(
        result,
        reason=None if strength == "quantitative" else "the order of the indices is reliable, not their size",
        parameters={n: Index(a.value, a.ci, b.value, b.ci) for n, a, b in indices},
        pairs=dict(zip(pairs, both, strict=True)),
        # Effects over the whole box would be of points outside the constraints.
        fitted=None if inside else FittedSurrogate(trials.inputs, best, log=result.scale == "log"),
    )


def _unpredicted(fit: Fit, best: Surrogate, method: Method, hint: str) -> str:
    repeats = " (to know it, repeat points: search.design_seeds=2)" if method.of_value and fit.noise is None else ""
    shares = [format_percent(max(0.0, value)) for value in (fit.r2, fit.low, method.indicative)]
    return (
        f"the better surrogate, a {best.name}, predicts {shares[0]} of the variance of held-out uniform trials, with "
        f"90 % confidence at least {shares[1]}; below {shares[2]} its indices would be guesswork. Either noise is "
        f"larger than the effect of the hyperparameters{repeats}, or more uniform trials are needed: {hint}"
    )
