"""Sobol indices of functions and of surrogates, the latter with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .surrogates import Array, Inputs, Surrogate, uniform_points

Interval = tuple[float, float]
Estimate = Callable[..., Array]  # of indices, as `sobol_indices`
POINTS, ROUGH_POINTS = 8192, 1024  # base samples of a surrogate, and of its replicates


def sobol_indices(f: Callable[[Array], Array], inputs: Inputs, *, points: int = 2048, seed: int = 0) -> Array:
    """Estimates first-order, total and second-order Sobol indices by pick-freeze on a scrambled Sobol' sequence.

    Each index is the mean of the two estimates that the two base samples allow. First order and closed second order:
    Saltelli et al., Comput. Phys. Commun. 181 (2010); total: Jansen, Comput. Phys. Commun. 117 (1999).

    Args:
        f: k functions, values [k, n] at encoded rows [n, columns].
        inputs: the space, d hyperparameters.
        points: size of each base sample, a power of 2; ``points * (2 d + 2)`` rows are evaluated.
        seed: of the sequence's scrambling.

    Returns:
        [k, d + d + d (d - 1) / 2]: first order, total, then pairs in the order of `itertools.combinations`.

    Example:
        Of y = a + 2 b, uniform and independent, a explains 1 / (1 + 4) of the variance and b the rest:

        >>> from optuna.distributions import FloatDistribution
        >>> from sweep.analysis.surrogates import Input, Inputs
        >>> inputs = Inputs([Input(name, FloatDistribution(0.0, 1.0)) for name in ("a", "b")])
        >>> indices = sobol_indices(lambda x: (x[:, 0] + 2 * x[:, 1])[None], inputs)[0]
        >>> [abs(round(float(index), 2)) for index in indices]
        [0.2, 0.8, 0.2, 0.8, 0.0]
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


def indices_with_intervals(
    surrogates: Sequence[Surrogate], inputs: Inputs, *, seed: int, estimate: Estimate = sobol_indices
) -> tuple[Array, Array, Array]:
    """Returns indices of the first surrogate, and the ends of the envelope of all 95 % intervals; within [0, 1]."""
    estimates = [_replicated(each, inputs, seed, estimate) for each in surrogates]
    value = np.clip(estimates[0][0], 0, 1)
    ends = np.clip([np.percentile(each[1:], [2.5, 97.5], axis=0) for each in estimates], 0, 1)
    return value, np.minimum(ends[:, 0].min(0), value), np.maximum(ends[:, 1].max(0), value)


def _replicated(surrogate: Surrogate, inputs: Inputs, seed: int, estimate: Estimate) -> Array:
    """Returns the indices of a surrogate, then those of its replicates: [1 + REPLICATES, indices].

    The replicates get fewer points; the error that those points make on the surrogate itself is subtracted.
    """

    def both(x: Array) -> Array:
        return np.vstack([surrogate.mean(x), surrogate.replicates(x)])

    value = estimate(lambda x: surrogate.mean(x)[None], inputs, points=POINTS, seed=seed)
    rough = estimate(both, inputs, points=ROUGH_POINTS, seed=seed)
    return np.vstack([value, rough[1:] - rough[:1] + value])
