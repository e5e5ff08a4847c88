"""Surrogates of an objective over its search space: sparse polynomial chaos and a Gaussian process.

Each measures how well it predicts held-out uniform trials, and holds replicates of itself for intervals.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from ..config.search_space import Scalar
from ..study.distributions import Distribution, from_unit

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

REPLICATES = 64
QUANTILES = 4096  # equally likely values that represent the distribution of one input
DEGREE = 6
FOLDS = 8
TUNED_ON, CONDITIONED_ON = 200, 320  # maximum of trials, uniform ones first: the time is cubic in them
FEATURES = 1024  # random Fourier features of a draw from the prior


class Input:
    """The encoding of one hyperparameter: a column in [0, 1], or one column for each unordered choice.

    - Numbers are scaled to their range, in log if the space is logarithmic.
    - Numeric choices are sorted, and scaled in log if they span a factor of 4.
    - Other choices are one-hot / sqrt 2, so that any two have distance 1.

    ``values`` are ``QUANTILES`` equally likely values, in order, or those of them that fulfil the condition; ``levels``
    are the distinct ones. An ordered input has one column.
    """

    def __init__(self, name: str, distribution: Distribution, condition: Callable[[Any], bool] | None = None):
        self.name = name
        choices = getattr(distribution, "choices", ())
        self.ordered = all(isinstance(c, int | float) and not isinstance(c, bool) for c in choices)
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
    r2: float  # cross-validated share of the variance of uniform trials that the model predicts

    def mean(self, x: Array) -> Array:
        """Returns the prediction [n] at encoded rows [n, columns]."""

    def replicates(self, x: Array) -> Array:
        """Returns the predictions of the replicates, [REPLICATES, n]."""


class PolynomialChaos:
    """Sparse polynomial chaos: Legendre polynomials of single inputs and of pairs, chosen by the lasso.

    Replicates are fits to bootstrap samples of the trials, with the penalty that was chosen for all trials.

    Encoded trials ``x`` [n, columns] have the values ``y`` [n]; ``uniform`` [n] masks those at uniform points.

    Source: Blatman and Sudret, J. Comput. Phys. 230 (2011).
    """

    name = "polynomial chaos"

    def __init__(self, inputs: Inputs, x: Array, y: Array, uniform: Mask, seed: int):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import Lasso, LassoCV

        self._basis = Basis(inputs, DEGREE, seed)
        z, rng = self._basis(x), np.random.default_rng(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            whole = LassoCV(cv=folds(uniform, rng), max_iter=20_000).fit(z, y)
            self.r2 = float(1 - whole.mse_path_.mean(1).min() / y[uniform].var())
            fits = [whole]
            for _ in range(REPLICATES):
                rows = rng.integers(len(y), size=len(y))
                fits.append(Lasso(whole.alpha_, max_iter=5_000, tol=1e-3).fit(z[rows], y[rows]))
        weights = np.array([fit.coef_ for fit in fits])
        self._used = np.flatnonzero(weights.any(0))
        self._weights, self._intercepts = weights[:, self._used], np.array([[fit.intercept_] for fit in fits])

    def mean(self, x: Array) -> Array:
        """See `Surrogate`."""
        return np.asarray(self._intercepts[0] + self._basis(x, self._used) @ self._weights[0])

    def replicates(self, x: Array) -> Array:
        """See `Surrogate`."""
        return self._intercepts[1:] + self._weights[1:] @ self._basis(x, self._used).T


def folds(uniform: Mask, rng: np.random.Generator) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Returns splits (train, test): each tests a part of the uniform trials and trains on all other trials."""
    tested, every = rng.permutation(np.flatnonzero(uniform)), np.arange(len(uniform))
    return [(np.setdiff1d(every, part), part) for part in np.array_split(tested, FOLDS)]


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


class GaussianProcess:
    """Gaussian process with a Matern-5/2 kernel, a length scale for each column (ARD), and white noise.

    R2 is that of leave-one-out prediction (Rasmussen and Williams, Gaussian Processes for Machine Learning, 5.4.2).
    Replicates are draws from the posterior: random Fourier features draw from the prior, which is then conditioned
    exactly (Wilson et al., Efficiently sampling functions from Gaussian process posteriors, ICML 2020).
    Arguments: see `PolynomialChaos`.
    """

    name = "Gaussian process"

    def __init__(self, inputs: Inputs, x: Array, y: Array, uniform: Mask, seed: int):
        del inputs  # the columns are all it needs
        rng = np.random.default_rng(seed)
        # Uniform trials first, though not alone: it is to hold all over the space, and where the sampler looked.
        order = np.r_[rng.permutation(np.flatnonzero(uniform))[: TUNED_ON * 3 // 4], rng.permutation(len(y))]
        some = np.array(list(dict.fromkeys(order.tolist())))[:CONDITIONED_ON]
        x, y, uniform = x[some], y[some], uniform[some]
        self._x, self._center, self._scale = x, y[uniform].mean(), y[uniform].std()
        target = (y - self._center) / self._scale
        self._kernel, noise = _fit_kernel(x[:TUNED_ON], target[:TUNED_ON], seed)
        inverse = np.linalg.inv(self._kernel(x) + (noise + 1e-10) * np.eye(len(y)))
        missed = (inverse @ target / np.diag(inverse))[uniform]
        self.r2 = float(1 - np.mean(missed**2) / target[uniform].var())
        amplitude, scales = self._kernel.k1.constant_value, np.reshape(self._kernel.k2.length_scale, (-1, 1))
        # The spectral density of Matern-5/2 is Student's t with 5 degrees of freedom.
        student = rng.standard_normal((x.shape[1], FEATURES)) / np.sqrt(rng.chisquare(5, FEATURES) / 5)
        self._frequencies, self._phases = student / scales, rng.uniform(0, 2 * np.pi, FEATURES)
        self._weights = rng.standard_normal((FEATURES, REPLICATES)) * np.sqrt(2 * amplitude / FEATURES)
        prior = self._prior(x)
        seen = prior + np.sqrt(noise) * rng.standard_normal(prior.shape)
        self._update = inverse @ np.c_[target, target[:, None] - seen]

    def _prior(self, x: Array) -> Array:
        return np.asarray(np.cos(x @ self._frequencies + self._phases) @ self._weights)

    def mean(self, x: Array) -> Array:
        """See `Surrogate`."""
        return np.asarray(self._center + self._scale * (self._kernel(x, self._x) @ self._update[:, 0]))

    def replicates(self, x: Array) -> Array:
        """See `Surrogate`."""
        draws = self._prior(x) + self._kernel(x, self._x) @ self._update[:, 1:]
        return np.asarray(self._center + self._scale * draws).T


def _fit_kernel(x: Array, y: Array, seed: int) -> tuple[Any, float]:
    """Returns the kernel of largest marginal likelihood, and the variance of the noise."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(np.ones(x.shape[1]), (0.05, 1e3), nu=2.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A single start ended in a bad optimum at times; restarts make the fit reliable.
        noisy = kernel + WhiteKernel(0.1, (1e-6, 10))
        fitted = GaussianProcessRegressor(noisy, n_restarts_optimizer=4, random_state=seed).fit(x, y)
    return fitted.kernel_.k1, float(fitted.kernel_.k2.noise_level)
