"""Shapley effects: shares of the variance of a function whose inputs depend on each other, as under constraints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from ..study.constrained import Inside
from .surrogates import Array, Inputs, Mask

MOST_INPUTS = 8  # each subset of them is averaged over
DRAWS = 3  # of the other inputs for each point, beside its own
MOST_TRIES = 64


def shapley_effects(
    f: Callable[[Array], Array], inputs: Inputs, inside: Inside, *, points: int = 4096, seed: int = 0
) -> Array:
    """Estimates the Shapley effects of a function of inputs that are uniform within constraints.

    The effect of an input is its mean gain in explained variance, Var(E[y | inputs]), over all orders in which inputs
    become known. All effects are at least 0 and sum to 1; of independent inputs each lies between the first order and
    the total index. Source: Owen, Sobol' indices and Shapley value, SIAM/ASA J. Uncertain. Quantif. 2 (2014); for
    dependent inputs: Song, Nelson and Staum, Shapley effects for global sensitivity analysis, same journal, 4 (2016).

    Args:
        f: k functions, values [k, n] at encoded rows [n, columns].
        inputs: the space, d hyperparameters; 8 at most.
        inside: the constraints.
        points: points within them at which conditional means are estimated; each with three draws of what is not known.
        seed: of the draws.

    Returns:
        [k, d]. An estimate may be a little below 0.

    Example:
        Of y = a within a + b <= 1, b explains a part, since it limits a:

        >>> from optuna.distributions import FloatDistribution
        >>> from sweep.analysis.surrogates import Input
        >>> inputs = Inputs([Input(name, FloatDistribution(0.0, 1.0)) for name in ("a", "b")])
        >>> effects = shapley_effects(lambda x: x[None, :, 0], inputs, lambda v: v["a"] + v["b"] <= 1)
        >>> [round(float(effect), 1) for effect in effects[0]]
        [0.9, 0.1]
    """
    d, rng = len(inputs), np.random.default_rng(seed)
    values = [np.array(each.values, float if each.ordered else object) for each in inputs]
    names = [each.name for each in inputs]

    def fulfils(unit: Array) -> Mask:
        at = (unit * [len(each) for each in values]).astype(int)
        return inside({name: values[i][at[..., i]] for i, name in enumerate(names)})

    base = np.empty((0, d))
    while len(base) < points:
        drawn = rng.random((4 * points, d))
        base = np.vstack([base, drawn[fulfils(drawn)]])
    base = base[:points]
    own = f(inputs.sample(base))  # [k, points]
    mean, variance = own.mean(1, keepdims=True), np.maximum(own.var(1), 1e-300)
    explained = {(): np.zeros(len(own)), tuple(range(d)): variance}
    for size in range(1, d):
        for known in itertools.combinations(range(d), size):
            drawn = _redrawn(base, known, fulfils, rng).reshape(-1, d)
            y = f(inputs.sample(drawn)).reshape(len(own), points, DRAWS) - mean[..., None]
            both = np.concatenate([(own - mean)[..., None], y], axis=2)
            # The products of different draws at one point are unbiased for the square of the conditional mean.
            square = (both.sum(2) ** 2 - (both**2).sum(2)) / (DRAWS * (DRAWS + 1))
            explained[known] = square.mean(1)
    effects = np.zeros((len(own), d))
    for known, before in explained.items():
        for i in set(range(d)) - set(known):
            weight = 1 / (d * math.comb(d - 1, len(known)))
            effects[:, i] += weight * (explained[tuple(sorted((*known, i)))] - before)
    return np.asarray(effects / variance[:, None])


def _redrawn(base: Array, known: tuple[int, ...], fulfils: Callable[[Array], Mask], rng: np.random.Generator) -> Array:
    """Returns ``DRAWS`` points [points, DRAWS, d] for each of ``base`` that share its known inputs, all inside.

    Where none is found in a thin part of the space, the point itself stands in.
    """
    found = np.repeat(base[:, None], DRAWS, axis=1)
    missing = np.arange(len(base))
    have = np.zeros(len(base), int)
    for _ in range(MOST_TRIES):
        drawn = rng.random((len(missing), 2 * DRAWS, base.shape[1]))
        drawn[:, :, list(known)] = base[missing][:, None, list(known)]
        row, place = np.nonzero(fulfils(drawn))
        rank = have[missing[row]] + np.arange(len(row)) - np.searchsorted(row, row)  # of a draw among its point's
        kept = rank < DRAWS
        found[missing[row[kept]], rank[kept]] = drawn[row[kept], place[kept]]
        have += np.bincount(missing[row], minlength=len(base))
        missing = missing[have[missing] < DRAWS]
        if not len(missing):
            break
    return found
