"""The inputs of a surrogate, the trials that it is fitted to, and one surrogate: sparse polynomial chaos.

Each surrogate predicts tested trials by models that never saw them, and holds replicates of itself for intervals.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from ..config.search_space import Scalar, are_numbers
from ..study.distributions import Distribution, from_unit

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

REPLICATES = 64
QUANTILES = 4096  # equally likely values that represent the distribution of one input
DEGREE = 6
FOLDS = 8


class Input:
    """The encoding of one hyperparameter: a column in [0, 1], or one column for each unordered choice.

    - Numbers are scaled to their range, in log if the space is logarithmic.
    - Numeric choices that are ``ordered`` are sorted, and scaled in log if they span a factor of 4.
    - Other choices are one-hot / sqrt 2, so that any two have distance 1.

    ``values`` are ``QUANTILES`` equally likely values, in order, or those of them that fulfil the condition; ``levels``
    are the distinct ones. An ordered input has one column.
    """

    def __init__(
        self,
        name: str,
        distribution: Distribution,
        condition: Callable[[Any], bool] | None = None,
        *,
        ordered: bool = True,
    ):
        self.name = name
        choices = getattr(distribution, "choices", ())
        self.ordered = not choices or (ordered and are_numbers(choices))
        values = [from_unit(distribution, (i + 0.5) / QUANTILES) for i in range(QUANTILES)]
        self.values: list[Any] = [v for v in values if condition is None or condition(v)]
        if choices and self.ordered:
            self.values.sort()
        self.levels = [v for v, _ in itertools.groupby(self.values)]
        self._log = bool(getattr(distribution, "log", False))
        if choices and self.ordered and self.levels:
            self._log = 0 < 4 * self.levels[0] <= self.levels[-1]
        self.width = 1 if self.ordered else len(self.levels)
        self._rows = self.encode(self.values)

    def encode(self, values: Sequence[Any]) -> Array:
        """Returns the columns [n, width] of values."""
        if not self.ordered:
            return np.array([[(v == level) / 2**0.5 for level in self.levels] for v in values]).reshape(-1, self.width)
        if len(self.levels) < 2:
            return np.zeros((len(values), 1))
        scale: Any = np.log if self._log else np.asarray
        low, high = scale(float(self.levels[0])), scale(float(self.levels[-1]))
        return np.reshape((scale(np.asarray(values, float)) - low) / (high - low), (-1, 1))

    def sample(self, unit: Array) -> Array:
        """Returns the columns [n, width] at the quantiles ``unit`` [n] of the distribution."""
        return np.asarray(self._rows[(unit * len(self._rows)).astype(int)])

    def shown(self, count: int) -> list[Scalar]:
        """Returns all levels, or ``count`` values at even quantiles if there are more levels than that."""
        if len(self.levels) <= count:
            return self.levels
        return [self.values[i] for i in np.linspace(0, len(self.values) - 1, count).round().astype(int)]


class Inputs:
    """The hyperparameters of a space, their columns side by side."""

    def __init__(self, inputs: Sequence[Input]):
        ends = np.cumsum([0, *(each.width for each in inputs)]).tolist()
        self._inputs = {each.name: each for each in inputs}
        self._columns = {each.name: slice(*ends[i : i + 2]) for i, each in enumerate(inputs)}

    def __iter__(self) -> Iterator[Input]:
        return iter(self._inputs.values())

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, name: str) -> Input:
        return self._inputs[name]

    def column(self, name: str) -> slice:
        """Returns the slice of a hyperparameter's columns."""
        return self._columns[name]

    def encode(self, values: Mapping[str, Sequence[Any]]) -> Array:
        """Returns the rows [n, columns] of trials."""
        return np.hstack([each.encode(values[each.name]) for each in self])

    def sample(self, unit: Array) -> Array:
        """Returns rows [n, columns] at points of the unit cube [n, d]; uniform points become uniform over the space."""
        return np.hstack([each.sample(unit[:, i]) for i, each in enumerate(self)])


def uniform_points(count: int, d: int, seed: int) -> Array:
    """Returns a scrambled Sobol' sequence [count, d]; ``count`` is a power of 2."""
    from scipy.stats import qmc

    return np.asarray(qmc.Sobol(d, scramble=True, rng=np.random.default_rng(seed)).random(count))


class Surrogate(Protocol):
    """A model that predicts the objective from encoded hyperparameters."""

    name: str
    held_out: Array  # [n]: prediction of each tested trial by a model that was chosen and fitted without it; else NaN

    def mean(self, x: Array) -> Array:
        """Returns the prediction [n] at encoded rows [n, columns]."""

    def replicates(self, x: Array) -> Array:
        """Returns the predictions of the replicates, [REPLICATES, n]."""


@dataclass(frozen=True)
class Trials:
    """The trials that a surrogate is fitted to.

    Attributes:
        x: encoded hyperparameters, [n, columns].
        y: the value of each, [n].
        tested: mask [n] of the uniform trials that measure how well a surrogate predicts.
        points: [n]; trials that repeat a point on another seed have one number, and are held out together.
    """

    inputs: Inputs
    x: Array
    y: Array
    tested: Mask
    points: Rows

    def folds(self, rng: np.random.Generator) -> list[tuple[Rows, Rows]]:
        """Returns splits (train, test): each tests a part of the tested trials and trains on all other trials."""
        rows, tested = np.arange(len(self.y)), rng.permutation(np.unique(self.points[self.tested]))
        held = [np.isin(self.points, part) for part in np.array_split(tested, FOLDS)]
        return [(rows[~part], rows[part & self.tested]) for part in held]

    def first(self, rows: Rows) -> Trials:
        """Returns the trials in these rows."""
        return replace(self, x=self.x[rows], y=self.y[rows], tested=self.tested[rows], points=self.points[rows])


class PolynomialChaos:
    """Sparse polynomial chaos: Legendre polynomials of single inputs and of pairs, chosen by the lasso.

    The penalty for the trials of a fold is chosen by the other folds. Replicates are fits to bootstrap samples of the
    trials, with the penalty that was chosen for all trials.

    Source: Blatman and Sudret, J. Comput. Phys. 230 (2011).
    """

    name = "polynomial chaos"

    def __init__(self, trials: Trials, seed: int):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import Lasso, lasso_path

        self._basis = Basis(trials.inputs, DEGREE, seed)
        z, y, rng = self._basis(trials.x), trials.y, np.random.default_rng(seed)
        penalties = np.abs((z - z.mean(0)).T @ (y - y.mean())).max() / len(y) * np.logspace(0, -3, 50)

        def predicted(train: Rows, test: Rows) -> Array:
            center, level = z[train].mean(0), y[train].mean()
            _, weights, _ = lasso_path(z[train] - center, y[train] - level, alphas=penalties, max_iter=20_000)
            return np.asarray(level + (z[test] - center) @ weights).T

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.held_out, best = nested(trials, rng, predicted)
            fits = [Lasso(penalties[best], max_iter=20_000).fit(z, y)]
            for _ in range(REPLICATES):
                rows = rng.integers(len(y), size=len(y))
                fits.append(Lasso(penalties[best], max_iter=5_000, tol=1e-3).fit(z[rows], y[rows]))
        weights = np.array([fit.coef_ for fit in fits])
        self._used = np.flatnonzero(weights.any(0))
        self._weights, self._intercepts = weights[:, self._used], np.array([[fit.intercept_] for fit in fits])

    def mean(self, x: Array) -> Array:
        """See `Surrogate`."""
        return np.asarray(self._intercepts[0] + self._basis(x, self._used) @ self._weights[0])

    def replicates(self, x: Array) -> Array:
        """See `Surrogate`."""
        return self._intercepts[1:] + self._weights[1:] @ self._basis(x, self._used).T


def nested(trials: Trials, rng: np.random.Generator, predicted: Callable[[Rows, Rows], Array]) -> tuple[Array, int]:
    """Chooses one of k penalties by cross-validation; ``predicted`` returns the predictions [k, test] under each.

    Returns:
        The held-out predictions [n], in each fold under the penalty that the other folds would choose; and the index of
        the penalty that all folds choose.
    """
    folds = trials.folds(rng)
    found = [predicted(train, test) for train, test in folds]
    missed = np.array([((each - trials.y[test]) ** 2).sum(1) for each, (_, test) in zip(found, folds, strict=True)])
    held_out = np.full(len(trials.y), np.nan)
    for each, own, (_, test) in zip(found, missed, folds, strict=True):
        held_out[test] = each[np.argmin(missed.sum(0) - own)]
    return held_out, int(np.argmin(missed.sum(0)))


class Basis:
    """Functions of one and of two inputs, each with mean 0 and variance 1 over the space.

    An ordered input has Legendre polynomials, as many as its levels determine; another has an indicator of each choice.
    """

    def __init__(self, inputs: Inputs, degree: int, seed: int):
        self._inputs, self._degree = inputs, degree
        orders = ((each, min(degree, len(each.levels) - 1)) for each in inputs)
        degrees = [[*range(1, most + 1)] if each.ordered else [1] * each.width for each, most in orders]
        terms: list[tuple[tuple[int, int], ...]] = [((i, k),) for i, own in enumerate(degrees) for k in range(len(own))]
        for (i, a), (j, b) in itertools.combinations(enumerate(degrees), 2):
            both = itertools.product(range(len(a)), range(len(b)))
            terms += [((i, k), (j, m)) for k, m in both if a[k] + b[m] <= degree]
        self._terms = terms
        self._center, self._scale = np.zeros(len(terms)), np.ones(len(terms))
        reference = self(inputs.sample(uniform_points(1024, len(inputs), seed)))
        self._center, self._scale = reference.mean(0), np.maximum(reference.std(0), 1e-12)

    def __call__(self, x: Array, used: Sequence[int] | NDArray[np.intp] | None = None) -> Array:
        """Returns all functions, or those ``used``, at encoded rows: [n, functions]."""
        used = np.arange(len(self._terms)) if used is None else np.asarray(used)
        parts = ((each.ordered, x[:, self._inputs.column(each.name)]) for each in self._inputs)
        factors = [legvander(2 * part[:, 0] - 1, self._degree)[:, 1:] if ordered else part for ordered, part in parts]
        out = np.ones((len(x), len(used)))
        for column, term in enumerate(used):
            for i, k in self._terms[term]:
                out[:, column] *= factors[i][:, k]
        return (out - self._center[used]) / self._scale[used]
