"""Points of a space that fulfil a study's constraints, by rejection."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config.constraints import parse_constraints
from ..config.errors import SweepError
from ..config.search_space import Scalar
from ..config.study_config import StudyConfig
from .distributions import Distributions, distributions, random_points, sobol_points

DRAWN, LEAST = 10_000, 0.005  # points that measure the share of the space that is left, and the least share
MOST_DRAWS = 100_000  # for one point
Inside = Callable[[Mapping[str, Any]], NDArray[np.bool_]]  # masks points, values [...] by name
PARTIAL = (
    "a constraint names a hyperparameter that only some trials have: within what the others are uniform is not known"
)


def violated(config: StudyConfig, point: Mapping[str, Scalar]) -> list[str]:
    """Returns the constraints of a study that a point does not fulfil; none about a hyperparameter it does not have."""
    constraints = parse_constraints(config.constraints, config.space)
    values = config.active({**config.constants, **point}) if constraints else {}
    return [each.text for each in constraints if each.names <= values.keys() and not each.holds(values)]


def inside_constraints(config: StudyConfig) -> tuple[str | None, Inside | None]:
    """Returns the mask of the points that fulfil a study's constraints, or the reason for which there is none."""
    constraints = parse_constraints(config.constraints, config.space)
    if not constraints:
        return None, None
    if any(config.searched[n].when is not None for each in constraints for n in each.names if n in config.searched):
        return PARTIAL, None

    def inside(values: Mapping[str, Any]) -> NDArray[np.bool_]:
        with np.errstate(all="ignore"):
            each = (constraint.evaluate({**config.constants, **values}) for constraint in constraints)
            return np.asarray(functools.reduce(operator.and_, each), bool)

    return None, inside


def random_inside(
    config: StudyConfig, space: Distributions, *, seed: int, number: int, given: Mapping[str, Scalar] | None = None
) -> dict[str, Scalar]:
    """Returns a uniform point that fulfils the constraints, in part ``given``, by seed and number alone.

    A point of a space with conditions is uniform over all dimensions, and loses those that it does not have: each value
    of a hyperparameter on which others depend is as frequent as the next.
    """
    drawn = ({**point, **(given or {})} for point in random_points(space, seed=seed, number=number))
    found = next((point for point in itertools.islice(drawn, MOST_DRAWS) if not violated(config, point)), None)
    if found is None:
        raise SweepError(f"none of {MOST_DRAWS:,} points fulfils the constraints of {config.name} with {given}")
    return config.active(found)


def sobol_inside(config: StudyConfig, space: Distributions, *, seed: int) -> Iterator[dict[str, Scalar]]:
    """Yields the points of a scrambled Sobol' sequence that fulfil the constraints, without what they do not have."""
    for block in itertools.count():
        points = sobol_points(space, count=256, skip=256 * block, seed=seed)
        yield from (config.active(point) for point in points if not violated(config, point))


def absent_hyperparameters(config: StudyConfig, given: Mapping[str, Scalar]) -> list[str]:
    """Returns the names of the given values that no point with all of them has, whatever its other values are."""
    points = itertools.islice(random_points(distributions(config.searched), seed=0, number=0), 1_000)
    present = {name for point in points for name in config.active({**config.constants, **point, **given})}
    return [name for name in given if name not in present]


def check_constraints(config: StudyConfig) -> list[str]:
    """Returns problems of constraints: they divide by zero, or leave too little of the space or of its defaults."""
    space, constraints = distributions(config.searched), parse_constraints(config.constraints, config.space)
    points = list(itertools.islice(random_points(space, seed=0, number=0), DRAWN if constraints else 0))
    for constraint in constraints:
        try:
            for point in (config.active({**config.constants, **each}) for each in points):
                if constraint.names <= point.keys():
                    constraint.evaluate(point)
        except ZeroDivisionError:
            where = {name: value for name, value in point.items() if name in constraint.names}
            return [f"constraints: {constraint.text!r} divides by zero, for example at {where}"]
        except TypeError:
            words = ", ".join(f"{n}={v!r}" for n, v in point.items() if isinstance(v, str))
            return [f"constraints: {constraint.text!r} compares what is not a number ({words})"]
    share = sum(not violated(config, point) for point in points) / max(1, len(points))
    if constraints and share < LEAST:
        left = f"{share:.2%} of the space, {LEAST:.1%} are needed" if share else "nothing of the space"
        return [f"constraints: they leave {left}: narrow its ranges, or loosen {'; '.join(config.constraints)}"]
    given = {name: dimension.default for name, dimension in config.searched.items() if dimension.default is not None}
    if given and constraints and all(violated(config, {**point, **given}) for point in points):
        return [f"constraints: the default values do not fulfil them: {'; '.join(config.constraints)}"]
    return []
