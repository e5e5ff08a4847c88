"""Parses conditions on hyperparameters, such as ``--where "depth >= 4"``, without running them as Python."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from ..config.constraints import COMPARISONS as OF_NUMBERS
from ..config.constraints import is_name
from ..config.errors import SweepError, nearest

Condition = Callable[[Any], bool]  # takes the value of one hyperparameter
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    **OF_NUMBERS,
    ast.In: lambda value, several: value in several,
    ast.NotIn: lambda value, several: value not in several,
}
GRAMMAR = (
    "compare hyperparameters with values by <, <=, >, >=, ==, != and in, and join comparisons by `and`: "
    "\"2 <= depth < 6 and training.init in ['he', 'default']\""
)


def parse_conditions(text: str, names: Mapping[str, object]) -> dict[str, Condition]:
    """Parses a condition into one predicate for each hyperparameter, so that hyperparameters stay independent.

    Raises:
        SweepError: the text is not a condition, or names an unknown hyperparameter.

    Example:
        >>> conditions = parse_conditions("2 <= depth < 6 and training.init == 'he'", {"depth": 0, "training.init": 0})
        >>> conditions["depth"](5), conditions["depth"](6), conditions["training.init"]("default")
        (True, False, False)
    """
    try:
        found = _clauses(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise SweepError(f"--where {text!r}: not a condition; {GRAMMAR}") from None
    if unknown := dict.fromkeys(name for name, _ in found if name not in names):
        hints = ", ".join(f"{name}{nearest(name, list(names))}" for name in unknown)
        raise SweepError(f"--where {text!r}: no such hyperparameter: {hints}; there are {', '.join(names)}")

    def all_of(name: str) -> Condition:
        return lambda value: all(condition(value) for each, condition in found if each == name)

    return {name: all_of(name) for name, _ in found}


def implied(where: Mapping[str, Condition], conditional: Mapping[str, str]) -> dict[str, Condition]:
    """Returns the conditions with those under which trials have the hyperparameters that they name.

    Args:
        where: by hyperparameter, from `parse_conditions`.
        conditional: conditions of hyperparameters that only some trials have, each after those it depends on.

    Raises:
        SweepError: such a condition is about several hyperparameters at once.
    """
    found = dict(where)
    for name in [*conditional][::-1]:
        if name in found:
            names = dict.fromkeys(_names(conditional[name]))
            try:
                parents = parse_conditions(conditional[name], names)
            except SweepError:
                said = f"{name} is there only where {conditional[name]}, so that it depends on several hyperparameters"
                raise SweepError(f"--where: {said} at once: name them without it") from None
            found |= {each: _both(found.get(each), condition) for each, condition in parents.items()}
    return found


def _both(first: Condition | None, second: Condition) -> Condition:
    return second if first is None else lambda value: first(value) and second(value)


def _names(text: str) -> set[str]:
    found = {ast.unparse(node) for node in ast.walk(ast.parse(text, mode="eval")) if is_name(node)}
    return {each for each in found if not any(other.startswith(f"{each}.") for other in found)}


def _clauses(node: ast.expr) -> list[tuple[str, Condition]]:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return [clause for part in parts for clause in _clauses(part)]
        case ast.Compare(left=first, ops=signs, comparators=others):
            sides = [first, *others]
            return [_comparison(sign, *sides[i : i + 2]) for i, sign in enumerate(signs)]
    raise ValueError(ast.dump(node))


def _comparison(sign: ast.cmpop, left: ast.expr, right: ast.expr) -> tuple[str, Condition]:
    if type(sign) not in COMPARISONS or is_name(left) == is_name(right):
        raise ValueError(ast.dump(sign))
    compare, swapped = COMPARISONS[type(sign)], is_name(right)
    named, other = (right, left) if swapped else (left, right)
    name, constant = ast.unparse(named), ast.literal_eval(other)
    if isinstance(sign, ast.In | ast.NotIn) and (swapped or not isinstance(constant, list | tuple | set)):
        raise ValueError(ast.dump(sign))

    def condition(value: Any) -> bool:
        try:
            return bool(compare(constant, value) if swapped else compare(value, constant))
        except TypeError:  # a text and a number have no order
            return False

    return name, condition
