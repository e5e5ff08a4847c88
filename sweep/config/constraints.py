"""Parses constraints on hyperparameters, such as ``depth * width <= 4096``, without running them as Python."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import nearest

Values = Mapping[str, Any]
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
GRAMMAR = (
    "compare sums, products and quotients of hyperparameters and numbers by <, <=, >, >=, == and !=, and join "
    "comparisons by `and`: 'depth * width <= 4096'"
)


@dataclass(frozen=True)
class Constraint:
    """A condition that every point of a space fulfils; ``names`` are its hyperparameters.

    Example:
        >>> constraint = parse_constraint("2 <= depth * width < 64", ["depth", "width"])
        >>> constraint.holds({"depth": 2, "width": 31}), constraint.holds({"depth": 2, "width": 32})
        (True, False)
    """

    text: str
    names: frozenset[str]
    evaluate: Callable[
        [Values], bool
    ]  # of arrays, an array; raises ZeroDivisionError at some points, TypeError where a value is a word

    def holds(self, values: Values) -> bool:
        """Returns True if a point fulfils it; a point at which it divides by zero does not."""
        try:
            return bool(self.evaluate(values))
        except (ZeroDivisionError, OverflowError):
            return False


def parse_constraint(text: str, names: Iterable[str]) -> Constraint:
    """Parses a constraint; raises ValueError if it is none, or names what is not in the space."""
    try:
        holds = _condition(ast.parse(text.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by zero") from None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is not a constraint; {GRAMMAR}") from None
    used = {ast.unparse(node) for node in ast.walk(ast.parse(text.strip(), mode="eval")) if is_name(node)}
    used -= {each for each in used if any(other.startswith(f"{each}.") for other in used)}  # training of training.lr
    known = list(names)
    if unknown := sorted(used - set(known)):
        hints = ", ".join(f"{name}{nearest(name, known)}" for name in unknown)
        raise ValueError(f"{text!r} names what is not in the space: {hints}; there are {', '.join(known)}")
    if not used:
        raise ValueError(f"{text!r} names no hyperparameter")
    return Constraint(text, frozenset(used), holds)


def is_name(node: ast.AST) -> bool:
    """Returns True for a name, dots included."""
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and is_name(node.value))


def _condition(node: ast.expr) -> Callable[[Values], Any]:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            all_of = [_condition(part) for part in parts]
            return lambda values: _all(each(values) for each in all_of)
        case ast.Compare(left=first, ops=signs, comparators=others):
            sides, compare = [_term(side) for side in (first, *others)], [COMPARISONS.get(type(sign)) for sign in signs]
            if None not in compare:
                return lambda values: _in_order([side(values) for side in sides], compare)
    raise ValueError(ast.dump(node))


def _in_order(numbers: list[Any], compare: list[Any]) -> Any:
    return _all(sign(*numbers[i : i + 2]) for i, sign in enumerate(compare))


def _all(parts: Iterable[Any]) -> Any:
    """Returns the conjunction of truth values, without those after a False; of arrays, one for each element."""
    found: Any = True
    for part in parts:
        found = found & part
        if found is False:
            break
    return found


def _term(node: ast.expr) -> Callable[[Values], Any]:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return lambda _: number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _term(operand)
            return lambda values: -inner(values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            one, other, combine = _term(left), _term(right), ARITHMETIC[type(op)]
            if isinstance(op, ast.Div) and isinstance(right, ast.Constant) and right.value == 0:
                raise ZeroDivisionError
            return lambda values: combine(one(values), other(values))
        case _ if is_name(node):
            name = ast.unparse(node)
            return lambda values: values[name]
    raise ValueError(ast.dump(node))


@functools.lru_cache(maxsize=64)
def _parsed(text: str, names: tuple[str, ...]) -> Constraint:
    return parse_constraint(text, names)


def parse_constraints(texts: Iterable[str], space: Mapping[str, object] | None) -> list[Constraint]:
    """Parses the constraints of a study; none where the space has problems. Raises ValueError with all problems."""
    found, problems = [], []
    for text in texts if space is not None else ():
        try:
            found.append(_parsed(text, tuple(space or ())))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    return found
