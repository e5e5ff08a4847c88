"""The expected improvement of a search: how much better than its best the next trial may be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..config.search_space import Choices
from ..study.constrained import violated
from ..study.distributions import distributions, random_points
from ..study.noise import is_finite
from .gaussian_process import GaussianProcess
from .goodness_of_fit import goodness_of_fit
from .selection import MIN_UNIFORM
from .surrogates import Array, Input, Inputs, Trials

if TYPE_CHECKING:
    from ..config.study_config import StudyConfig
    from ..study.records import TrialRecord

LEAST_KNOWN = 0.5  # share of the variance that the surrogate predicts, or that is noise, by their lower bounds
POINTS = 4096  # uniform ones at which the improvement is looked for
BEST, NEAR, NEARNESS = 8, 64, 0.05  # points near each of the best trials, and their distance in units of the range


def expected_improvement(config: StudyConfig, rows: Sequence[TrialRecord]) -> float | None:
    """Returns the largest expected improvement over the space, in units of the objective.

    Source: Jones, Schonlau and Welch, Efficient global optimization of expensive black-box functions, J. Global Optim.
    13 (1998), eq. 15. Values are noisy, so the best is the best posterior mean at a trial in place of the best value.

    Args:
        config: a study without conditions in its space.
        rows: its trials; those that have completed count, on whatever seed.

    Returns:
        None where it is not known: with fewer than 32 completed design trials, or if the surrogate, a Gaussian process,
        predicts less than half of the variance of design trials that it was not shown.
    """
    trained = [row for row in rows if row.outcome == "completed" and row.twin is None and row.repeat_of is None]
    ended = [row for row in trained if is_finite(row.value)]
    tested = np.array([row.design for row in ended], bool)
    if tested.sum() < MIN_UNIFORM:
        return None
    space, sign = distributions(config.searched), 1.0 if config.objective.direction == "minimize" else -1.0
    unordered = {n for n, d in config.searched.items() if isinstance(d, Choices) and not d.ordered}
    inputs = Inputs([Input(name, each, ordered=name not in unordered) for name, each in space.items()])
    x = inputs.encode({name: [row.hyperparameters[name] for row in ended] for name in space})
    y = np.array([sign * float(row.value or 0.0) for row in ended])
    if np.ptp(y) == 0:
        return None
    groups = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    trials = Trials(inputs, x, y, tested, groups)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        process = GaussianProcess(trials, seed=0)
        if goodness_of_fit(trials, process.held_out).known < LEAST_KNOWN:
            return None
        seen = process.mean(x)
        drawn = itertools.islice(random_points(space, seed=0, number=0), POINTS)
        inside = [point for point in drawn if not violated(config, point)]
        uniform = inputs.encode({name: [point[name] for point in inside] for name in space})
        candidates = np.vstack([uniform, _near(x[np.argsort(seen)[:BEST]], inputs)])
        return float(improvement(seen.min(), process.mean(candidates), process.deviation(candidates)).max())


def improvement(best: float, mean: Array, deviation: Array) -> Array:
    """Returns the expected improvement on ``best``, less is better, of normal values with these means and deviations.

    Example:
        >>> improvement(0.0, np.array([0.0, -1.0]), np.array([1.0, 1e-9])).round(4).tolist()
        [0.3989, 1.0]
    """
    from scipy.stats import norm

    gain, deviation = best - mean, np.maximum(deviation, 1e-300)
    return np.asarray(gain * norm.cdf(gain / deviation) + deviation * norm.pdf(gain / deviation))


def _near(x: Array, inputs: Inputs) -> Array:
    """Returns points [BEST * NEAR, columns] near encoded ones, which differ from them in ordered hyperparameters."""
    step = np.random.default_rng(0).normal(0.0, NEARNESS, (NEAR, *x.shape))
    for each in inputs:
        if not each.ordered:
            step[:, :, inputs.column(each.name)] = 0.0
    return np.clip(x + step, 0.0, 1.0).reshape(-1, x.shape[1])
