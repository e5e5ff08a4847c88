"""Variance-based sensitivity of a study: Sobol indices with intervals, or the reason why there are none.

Pure functions of a trials table and its space. The variance is that over the declared space, every hyperparameter
drawn on its own and uniformly (in log where the space says so). Only trials at uniform points can say how well a
surrogate predicts there: a sampler leaves holes, and pruning prefers early epochs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .config import Scalar
from .errors import SweepError
from .surrogates import Array, GaussianProcess, Input, Inputs, PolynomialChaos, Surrogate, uniform_points

if TYPE_CHECKING:
    import pandas as pd

    from .table import Table
    from .where import Condition

POINTS = 2048  # base sample of the pick-freeze estimators
MIN_UNIFORM = 32
MIN_PER_INPUT = 4  # full-budget trials for each hyperparameter
TRUSTED, QUANTITATIVE = 0.6, 0.8  # R2
WIDE = 0.15  # half-width of an interval from which on its middle says little
LIKE = 0.1  # of R2: two surrogates as good as each other

Interval = tuple[float, float]


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
        n_pruned, n_diverged: trials left out.
        r2: share of the variance of uniform trials that the surrogate predicts without having been shown them.
        left_out: hyperparameters without an index, and why.
        fitted: what `effect` and `surface` are computed from; None where refused.
    """

    study: str
    objective: str
    epoch: int | None
    n_full: int
    n_uniform: int
    n_pruned: int
    n_diverged: int
    trusted: bool = False
    strength: Literal["quantitative", "indicative"] | None = None
    reason: str | None = None
    r2: float | None = None
    surrogate: str | None = None
    parameters: dict[str, Index] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Interaction] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fitted: Fitted | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Fitted:
    """A surrogate and the space that it was fitted to."""

    inputs: Inputs
    surrogate: Surrogate


def analyse(table: Table, *, where: Mapping[str, Condition] | None = None, seed: int = 0) -> Analysis:
    """Estimates the sensitivity of a table's value to its hyperparameters.

    Two surrogates are fitted; the one that predicts uniform trials better speaks, and where the other is about as good,
    an interval is the envelope of both.

    Args:
        where: conditions on hyperparameters: the sensitivity within them.
        seed: of everything random; the same one gives the same numbers.

    Raises:
        SweepError: a condition that no value fulfils.
    """
    from threadpoolctl import threadpool_limits

    inputs, left_out = _inputs(table, where or {})
    trials = table.trials
    for name, condition in (where or {}).items():
        trials = trials[[condition(value) for value in trials[f"params_{name}"]]]
    full, gone = trials[trials["value"].notna()], trials[trials["value"].isna()]
    uniform, y = full["design"].to_numpy(bool), full["value"].to_numpy(float)
    result = Analysis(
        table.study,
        table.objective,
        table.epoch,
        reason=_unfit(trials, y, uniform, len(inputs), table.remedy),
        n_full=len(full),
        n_uniform=int(uniform.sum()),
        n_pruned=int((gone["outcome"] == "pruned").sum()),
        n_diverged=int((gone["outcome"] == "diverged").sum()),
        left_out={**table.left_out, **left_out},
    )
    if result.reason is not None:
        return result
    x = inputs.encode({each.name: full[f"params_{each.name}"].tolist() for each in inputs})
    with threadpool_limits(1):  # sums in the same order, whatever the machine
        rivals: list[Surrogate] = [fit(inputs, x, y, uniform, seed) for fit in (PolynomialChaos, GaussianProcess)]
        best = max(rivals, key=lambda rival: rival.r2)
        result = replace(result, r2=best.r2, surrogate=best.name)
        if best.r2 < TRUSTED:
            return replace(result, reason=_unpredicted(best, table.remedy))
        equals = [best, *(rival for rival in rivals if rival is not best and best.r2 - rival.r2 < LIKE)]
        estimates = [sobol_indices(each.predict, inputs, seed=seed) for each in equals]
    names = [each.name for each in inputs]
    value, low, high = _intervals(estimates)
    spans = list(zip(low.tolist(), high.tolist(), strict=True))
    d, couples = len(names), list(itertools.combinations(names, 2))
    strong = best.r2 >= QUANTITATIVE
    return replace(
        result,
        trusted=True,
        strength="quantitative" if strong else "indicative",
        reason=None if strong else f"R2 is below {QUANTITATIVE}: rely on the order of the indices, not on their size",
        parameters={n: Index(value[i], spans[i], value[d + i], spans[d + i]) for i, n in enumerate(names)},
        pairs={pair: Interaction(value[2 * d + i], spans[2 * d + i]) for i, pair in enumerate(couples)},
        fitted=Fitted(inputs, best),
    )


def _inputs(table: Table, where: Mapping[str, Condition]) -> tuple[Inputs, dict[str, str]]:
    """The hyperparameters that take several values under the conditions; and the others, with the reason."""
    every = [Input(name, distribution, where.get(name)) for name, distribution in table.space.items()]
    nothing = [each.name for each in every if not each.levels]
    if nothing:
        raise SweepError(f"--where: no value of {', '.join(nothing)} in the search space fulfils it")
    alone = {each.name: f"its only value is {each.levels[0]}" for each in every if len(each.levels) == 1}
    return Inputs([each for each in every if each.name not in alone]), alone


def _unfit(trials: pd.DataFrame, y: Array, uniform: NDArray[np.bool_], d: int, remedy: str) -> str | None:
    """Why no surrogate is worth fitting; None where one is."""
    if not len(trials):
        return "no trial has ended"
    if not d:
        return "no hyperparameter takes more than one value"
    if uniform.sum() < MIN_UNIFORM:
        return (
            f"{uniform.sum()} of {len(y)} full-budget trials are uniform over the space, {MIN_UNIFORM} are needed: a "
            f"sampler looks where it expects good results, which says little about the rest. Add some: {remedy}"
        )
    if len(y) < MIN_PER_INPUT * d:
        return f"{len(y)} full-budget trials are few for {d} hyperparameters, {MIN_PER_INPUT * d} are needed: {remedy}"
    if np.ptp(y[uniform]) <= 1e-12 * np.abs(y).max():
        return "all values are equal: there is no variance to explain"
    return None


def _unpredicted(best: Surrogate, remedy: str) -> str:
    return (
        f"the better surrogate, a {best.name}, predicts {max(0.0, best.r2):.0%} of the variance of uniform trials that "
        f"it was not shown; below {TRUSTED:.0%} its indices would be guesswork. Either noise is larger than the effect "
        f"of the hyperparameters, or more uniform trials are needed: {remedy}"
    )


def sobol_indices(f: Callable[[Array], Array], inputs: Inputs, *, points: int = POINTS, seed: int = 0) -> Array:
    """First-order, total and second-order Sobol indices by pick-freeze.

    First order and closed second order after Saltelli et al., Comput. Phys. Commun. 181 (2010); total after Jansen,
    Comput. Phys. Commun. 117 (1999); on a scrambled Sobol' sequence.

    Args:
        f: functions, values [k, n] at encoded rows [n, columns].
        points: base sample; ``points * (2 d + 2)`` rows are evaluated.

    Returns:
        [k, d + d + d (d - 1) / 2]: first order, total, then pairs in the order of `itertools.combinations`.
    """
    d = len(inputs)
    unit = uniform_points(points, 2 * d, seed)
    a, b = unit[:, :d], unit[:, d:]
    mixed = [np.where(np.arange(d) == i, other, one) for one, other in ((a, b), (b, a)) for i in range(d)]
    y = f(inputs.sample(np.vstack([a, b, *mixed]))).reshape(-1, 2 * d + 2, points)
    y -= y[:, :2].mean((1, 2), keepdims=True)
    fa, fb, ab, ba = y[:, :1], y[:, 1:2], y[:, 2 : d + 2], y[:, d + 2 :]
    variance = np.maximum(y[:, :2].var((1, 2)), 1e-300)[:, None]
    first = (fb * (ab - fa)).mean(2) / variance
    total = ((fa - ab) ** 2).mean(2) / 2 / variance
    i, j = np.triu_indices(d, 1)
    closed = (ba[:, i] * ab[:, j] - fa * fb).mean(2) / variance
    return np.hstack([first, total, closed - first[:, i] - first[:, j]])


def _intervals(estimates: Sequence[Array]) -> tuple[list[float], Array, Array]:
    """Values of the best surrogate, and the envelope of the 95 % intervals of all, within [0, 1]."""
    value = np.clip(estimates[0][0], 0, 1)
    ends = np.array([np.percentile(each[1:], [2.5, 97.5], axis=0) for each in estimates])
    low, high = np.minimum(ends[:, 0].min(0), value), np.maximum(ends[:, 1].max(0), value)
    return value.tolist(), np.clip(low, 0, 1), np.clip(high, 0, 1)


def effect(fitted: Fitted, name: str, *, points: int = 33, sample: int = 256, seed: int = 0) -> Effect:
    """The expected value of the objective over the values of one hyperparameter, all others uniform."""
    values, y = _held(fitted, [name], points, sample, seed)
    low, high = np.percentile(y[1:], [2.5, 97.5], axis=0)
    return Effect(values[0], y[0], low, high)


def surface(fitted: Fitted, a: str, b: str, *, points: int = 25, sample: int = 128, seed: int = 0) -> Surface:
    """The expected value of the objective over the values of two hyperparameters, all others uniform."""
    values, y = _held(fitted, [a, b], points, sample, seed)
    return Surface(values[0], values[1], y[0].reshape(len(values[0]), len(values[1])))


def _held(
    fitted: Fitted, names: Sequence[str], points: int, sample: int, seed: int
) -> tuple[list[list[Scalar]], Array]:
    """Values at which hyperparameters are held, and means over all others: [k, product of their numbers]."""
    inputs = fitted.inputs
    unit = uniform_points(sample, len(inputs), seed)
    held = {each.name: each.shown(points) for each in inputs if each.name in names}
    rows = inputs.sample(unit)
    blocks = []
    for values in itertools.product(*(held[name] for name in names)):
        block = rows.copy()
        for name, value in zip(names, values, strict=True):
            block[:, inputs.column(name)] = inputs[name].encode([value])
        blocks.append(block)
    y = fitted.surrogate.predict(np.vstack(blocks))
    return [held[name] for name in names], y.reshape(len(y), -1, sample).mean(2)
