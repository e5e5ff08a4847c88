"""The optimism of a search: how much of its best value is luck, which other seeds do not repeat."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..study.noise import is_finite, pooled_variance, values_by_configuration

if TYPE_CHECKING:
    from .summary import Summary

MIN_FREEDOM = 6  # degrees of freedom of the noise, of three finalists on three fresh seeds
DRAWS = 4000


def expected_optimism(values: Sequence[float], noise: float | Sequence[float], *, maximize: bool) -> float:
    """Returns how much better than its own mean the best of several noisy values is expected to be.

    By a parametric bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 6.5): the values
    stand for the means, each is drawn again with normal noise, and the best of each draw is compared with its mean. The
    spread of the values holds noise, too, so that the result is rather too small.

    Args:
        values: one of each configuration, [n].
        noise: standard deviation of each value, or of all: between seeds, less for a mean of several.
        maximize: True if a larger value is better.

    Example:
        Of ten equal configurations the best is 1.54 standard deviations better than the mean:

        >>> round(expected_optimism([0.0] * 10, 1.0, maximize=False), 1)
        1.5
    """
    mean = np.asarray(values, float) * (-1.0 if maximize else 1.0)
    drawn = mean + np.asarray(noise) * np.random.default_rng(0).standard_normal((DRAWS, len(mean)))
    best = drawn.argmin(1)
    return float((mean[best] - drawn.min(1)).mean())


def optimism(summary: Summary) -> str | None:
    """Returns a sentence on the best value of a search beside its mean on fresh seeds, and what chance makes of it.

    Returns None if that configuration has no fresh seeds, or the noise is not known: finalists and repeated points
    have fewer than 6 degrees of freedom.
    """
    from ..study.finalists import best_rows

    config = summary.config
    fresh = {each.number: each.guided for each in summary.comparison.finalists}
    groups = [list(each.values.values()) for each in fresh.values()]
    variance, freedom = pooled_variance([*groups, *values_by_configuration(summary.rows)])
    best = next(iter(best_rows(config, summary.rows, 1)), None)
    if best is None or best.number not in fresh or not is_finite(best.value) or freedom < MIN_FREEDOM:
        return None
    maximize, noise = config.objective.direction == "maximize", math.sqrt(variance)
    own = values_by_configuration(summary.rows)
    values, noises = [statistics.fmean(each) for each in own], [noise / math.sqrt(len(each)) for each in own]
    chance = expected_optimism(values, noises, maximize=maximize)
    lost = (fresh[best.number].mean - best.value) * (-1 if maximize else 1)
    size = f"{abs(lost):.2g} {'worse' if lost > 0 else 'better'}"
    return (
        f"The best value in the search, {best.value:.4g} of trial {best.number}, is {size} on fresh seeds; by chance "
        f"{chance:.2g} is expected, for the best of {len(values)} values with a noise of {noise:.2g} between seeds."
    )
