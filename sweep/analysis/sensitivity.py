"""Variance-based sensitivity of a study: Sobol indices with intervals, or the reason why there are none.

Pure functions of a trials table and its space. The variance is that over the declared space, every hyperparameter
drawn on its own and uniformly (in log where the space says so). Only trials at uniform points can say how well a
surrogate predicts there: a sampler leaves holes, and pruning prefers early epochs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..config.errors import SweepError
from ..config.search_space import Scalar
from . import classifiers
from .surrogates import Array, GaussianProcess, Input, Inputs, Mask, PolynomialChaos, Surrogate, uniform_points

if TYPE_CHECKING:
    import pandas as pd

    from ..study.dataframe import Table
    from .conditions import Condition


MIN_UNIFORM = 32
MIN_PER_INPUT = 4  # full-budget trials for each hyperparameter
LIKE = 0.1  # of R2: two surrogates as good as each other

Interval = tuple[float, float]


@dataclass(frozen=True)
class Method:
    """How an analysis is made.

    Attributes:
        surrogates: rivals.
        trusted, quantitative: R2 from which on an analysis is indicative, and more than that.
        points: base sample of the pick-freeze estimators for replicates; four times as many for the surrogate itself.
        of_each: uniform trials of each value that there must be.
    """

    surrogates: Sequence[Callable[[Inputs, Array, Array, Mask, int], Surrogate]]
    trusted: float
    quantitative: float
    points: int
    of_each: int = 1


REGRESSION = Method((PolynomialChaos, GaussianProcess), 0.6, 0.8, 2048)
# R2 of yes or no by a probability stays far below 1 even where the probability is known.
CLASSIFICATION = Method((classifiers.LogisticChaos, classifiers.ProcessClassifier), 0.2, math.inf, 1024, of_each=8)


@dataclass(frozen=True)
class Index:
    """Sobol indices of one hyperparameter, with 95 % intervals.

    Attributes:
        first: share of the variance that it explains alone.
        total: share that is gone when it is held, interactions with all others included.
    """

    first: float
    first_ci: Interval
    total: float
    total_ci: Interval


@dataclass(frozen=True)
class Interaction:
    """Share of the variance that two hyperparameters explain together beyond what each does alone."""

    value: float
    ci: Interval


@dataclass(frozen=True)
class Effect:
    """Expected objective for each value of one hyperparameter, E[y | x_i], with pointwise 95 % bands, [n] each."""

    values: list[Scalar]
    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Surface:
    """Expected objective for each pair of values, E[y | x_a, x_b]: ``mean`` [len(a), len(b)]."""

    a: list[Scalar]
    b: list[Scalar]
    mean: Array


@dataclass(frozen=True)
class Analysis:
    """The sensitivity of one objective, or why it cannot be told.

    Attributes:
        strength: ``quantitative``, or ``indicative``: the order of the indices can be relied on, not their size.
        reason: why it is refused, or why it is only indicative.
        n_full: trials that it rests on: at full budget, with a finite value.
        n_uniform: of these, those at uniform points.
        n_pruned, n_diverged, n_failed, n_missing: trials left out; the last ones completed, without a value here.
        r2: share of the variance of uniform trials that the surrogate predicts without having been shown them.
        left_out: hyperparameters without an index, and why.
        where: the condition that it is within, as it was written; None for the whole space.
        share: of a probability, how many of its trials, of which ``n_diverged`` diverged; None of an objective.
        fitted: what `effect` and `surface` are computed from; None where refused.
        divergence: the same of the probability of diverging, where trials have diverged.
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
    fitted: Fitted | None = field(default=None, repr=False, compare=False)
    divergence: Analysis | None = None


@dataclass(frozen=True)
class Fitted:
    """A surrogate and the space that it was fitted to."""

    inputs: Inputs
    surrogate: Surrogate


def analyse(table: Table, *, where: Mapping[str, Condition] | None = None, seed: int = 0) -> Analysis:
    """Estimates the sensitivity of a table's value to its hyperparameters.

    Two surrogates are fitted. The one that predicts uniform trials better speaks; where the other is about as good,
    an interval is the envelope of both.

    Args:
        where: conditions on hyperparameters: the sensitivity within them.
        seed: of everything random; the same one gives the same numbers.

    Raises:
        SweepError: a condition that no value fulfils.
    """
    return _analyse(table, where or {}, seed, REGRESSION)


def analyse_divergence(table: Table, *, where: Mapping[str, Condition] | None = None, seed: int = 0) -> Analysis | None:
    """Estimates the sensitivity of the probability of diverging, from uniform trials; None where none has diverged.

    What explains the objective of the others is conditional on their survival. Arguments and errors: `analyse`'s.
    """
    trials = _within(table.trials, where or {})
    ended = trials[trials["design"] & trials["outcome"].isin(["completed", "diverged"])].head(classifiers.AT_MOST)
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
    full, gone = trials[trials["value"].notna()], trials[trials["value"].isna()]
    uniform, y = full["design"].to_numpy(bool), full["value"].to_numpy(float)
    result = Analysis(
        table.study,
        table.objective,
        table.epoch,
        reason=_unfit(trials, y, uniform, len(inputs), method, table.remedy),
        n_full=len(full),
        n_uniform=int(uniform.sum()),
        n_pruned=int((gone["outcome"] == "pruned").sum()),
        n_diverged=int((gone["outcome"] == "diverged").sum()),
        n_failed=int((gone["outcome"] == "failed").sum()),
        n_missing=int((gone["outcome"] == "completed").sum()),
        left_out={**table.left_out, **left_out},
    )
    if result.reason is not None:
        return result
    from threadpoolctl import threadpool_limits

    x = inputs.encode({each.name: full[f"params_{each.name}"].tolist() for each in inputs})
    with threadpool_limits(1):  # sums in the same order, whatever the machine
        rivals = sorted((fit(inputs, x, y, uniform, seed) for fit in method.surrogates), key=lambda rival: -rival.r2)
        best = rivals[0]
        result = replace(result, r2=best.r2, surrogate=best.name)
        if best.r2 < method.trusted:
            return replace(result, reason=_unpredicted(best, method.trusted, table.remedy))
        equals = [rival for rival in rivals if best.r2 - rival.r2 < LIKE]
        value, low, high = _with_intervals([_replicated(each, inputs, method.points, seed) for each in equals])
    names, spans = [each.name for each in inputs], list(zip(low, high, strict=True))
    d, strong = len(names), best.r2 >= method.quantitative
    couples = enumerate(itertools.combinations(names, 2), start=2 * d)
    return replace(
        result,
        trusted=True,
        strength="quantitative" if strong else "indicative",
        reason=None if strong else "the surrogate tells the order of the indices, not their size",
        parameters={n: Index(value[i], spans[i], value[d + i], spans[d + i]) for i, n in enumerate(names)},
        pairs={pair: Interaction(value[i], spans[i]) for i, pair in couples},
        fitted=Fitted(inputs, best),
    )


def _within(trials: pd.DataFrame, where: Mapping[str, Condition]) -> pd.DataFrame:
    """The trials that fulfil the conditions."""
    for name, condition in where.items():
        trials = trials[trials[f"params_{name}"].map(condition).astype(bool)]
    return trials


def _inputs(table: Table, where: Mapping[str, Condition]) -> tuple[Inputs, dict[str, str]]:
    """The hyperparameters that take several values under the conditions; and the others, with the reason."""
    every = [Input(name, distribution, where.get(name)) for name, distribution in table.space.items()]
    nothing = [each.name for each in every if not each.levels]
    if nothing:
        raise SweepError(f"--where: no value of {', '.join(nothing)} in the search space fulfils it")
    alone = {each.name: f"its only value is {each.levels[0]}" for each in every if len(each.levels) == 1}
    return Inputs([each for each in every if each.name not in alone]), alone


def _unfit(trials: pd.DataFrame, y: Array, uniform: Mask, d: int, method: Method, remedy: str) -> str | None:
    """Why no surrogate is worth fitting; None where one is."""
    if not len(trials):
        return "no trial has ended"
    if not d:
        return "no hyperparameter takes more than one value"
    if len(y) > 1 and np.ptp(y[uniform] if uniform.any() else y) <= 1e-12 * np.abs(y).max():
        return "all values are equal: there is no variance to explain"
    if uniform.sum() < MIN_UNIFORM:
        why = ": a sampler looks where it expects good results, which says little about the rest"
        return (
            f"{uniform.sum()} of {len(y)} full-budget trials are uniform over the space, {MIN_UNIFORM} are needed"
            f"{'' if uniform.all() else why}. Add some: {remedy}"
        )
    if len(y) < MIN_PER_INPUT * d:
        return f"{len(y)} full-budget trials are few for {d} hyperparameters, {MIN_PER_INPUT * d} are needed: {remedy}"
    if (rare := int(np.unique(y[uniform], return_counts=True)[1].min())) < method.of_each:
        return f"of {uniform.sum()} uniform trials {rare} ended otherwise than the others: too few to tell what decides"
    return None


def _unpredicted(best: Surrogate, bar: float, remedy: str) -> str:
    return (
        f"the better surrogate, a {best.name}, predicts {max(0.0, best.r2):.0%} of the variance of uniform trials that "
        f"it was not shown; below {bar:.0%} its indices would be guesswork. Either noise is larger than the effect of "
        f"the hyperparameters, or more uniform trials are needed: {remedy}"
    )


def sobol_indices(f: Callable[[Array], Array], inputs: Inputs, *, points: int = 2048, seed: int = 0) -> Array:
    """First-order, total and second-order Sobol indices by pick-freeze on a scrambled Sobol' sequence.

    First order and closed second order after Saltelli et al., Comput. Phys. Commun. 181 (2010); total after Jansen,
    Comput. Phys. Commun. 117 (1999); each the mean of the two estimates that the two base samples allow.

    Args:
        f: functions, values [k, n] at encoded rows [n, columns].
        points: of each base sample, a power of 2; ``points * (2 d + 2)`` rows are evaluated.

    Returns:
        [k, d + d + d (d - 1) / 2]: first order, total, then pairs in the order of `itertools.combinations`.
    """
    d = len(inputs)
    unit = uniform_points(points, 2 * d, seed)
    a, b = unit[:, :d], unit[:, d:]
    mixed = [np.where(np.arange(d) == i, other, one) for one, other in ((a, b), (b, a)) for i in range(d)]
    y = np.stack([f(inputs.sample(block)) for block in (a, b, *mixed)], axis=1)
    y -= y[:, :2].mean((1, 2), keepdims=True)
    fa, fb, ab, ba = y[:, :1], y[:, 1:2], y[:, 2 : d + 2], y[:, d + 2 :]
    variance = np.maximum(y[:, :2].var((1, 2)), 1e-300)[:, None]
    first = (fb * (ab - fa) + fa * (ba - fb)).mean(2) / 2 / variance
    total = ((fa - ab) ** 2 + (fb - ba) ** 2).mean(2) / 4 / variance
    i, j = np.triu_indices(d, 1)
    closed = ((ba[:, i] * ab[:, j] + ba[:, j] * ab[:, i]) / 2 - fa * fb).mean(2) / variance
    return np.hstack([first, total, closed - first[:, i] - first[:, j]])


def _replicated(surrogate: Surrogate, inputs: Inputs, points: int, seed: int) -> Array:
    """Indices of a surrogate, on many points, then those of its replicates, on fewer: [1 + REPLICATES, indices].

    What the fewer points get wrong of the surrogate itself is taken off.
    """

    def both(x: Array) -> Array:
        return np.vstack([surrogate.mean(x), surrogate.replicates(x)])

    value = sobol_indices(lambda x: surrogate.mean(x)[None], inputs, points=4 * points, seed=seed)
    rough = sobol_indices(both, inputs, points=points, seed=seed)
    return np.vstack([value, rough[1:] - rough[:1] + value])


def _with_intervals(estimates: Sequence[Array]) -> tuple[list[float], list[float], list[float]]:
    """Values of the best surrogate, and the envelope of the 95 % intervals of all; within [0, 1]."""
    value = np.clip(estimates[0][0], 0, 1)
    ends = np.clip([np.percentile(each[1:], [2.5, 97.5], axis=0) for each in estimates], 0, 1)
    low, high = np.minimum(ends[:, 0].min(0), value), np.maximum(ends[:, 1].max(0), value)
    return value.tolist(), low.tolist(), high.tolist()


def partial_dependence(fitted: Fitted, name: str, *, points: int = 33, seed: int = 0) -> Effect:
    """The expected objective for each value of one hyperparameter (``points`` of many), the others uniform."""
    values, rows = _held(fitted.inputs, [name], points, 128, seed)
    curves = fitted.surrogate.replicates(rows).reshape(-1, len(values[0]), 128).mean(2)
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return Effect(values[0], fitted.surrogate.mean(rows).reshape(-1, 128).mean(1), low, high)


def partial_dependence_2d(fitted: Fitted, a: str, b: str, *, points: int = 19, seed: int = 0) -> Surface:
    """The expected objective for each pair of values of two hyperparameters, the others uniform."""
    values, rows = _held(fitted.inputs, [a, b], points, 64, seed)
    mean = fitted.surrogate.mean(rows).reshape(len(values[0]), len(values[1]), 64).mean(2)
    return Surface(values[0], values[1], mean)


def _held(
    inputs: Inputs, names: Sequence[str], points: int, sample: int, seed: int
) -> tuple[list[list[Scalar]], Array]:
    """Values at which hyperparameters are held, and for each combination of them ``sample`` encoded rows."""
    held = [inputs[name].shown(points) for name in names]
    rows, blocks = inputs.sample(uniform_points(sample, len(inputs), seed)), []
    for values in itertools.product(*held):
        blocks.append(rows.copy())
        for name, value in zip(names, values, strict=True):
            blocks[-1][:, inputs.column(name)] = inputs[name].encode([value])
    return held, np.vstack(blocks)
