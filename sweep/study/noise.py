"""The noise of training: the variance of the objective between seeds of one configuration."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from .records import TrialRecord

SQUARED = (1e-140, 1e140)  # values between them can be squared and summed


def values_by_configuration(rows: Iterable[TrialRecord]) -> list[list[float]]:
    """Returns the finite objectives of completed trials: a list for each configuration, one value a seed."""
    values = defaultdict[frozenset[tuple[str, object]], dict[int, float]](dict)
    for row in rows:
        if row.outcome == "completed" and is_finite(row.value):
            values[frozenset(row.hyperparameters.items())][row.seed] = row.value
    return [list(by_seed.values()) for by_seed in values.values()]


def pooled_variance(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Returns the variance within groups, and its degrees of freedom; 0 and 0 without groups of two.

    Example:
        >>> pooled_variance([[1.0, 3.0], [2.0, 2.0], [5.0]])
        (1.0, 2)
    """
    several = [group for group in groups if len(group) > 1 and all(map(is_finite, group))]
    freedom = sum(len(group) - 1 for group in several)
    return sum((len(g) - 1) * statistics.variance(g) for g in several) / freedom if freedom else 0.0, freedom


def is_finite(value: float | None) -> TypeGuard[float]:
    """Returns True for a number that can be squared and summed."""
    return value is not None and abs(value) < SQUARED[1]
