"""Checks of the search space by the results: the best lie on its edge, or trials are lost in a part of it."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config.search_space import Choices, Range, Scalar, parse_dimension
from .formats import format_value
from .sensitivity_text import SMALL, WIDE

if TYPE_CHECKING:
    from ..config.study_config import StudyConfig
    from ..study.records import TrialRecord
    from .summary import Summary

BEST = 5  # configurations that are looked at
MIN_TRIALS = 20  # completed, from which the best 5 of them say something
OUTER = 0.1  # share of a range that is its edge
CHANCE = 0.005  # of as many of the best on an edge, if they were uniform over the space
MIN_LOST, LOST_CHANCE = 3, 0.01  # trials; chance of a part with so many of them, over all parts that are compared
CUTS = 32  # values at which a range is cut in two

Side = bool  # True: the upper one


def ended_rows(rows: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Returns the trials that were trained to an end of their own, one of each configuration that raced."""
    own = (row for row in rows if row.twin is None and row.repeat_of is None)
    return [row for row in own if row.state == "finished" and row.outcome != "failed"]


def edges(summary: Summary, _: object) -> Iterator[str]:
    """Says on which edges of the space the best configurations lie, and how to widen it."""
    config, best = summary.config, summary.best[:BEST]
    if len(summary.best) < MIN_TRIALS:
        return
    for (name, dimension), upper in itertools.product(config.searched.items(), (False, True)):
        values = [row.hyperparameters[name] for row in best if _is_number(row.hyperparameters.get(name))]
        found = sum(_is_outer(dimension, value, upper) for value in values)
        if _is_idle(summary, name) or not found or _tail(found, len(best), _outer_share(dimension)) > CHANCE:
            continue
        if (wider := _widened(config, name, dimension, upper)) is not None:
            end = ("low", "high")[upper] if isinstance(dimension, Range) else ("least", "largest")[upper] + " choice"
            yield (
                f"{found} of the {len(best)} best configurations lie on the edge of the search space, at the {end} of "
                f"{name} ({format_value(_ends(dimension)[upper])}): widen it: {_command(config, name, wider)}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_idle(summary: Summary, name: str) -> bool:
    """Returns True if the sensitivity is trusted, and says that a hyperparameter hardly matters."""
    index = summary.analysis.parameters.get(name) if summary.analysis else None
    return index is not None and index.total < SMALL and index.total_ci[1] <= WIDE


def _ends(dimension: Range | Choices) -> tuple[Any, Any]:
    values: Sequence[Any] = dimension.choices if isinstance(dimension, Choices) else (dimension.low, dimension.high)
    return min(values), max(values)


def _is_outer(dimension: Range | Choices, value: Any, upper: Side) -> bool:
    """Returns True for a value in the outer tenth of a range, on its scale, or an outermost number of choices."""
    if isinstance(dimension, Choices):
        return (
            len(dimension.choices) > 1 and all(map(_is_number, dimension.choices)) and value == _ends(dimension)[upper]
        )
    if not dimension.low <= value <= dimension.high:
        return False
    scale = math.log if dimension.log else float
    low, high = scale(dimension.low), scale(dimension.high)
    place = (scale(value) - low) / (high - low)
    return (place if upper else 1 - place) >= 1 - OUTER or value == _ends(dimension)[upper]


def _outer_share(dimension: Range | Choices) -> float:
    """Returns the share of the space for which `_is_outer` is True."""
    if isinstance(dimension, Choices):
        return 1 / len(dimension.choices)
    step = dimension.step or (1 if dimension.is_int and not dimension.log else 0)
    steps = round((dimension.high - dimension.low) / step) if step else 0
    return (math.floor(OUTER * steps) + 1) / (steps + 1) if step else OUTER


def _tail(found: int, n: int, share: float) -> float:
    """Returns the chance of at least ``found`` of ``n``, by the binomial distribution."""
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(found, n + 1))


def _widened(config: StudyConfig, name: str, dimension: Range | Choices, upper: Side) -> dict[str, Any] | None:
    """Returns a dimension that goes on beyond an edge; None if the edge is a natural bound."""
    low, high = _ends(dimension)
    given = _given(dimension)
    for bound in _beyond(dimension, upper):
        if (low >= 0 and bound < 0) or (low > 0 and bound <= 0 and _is_log(dimension)) or bound == (low, high)[upper]:
            continue
        if isinstance(dimension, Choices):
            wider = {**given, "choices": [*dimension.choices, bound] if upper else [bound, *dimension.choices]}
        else:
            wider = {**given, ("low", "high")[upper]: bound}
        try:
            parse_dimension(name, wider, own=config.kind != "model")
        except ValueError:  # a value that the field cannot have
            continue
        return wider
    return None


def _is_log(dimension: Range | Choices) -> bool:
    return isinstance(dimension, Range) and dimension.log


def _beyond(dimension: Range | Choices, upper: Side) -> Iterator[int | float]:
    """Yields bounds beyond an edge, the farthest first."""
    (low, high), whole = _ends(dimension), isinstance(dimension, Range) and dimension.is_int
    if isinstance(dimension, Choices):
        ordered = sorted(dimension.choices, reverse=not upper)  # type: ignore[type-var]
        last, before = ordered[-1], ordered[-2]
        whole = all(isinstance(choice, int) for choice in ordered)
        grows = low > 0 and max(last / before, before / last) >= 1.5  # type: ignore[operator]
        yield _rounded(last * last / before if grows else 2 * last - before, whole=whole)  # type: ignore[operator]
    elif dimension.log:
        factor = min(10.0, max(2.0, math.sqrt(high / low)))
        yield _rounded(high * factor if upper else low / factor, whole=whole)
    elif step := dimension.step or (1 if whole else 0):
        for steps in range(max(1, (round((high - low) / step) + 1) // 2), 0, -1):
            yield high + steps * step if upper else low - steps * step
    elif low >= 0 and high <= 1:  # a share
        yield _rounded((1 + high) / 2 if upper else low / 2, whole=False)
    else:
        half = (high - low) / 2
        yield _rounded(high + half if upper else max(low - half, 0.0) if low >= 0 else low - half, whole=False)


def _rounded(value: float, *, whole: bool) -> int | float:
    return round(value) if whole else float(f"{value:.2g}")


class _Part(NamedTuple):
    """A part of the space, by one hyperparameter, and what is left of that one without it."""

    condition: str
    name: str
    values: set[Scalar]  # those that were tried
    rest: dict[str, Any] | Scalar  # a dimension, or a constant


def lost_regions(summary: Summary, _: object) -> Iterator[str]:
    """Says in which part of the space trials diverge or collapse, by Fisher's exact test, Bonferroni-corrected."""
    ended = ended_rows(summary.rows)
    for outcome in ("diverged", "collapsed"):
        lost = [row for row in ended if row.outcome == outcome]
        parts = list(_parts(summary)) if MIN_LOST <= len(lost) < len(ended) else []
        if not parts:
            continue
        from scipy.stats import hypergeom

        n = [sum(row.hyperparameters.get(part.name) in part.values for row in ended) for part in parts]
        k = [sum(row.hyperparameters.get(part.name) in part.values for row in lost) for part in parts]
        chances = hypergeom.sf([count - 1 for count in k], len(ended), len(lost), n)  # of at least so many
        first = min(range(len(parts)), key=lambda i: (chances[i], -k[i]))
        if chances[first] * len(parts) <= LOST_CHANCE:
            part, others = parts[first], f"{len(lost) - k[first]} of the other {len(ended) - n[first]}"
            yield (
                f"{k[first]} of {n[first]} trials with {part.condition} have {outcome}, {others}: leave that part out: "
                f"{_command(summary.config, part.name, part.rest)}"
            )


def _parts(summary: Summary) -> Iterator[_Part]:
    """Yields the parts of the space below and above the values that were tried, and those of a choice."""
    for name, dimension in summary.config.searched.items():
        given = {key: value for key, value in _given(dimension).items() if key != "default"}  # it may lie outside
        if isinstance(dimension, Choices):
            for choice in dimension.choices if len(dimension.choices) > 1 else ():
                others = [other for other in dimension.choices if other is not choice]
                rest = {**given, "choices": others} if len(others) > 1 else others[0]
                yield _Part(f"{name} = {format_value(choice)}", name, {choice}, rest)
            continue
        values: set[Any] = {row.hyperparameters.get(name) for row in summary.rows}
        tried = sorted(filter(_is_number, values))
        for i in range(1, len(tried), max(1, len(tried) // CUTS)):
            below, above = tried[i - 1], tried[i]
            upper = dimension.low if below == dimension.low else {**given, "high": below}
            lower = dimension.high if above == dimension.high else {**given, "low": above}
            yield _Part(f"{name} >= {format_value(above)}", name, {*tried[i:]}, upper)
            yield _Part(f"{name} <= {format_value(below)}", name, {*tried[:i]}, lower)


def _given(dimension: Range | Choices) -> dict[str, Any]:
    """Returns a dimension as a study file has it."""
    return dimension.model_dump(mode="json", exclude_defaults=True)


def _command(config: StudyConfig, name: str, dimension: dict[str, Any] | Scalar) -> str:
    """Returns the command that goes on with another dimension."""
    text = json.dumps(dimension)
    if isinstance(dimension, dict):
        text = "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in dimension.items()) + "}"
    return f"sweep run {config.name} --new-space --set {shlex.quote(f'{name}={text}')}"
