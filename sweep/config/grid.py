"""The grid of a space: all combinations of the values that can be counted."""

import itertools
import math
from collections.abc import Mapping

from .search_space import Choices, Dimension, Range, Scalar
from .sections import SearchConfig

MOST_POINTS = 100_000


def within_grid(search: SearchConfig, space: Mapping[str, Dimension]) -> SearchConfig:
    """Returns the search with no more trials than its grid has points; raises ValueError if there is no grid."""
    searched = {name: dimension for name, dimension in space.items() if isinstance(dimension, Range | Choices)}
    if search.design:
        raise ValueError("design: leave it out: the sampler grid tries all points of the space")
    if endless := [name for name, dimension in searched.items() if dimension.levels is None]:
        raise ValueError(
            f"sampler: a grid needs choices, whole numbers or a step; {', '.join(endless)} has none of them: give it "
            "one, or take another sampler"
        )
    if (size := math.prod(len(dimension.levels or ()) for dimension in searched.values())) > MOST_POINTS:
        raise ValueError(
            f"sampler: the grid has {size:,} points, {MOST_POINTS:,} at most are possible: widen the steps, or take "
            "the sampler random"
        )
    return search.model_copy(update={"trials": min(search.trials, size)})


def grid_points(searched: Mapping[str, Range | Choices]) -> list[dict[str, Scalar]]:
    """Returns all points of a space that has a grid.

    Example:
        >>> grid_points({"depth": Range(low=1, high=2), "width": Choices(choices=(8, 16))})[1:3]
        [{'depth': 1, 'width': 16}, {'depth': 2, 'width': 8}]
    """
    levels = {name: dimension.levels or () for name, dimension in searched.items()}
    return [dict(zip(levels, values, strict=True)) for values in itertools.product(*levels.values())]
