"""Conditional hyperparameters: which of them a point of the search space has.

A condition, ``when``, is either a mapping of other hyperparameters to the value, or the list of values, that each must
have; or a comparison in the language of constraints.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from .constraints import Constraint, parse_constraint, parse_constraints
from .errors import nearest
from .search_space import Choices, Dimension, Range, Scalar, is_of_guidance

Values = Mapping[str, Any]
TRIED, MOST_TRIED = 33, 40_000  # values of a range, and points, at which a comparison is tried


def condition_of(dimension: object) -> Any:
    """Returns the condition of a dimension of the space; None for one that every point has."""
    return getattr(dimension, "when", None)


def is_active(space: Mapping[str, Dimension], name: str, values: Values) -> bool:
    """Returns True if a point with these values of the hyperparameters before it has a hyperparameter, too.

    Example:
        >>> from sweep.config.search_space import Range
        >>> space = {"depth": Range(low=1, high=8), "skip": Range(low=0.0, high=1.0, when="depth >= 4")}
        >>> is_active(space, "skip", {"depth": 3}), is_active(space, "skip", {"depth": 4})
        (False, True)
    """
    if (when := condition_of(space[name])) is None:
        return True
    known = {**{n: d for n, d in space.items() if not isinstance(d, Range | Choices)}, **values}
    if isinstance(when, str):
        [constraint] = parse_constraints([when], space)
        return constraint.names <= known.keys() and constraint.holds(known)
    return all(n in known and any(_same(known[n], each) for each in _several(v)) for n, v in when.items())


def active(space: Mapping[str, Dimension], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Returns the values of a point without those of hyperparameters that it does not have, and of theirs in turn."""
    found = dict(values)
    for name, dimension in space.items():  # each after those of its condition, see `in_order`
        if name in found and condition_of(dimension) is not None and not is_active(space, name, found):
            del found[name]
    return found


def names_in_condition(space: Mapping[str, Dimension], name: str) -> frozenset[str]:
    """Returns the hyperparameters in the condition of one; none if it has no condition."""
    when = condition_of(space[name])
    if isinstance(when, str):
        return parse_constraints([when], space)[0].names
    return frozenset(when or ())


def describe_condition(when: Any) -> str:
    """Returns a condition as `sweep sensitivity --where` takes it.

    Example:
        >>> describe_condition({"guidance.form": "reciprocal", "depth": (2, 4)})
        "guidance.form == 'reciprocal' and depth in [2, 4]"
    """
    if isinstance(when, str):
        return when
    sides = ((n, f"in {list(v)!r}" if isinstance(v, tuple | list) else f"== {v!r}") for n, v in when.items())
    return " and ".join(f"{name} {side}" for name, side in sides)


def in_order(space: Mapping[str, Dimension], *, stored: bool = False) -> dict[str, Dimension]:
    """Returns the space with each hyperparameter after those of its condition; raises ValueError with all problems.

    In a ``stored`` space, as that of a baseline without guidance, a condition may be about a constant.
    """
    parents, problems = dict[str, frozenset[str]](), list[str]()
    for name in space:
        try:
            parents[name] = names_in_condition(space, name) if stored else _parents(space, name)
        except ValueError as error:
            problems.append(f"{name}: when: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    found: dict[str, Dimension] = {}
    while len(found) < len(space):
        ready = next((n for n in space if n not in found and parents[n] <= found.keys()), None)
        if ready is None:
            circle = ", ".join(name for name in space if name not in found)
            raise ValueError(f"{circle}: when: they depend on each other in a circle")
        found[ready] = space[ready]
    return found


def _parents(space: Mapping[str, Dimension], name: str) -> frozenset[str]:
    """Returns the hyperparameters in a condition; raises ValueError if it is none, or never holds."""
    when, known = condition_of(space[name]), list(space)
    if when is None:
        return frozenset()
    constraint = parse_constraint(when, known) if isinstance(when, str) else None
    names = frozenset(constraint.names if constraint else when)
    if name in names:
        raise ValueError("a hyperparameter cannot depend on itself")
    if guided := [each for each in sorted(names) if is_of_guidance(each) and not is_of_guidance(name)]:
        raise ValueError(f"{', '.join(guided)} is of guidance, which its control lacks: {name} cannot depend on it")
    for parent in sorted(names):
        if parent not in space:
            raise ValueError(f"no such hyperparameter: {parent}{nearest(parent, known)}; there are {', '.join(known)}")
        if not isinstance(dimension := space[parent], Range | Choices):
            raise ValueError(f"{parent} is the constant {dimension!r}: leave the condition out, or {name}")  # noqa: TRY004
        if constraint is None and (never := [v for v in _several(when[parent]) if not _takes(dimension, v)]):
            raise ValueError(f"{parent} is never {' or '.join(map(repr, never))}")
    if constraint is not None:
        tried = itertools.product(*(_tried(space[parent]) for parent in sorted(names)))
        points = (dict(zip(sorted(names), values, strict=True)) for values in itertools.islice(tried, MOST_TRIED))
        if not any(_holds(constraint, point) for point in points):
            raise ValueError(f"{when!r} holds nowhere in the space")
    return names


def _holds(constraint: Constraint, point: Values) -> bool:
    try:
        return constraint.holds(point)
    except TypeError:
        raise ValueError(f"{constraint.text!r} compares what is not a number; write {{NAME: VALUE}}") from None


def _takes(dimension: object, value: object) -> bool:
    """Returns True if a dimension has a value."""
    if isinstance(dimension, Choices):
        return any(_same(value, each) for each in dimension.choices)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(dimension, Range) and numeric and bool(dimension.low <= value <= dimension.high)  # type: ignore[operator]


def _tried(dimension: object) -> Sequence[Any]:
    """Returns values of a dimension, its ends among them."""
    if isinstance(dimension, Choices):
        return dimension.choices
    assert isinstance(dimension, Range)
    if (levels := dimension.levels) is not None and len(levels) <= TRIED:
        return levels
    steps = [dimension.low + (dimension.high - dimension.low) * i / (TRIED - 1) for i in range(TRIED)]
    return [round(step) for step in steps] if dimension.is_int else steps


def _same(a: object, b: object) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple | list) else (value,)
