"""The grid of a space: all combinations of values that can be counted."""

import itertools
import math
from collections.abc import Mapping, Sequence

from .conditional import active, condition_of
from .constraints import Constraint
from .search_space import Choices, Dimension, Range, Scalar
from .sections import SearchConfig

MOST_POINTS = 100_000


def within_grid(
    search: SearchConfig, space: Mapping[str, Dimension], constraints: Sequence[Constraint]
) -> SearchConfig:
    """Returns the search with no more trials than its grid has points; raises ValueError if there is no grid."""
    searched = {name: dimension for name, dimension in space.items() if isinstance(dimension, Range | Choices)}
    if search.design:
        raise ValueError("design: leave it out: the sampler grid tries all points of the space")
    if search.seeds > 1:
        raise ValueError("seeds: leave it out: the sampler grid tries each point once; take random or qmc")
    if endless := [name for name, dimension in searched.items() if dimension.levels is None]:
        raise ValueError(
            f"sampler: a grid needs choices, whole numbers or a step; {', '.join(endless)} has none of them: give it "
            "one, or take another sampler"
        )
    if (size := count_points(searched) or 0) > MOST_POINTS:
        raise ValueError(
            f"sampler: the grid has {size:,} points, {MOST_POINTS:,} at most are possible: widen the steps, or take "
            "the sampler random"
        )
    if constraints:
        constants = {name: value for name, value in space.items() if name not in searched}
        points = ({**constants, **point} for point in grid_points(searched))
        size = sum(all(c.holds(point) for c in constraints if c.names <= point.keys()) for point in points)
    return search.model_copy(update={"trials": min(search.trials, max(1, size))})


def count_points(searched: Mapping[str, Range | Choices]) -> int | None:
    """Returns the number of distinct points of a space; None if a hyperparameter has a continuous range.

    Example:
        >>> count_points({"depth": Range(low=2, high=8, step=2), "width": Choices(choices=(8, 16))})
        8
    """
    counts = [None if dimension.levels is None else len(dimension.levels) for dimension in searched.values()]
    if None in counts:
        return None
    size = math.prod(count or 0 for count in counts)
    conditional = any(condition_of(dimension) is not None for dimension in searched.values())
    return len(grid_points(searched)) if conditional and size <= MOST_POINTS else size


def grid_points(searched: Mapping[str, Range | Choices]) -> list[dict[str, Scalar]]:
    """Returns all points of a space that has a grid.

    Example:
        >>> grid_points({"depth": Range(low=1, high=2), "width": Choices(choices=(8, 16))})[1:3]
        [{'depth': 1, 'width': 16}, {'depth': 2, 'width': 8}]
    """
    levels = {name: dimension.levels or () for name, dimension in searched.items()}
    every = (active(searched, dict(zip(levels, values, strict=True))) for values in itertools.product(*levels.values()))
    return list({repr(point): point for point in every}.values())
