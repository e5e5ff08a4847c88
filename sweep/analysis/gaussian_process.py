"""A Gaussian process as surrogate: its kernel by marginal likelihood, its replicates by draws from the posterior."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from .surrogates import REPLICATES, Array, Trials

TUNED_ON, CONDITIONED_ON = 200, 320  # maximum of trials, uniform ones first: the time is cubic in them
RESTARTS, SHORT, LONG = 3, 0.1, 10.0  # starts, between these length scales
FEATURES = 256  # random Fourier features of a draw from the prior
START = (0.0, np.log(0.1), 0.0)  # log of the amplitude, the noise and each length scale
BOUNDS = (np.log([1e-2, 1e3]), np.log([1e-6, 10]), np.log([0.05, 1e3]))


class GaussianProcess:
    """Gaussian process with a Matern-5/2 kernel, a length scale for each column (ARD), and white noise.

    Held-out trials are predicted by a kernel that was fitted without them. The replicates are draws from the posteriors
    under the kernels of all folds, so they hold the uncertainty of the kernel: random Fourier features draw from the
    prior, which is then conditioned exactly (Wilson et al., Efficiently sampling functions from Gaussian process
    posteriors, ICML 2020). Arguments: see `PolynomialChaos`.
    """

    name = "Gaussian process"

    def __init__(self, trials: Trials, seed: int):
        rng, y = np.random.default_rng(seed), trials.y
        # Uniform trials first, though not alone: it is to hold all over the space, and where the sampler looked.
        order = np.r_[rng.permutation(np.flatnonzero(trials.tested))[: TUNED_ON * 3 // 4], rng.permutation(len(y))]
        some = np.array(list(dict.fromkeys(order.tolist())))[:CONDITIONED_ON]
        known = trials.first(some)
        self._center, self._scale = known.y[known.tested].mean(), known.y[known.tested].std()
        x, z = known.x, (known.y - self._center) / self._scale
        start = np.r_[START[:2], np.full(x.shape[1], START[2])]
        others = [np.r_[start[:2], rng.uniform(np.log(SHORT), np.log(LONG), x.shape[1])] for _ in range(RESTARTS)]
        self._kernel = fit_kernel(x[:TUNED_ON], z[:TUNED_ON], [start, *others])
        self.held_out, kernels = np.full(len(y), np.nan), []
        for train, test in known.folds(rng):
            kernels.append(fit_kernel(x[train[:TUNED_ON]], z[train[:TUNED_ON]], [self._kernel, start]))
            predicted = covariance(kernels[-1], x[test], x[train]) @ weights_of(kernels[-1], x[train], z[train])
            self.held_out[some[test]] = self._center + self._scale * predicted
        self._x, self._weights = x, weights_of(self._kernel, x, z)
        self._posteriors = [Posterior(kernel, x, z, REPLICATES // len(kernels), rng) for kernel in kernels]

    def mean(self, x: Array) -> Array:
        """See `Surrogate`."""
        return np.asarray(self._center + self._scale * (covariance(self._kernel, x, self._x) @ self._weights))

    def deviation(self, x: Array) -> Array:
        """Returns the standard deviation [n] of the posterior at encoded rows [n, columns], without the noise."""
        factor = cholesky(_with_noise(self._kernel, self._x), lower=True)
        known = solve_triangular(factor, covariance(self._kernel, self._x, x), lower=True)
        return np.asarray(self._scale * np.sqrt(np.maximum(np.exp(self._kernel[0]) - (known * known).sum(0), 0)))

    def replicates(self, x: Array) -> Array:
        """See `Surrogate`."""
        return np.vstack([self._center + self._scale * each.draws(x) for each in self._posteriors])


class Posterior:
    """``count`` draws from the posterior under one kernel."""

    def __init__(self, kernel: Array, x: Array, y: Array, count: int, rng: np.random.Generator):
        self._kernel, self._x = kernel, x
        # The spectral density of Matern-5/2 is Student's t with 5 degrees of freedom.
        student = rng.standard_normal((x.shape[1], FEATURES)) / np.sqrt(rng.chisquare(5, FEATURES) / 5)
        self._frequencies, self._phases = student / np.exp(kernel[2:, None]), rng.uniform(0, 2 * np.pi, FEATURES)
        self._prior_weights = rng.standard_normal((FEATURES, count)) * np.sqrt(2 * np.exp(kernel[0]) / FEATURES)
        seen = self._prior(x) + np.exp(kernel[1] / 2) * rng.standard_normal((len(x), count))
        self._update = weights_of(kernel, x, y[:, None] - seen)

    def _prior(self, x: Array) -> Array:
        return np.asarray(np.cos(x @ self._frequencies + self._phases) @ self._prior_weights)

    def draws(self, x: Array) -> Array:
        """Returns the draws at encoded rows [n, columns]: [count, n]."""
        return (self._prior(x) + covariance(self._kernel, x, self._x) @ self._update).T


def covariance(kernel: Array, a: Array, b: Array) -> Array:
    """Returns the covariances [len(a), len(b)] of noise-free values at encoded rows."""
    root = np.sqrt(5 * _square_distances(a / np.exp(kernel[2:]), b / np.exp(kernel[2:])))
    return np.asarray(np.exp(kernel[0]) * (1 + root + root**2 / 3) * np.exp(-root))


def _square_distances(a: Array, b: Array) -> Array:
    return np.asarray(np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0))


def weights_of(kernel: Array, x: Array, y: Array) -> Array:
    """Returns the weights of the covariances with ``x`` in the posterior mean, for each column of ``y``."""
    return np.asarray(cho_solve((cholesky(_with_noise(kernel, x), lower=True), True), y))


def _with_noise(kernel: Array, x: Array) -> Array:
    return np.asarray(covariance(kernel, x, x) + (np.exp(kernel[1]) + 1e-10) * np.eye(len(x)))


def fit_kernel(x: Array, y: Array, starts: list[Array]) -> Array:
    """Returns the most likely kernel that is found from the starts."""
    bounds = [BOUNDS[0], BOUNDS[1], *[BOUNDS[2]] * x.shape[1]]
    low, high = np.transpose(bounds)
    found = [
        minimize(negative_log_likelihood, np.clip(s, low, high), (x, y), "L-BFGS-B", jac=True, bounds=bounds)
        for s in starts
    ]
    return np.asarray(min(found, key=lambda each: each.fun).x)


def negative_log_likelihood(kernel: Array, x: Array, y: Array) -> tuple[float, Array]:
    """Returns the negative logarithm of the marginal likelihood, up to a constant, and its gradient.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 5.8 and 5.9.
    """
    amplitude, noise, z = np.exp(kernel[0]), np.exp(kernel[1]), x / np.exp(kernel[2:])
    root = np.sqrt(5 * _square_distances(z, z))
    decay = amplitude * np.exp(-root)
    free = decay * (1 + root + root**2 / 3)
    try:
        factor = cholesky(free + (noise + 1e-10) * np.eye(len(y)), lower=True)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros(len(kernel))
    inverse = cho_solve((factor, True), np.eye(len(y)))
    weights = inverse @ y
    slope = (inverse - np.outer(weights, weights)) / 2  # of the value by each covariance
    near = slope * decay * (5 / 3) * (1 + root)
    by_scale = 2 * (near.sum(1) @ z**2 - (z * (near @ z)).sum(0))
    value = y @ weights / 2 + np.log(np.diag(factor)).sum()
    return float(value), np.r_[(slope * free).sum(), noise * np.trace(slope), by_scale]
