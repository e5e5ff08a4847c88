"""Optuna's distributions of a search space, and uniform points of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from ..config.search_space import Choices, Range, Scalar
from ..config.study_config import StudyConfig

Distribution = BaseDistribution
Distributions = Mapping[str, BaseDistribution]


def distributions(searched: Mapping[str, Range | Choices]) -> dict[str, BaseDistribution]:
    """Returns the Optuna distribution of each searched dimension, in the order of the study file."""
    return {name: _distribution(dimension) for name, dimension in searched.items()}


def _distribution(dimension: Range | Choices) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.choices)
    if dimension.is_int:
        first, last, stride = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(first, last - (last - first) % stride, log=dimension.log, step=stride)
    step = None if dimension.step is None else float(dimension.step)
    low, high = float(dimension.low), float(dimension.high)
    if step is not None:
        # In decimals, as Optuna does: in binary, three steps of 0.1 end beyond 0.3.
        lowest, highest, spacing = (Decimal(str(value)) for value in (low, high, step))
        high = float(highest - (highest - lowest) % spacing)
    return FloatDistribution(low, high, log=dimension.log, step=step)


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Scalar:
    """Returns a value that the sampler chooses, or the one that the trial was enqueued with."""
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
        )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
        )
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    raise TypeError(f"{name}: {distribution!r}")


def suggest_point(trial: Trial, config: StudyConfig, space: Distributions) -> dict[str, Scalar]:
    """Returns the values that the sampler chooses, one after the other: a condition is about those before it."""
    values: dict[str, Scalar] = {}
    for name, distribution in space.items():
        if config.is_active(name, values):
            values[name] = suggest(trial, name, distribution)
    return values


def from_unit(distribution: BaseDistribution, u: float) -> Scalar:
    """Maps ``u`` in [0, 1) to a value, uniformly over the distribution, in log for a log distribution.

    Whole numbers and steps have bins of equal width around them, as in Optuna's samplers.

    Example:
        >>> [from_unit(IntDistribution(1, 4), u) for u in (0.0, 0.3, 0.6, 0.99)]
        [1, 2, 3, 4]
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(repr(distribution))
    low, high, step = float(distribution.low), float(distribution.high), distribution.step
    margin = step / 2 if step else 0.0
    low, high = low - margin, high + margin
    value = float(np.exp(np.log(low) + u * np.log(high / low))) if distribution.log else low + u * (high - low)
    if step:
        value = distribution.low + step * np.rint((value - distribution.low) / step)
    value = float(np.clip(value, distribution.low, distribution.high))
    return int(value) if isinstance(distribution, IntDistribution) else value


def sobol_points(space: Distributions, *, count: int, skip: int, seed: int) -> list[dict[str, Scalar]]:
    """Returns points ``skip`` to ``skip + count`` of a scrambled Sobol' sequence; ``seed`` is its scramble."""
    if not space or not count:
        return [{} for _ in range(count)]
    from scipy.stats import qmc  # the import takes most of a second, and most runs add no design points

    engine = qmc.Sobol(d=len(space), scramble=True, rng=np.random.default_rng(seed))
    if skip:
        engine.fast_forward(skip)
    # One point at a time: a batch that is not a power of two makes scipy warn.
    unit = np.concatenate([engine.random(1) for _ in range(count)])
    return [{n: from_unit(d, float(u)) for (n, d), u in zip(space.items(), row, strict=True)} for row in unit]


def random_point(space: Distributions, *, seed: int, number: int) -> dict[str, Scalar]:
    """Returns a uniform point that depends on (seed, number) alone: a resumed study draws the same points."""
    return next(random_points(space, seed=seed, number=number))


def random_points(space: Distributions, *, seed: int, number: int) -> Iterator[dict[str, Scalar]]:
    """Yields uniform points without end, `random_point` and those that follow it."""
    rng = np.random.default_rng([seed, number])
    while True:
        unit = rng.random(len(space))
        yield {n: from_unit(d, float(u)) for (n, d), u in zip(space.items(), unit, strict=True)}


def contains(distribution: BaseDistribution, value: Scalar) -> bool:
    """Returns True if ``value`` lies in the distribution."""
    try:
        internal = distribution.to_internal_repr(value)
    except ValueError:
        return False
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return True  # one of the choices, or it had no internal representation
    steps = (internal - distribution.low) / distribution.step if distribution.step else 0.0
    return distribution.low <= internal <= distribution.high and abs(steps - round(steps)) < 1e-8  # Optuna's tolerance
