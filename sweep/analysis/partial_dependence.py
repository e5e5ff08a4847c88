"""The expected objective over one or two hyperparameters, by a surrogate."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config.search_space import Scalar
from .surrogates import Array, Inputs, Surrogate, uniform_points


@dataclass(frozen=True)
class FittedSurrogate:
    """A surrogate and the space that it was fitted on."""

    inputs: Inputs
    surrogate: Surrogate
    log: bool = False  # True if it predicts the logarithm of the objective


@dataclass(frozen=True)
class Effect:
    """The expected objective for each value of one hyperparameter, E[y | x_i], with pointwise 95 % bands, [n] each.

    Of a surrogate of the logarithm, it is the geometric mean.
    """

    values: list[Scalar]
    mean: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Surface:
    """The expected objective for each pair of values, E[y | x_a, x_b]: ``mean`` [len(a), len(b)]."""

    a: list[Scalar]
    b: list[Scalar]
    mean: Array


def partial_dependence(fitted: FittedSurrogate, name: str) -> Effect:
    """Returns the expected objective over one hyperparameter, at most 33 of its values, the others uniform."""
    values, rows = _held(fitted.inputs, [name], points=33, sample=128)
    curves = fitted.surrogate.replicates(rows).reshape(-1, len(values[0]), 128).mean(2)
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    mean = fitted.surrogate.mean(rows).reshape(-1, 128).mean(1)
    return Effect(values[0], *(np.exp(each) if fitted.log else each for each in (mean, low, high)))


def partial_dependence_2d(fitted: FittedSurrogate, a: str, b: str) -> Surface:
    """Returns the expected objective over two hyperparameters, at most 19 values each, the others uniform."""
    values, rows = _held(fitted.inputs, [a, b], points=19, sample=64)
    mean = fitted.surrogate.mean(rows).reshape(len(values[0]), len(values[1]), 64).mean(2)
    return Surface(values[0], values[1], np.exp(mean) if fitted.log else mean)


def _held(inputs: Inputs, names: Sequence[str], *, points: int, sample: int) -> tuple[list[list[Scalar]], Array]:
    """Returns the values of the held hyperparameters, and ``sample`` encoded rows for each combination of values."""
    held = [inputs[name].shown(points) for name in names]
    rows, blocks = inputs.sample(uniform_points(sample, len(inputs), seed=0)), []
    for values in itertools.product(*held):
        blocks.append(rows.copy())
        for name, value in zip(names, values, strict=True):
            blocks[-1][:, inputs.column(name)] = inputs[name].encode([value])
    return held, np.vstack(blocks)
