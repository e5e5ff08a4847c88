"""Cells and tables of ``losses/RESULTS.md``, and the base of the classes that fill them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.analysis.paired_comparison import PairedComparison
from sweep.analysis.paired_tests import Estimate

from .dose import Dose
from .gathering import Entry
from .judging import Evidence, relative

Pairs = Mapping[tuple[str, str], PairedComparison]
"""The comparisons of one entry, by their arms."""


@dataclass(frozen=True)
class Tables:
    """Functions of the template, which return Markdown.

    The argument ``rows`` maps the label of a row to the name of an entry of the plan; ``of`` heads the labels.

    Attributes:
        made: the evidence that exists, by entry.
        plan: the studies of the plan.
        doses: the dose-responses of the plan.
        dosed: the evidence of those that have all their runs; one that is partial is not shown.
        pairs: the comparisons of the studies with pairs.
    """

    made: Mapping[str, Evidence]
    plan: Mapping[str, Entry]
    doses: Mapping[str, Dose]
    dosed: Mapping[str, Evidence]
    pairs: Mapping[str, Pairs]

    def _table(self, heads: Sequence[str], rows: Mapping[Any, str], line: Callable[[str], Sequence[str]]) -> str:
        lines = []
        for label, name in rows.items():
            rest = line(name) if name in self.made else [self._missing(name)]
            lines.append([str(label), *rest, *[""] * (len(heads) - 1 - len(rest))])
        return table(heads, lines)

    def _missing(self, name: str) -> str:
        long = " --long" if name in self.plan and self.plan[name].long else ""
        return f"not run yet: `python -m tests.evidence {name}{long}`"

    def _direction(self, name: str) -> str:
        return str(self.made[name]["confirm"]["direction"])


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    rule = ["---"] * len(heads)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *lines))


def number(value: float | None) -> str:
    """Returns a number with four digits."""
    return "-" if value is None else f"{value:.4g}"


def interval(value: float, low: float | None, high: float | None, form: str) -> str:
    """Returns a number and its interval in one format."""
    bounds = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{bounds}"


def gain(c: PairedComparison) -> str:
    """Returns a gain with its interval, its median and the verdict."""
    if c.same_as is not None:
        return f"the same network as {c.same_as}"
    if not c.final.values:
        return "-"
    return f"{interval(c.final.value, c.final.low, c.final.high, '+.3g')}, median {c.final.median:+.3g}, {c.verdict}"


def percent(c: PairedComparison, direction: str) -> str:
    """Returns a gain and its interval in percent of the second's loss or error."""
    if not c.final.values:
        return "-"
    scale = relative(c, direction)
    low, high = (None if end is None else end / scale for end in (c.final.low, c.final.high))
    return interval(c.final.value / scale, low, high, "+.1%")


def pairs_of(c: PairedComparison) -> str:
    """Returns the number of pairs, and the runs that are lost."""
    lost = [
        f"{count} {arm} {outcome}"
        for outcome, counts in (("diverged", c.diverged), ("collapsed", c.collapsed))
        for arm, count in zip((c.first, c.second), counts, strict=True)
        if count
    ]
    return f"{len(c.seeds)} ({', '.join(lost)})" if lost else str(len(c.seeds))


def speedup(estimate: Estimate, never: int = 0) -> str:
    """Returns a speed-up with its interval; a median of 0 is ``never``."""
    if not estimate.values:
        return estimate.note or "-"
    value, *bounds = (None if x is None else f"{x:.2f}x" if x else "never" for x in _ends(estimate))
    shown = str(value) if None in bounds else f"{value} [{', '.join(map(str, bounds))}]"
    return f"{shown}, {never} of {len(estimate.values)} never" if never else shown


def _ends(estimate: Estimate) -> tuple[float, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high
