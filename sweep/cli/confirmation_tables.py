"""Tables and sentences of a confirmation, for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ..analysis.confirmation import baseline_origin, pair_verdict
from ..analysis.expected_best import budgets
from .stacking_table import StackingTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..analysis.confirmation import Confirmation
    from ..analysis.paired_comparison import PairedComparison
    from ..analysis.paired_tests import Estimate


def print_confirmation(confirmation: Confirmation, console: Console) -> None:
    """Prints the tables, the verdicts and the origins of the rivals."""
    for table in tables(confirmation):
        console.print(table)
    for comparison in confirmation.comparisons:
        if comparison.first == "guided":
            console.print(Text(pair_verdict(comparison, confirmation.metric)))
    if confirmation.expected_best:
        console.print(best_table(confirmation))
    for found in confirmation.baselines:
        console.print(Text(baseline_origin(found)))
    for note in confirmation.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def tables(confirmation: Confirmation) -> list[StackingTable]:
    """Returns the tables of gains, speed-ups and generalization gaps, with a line for each comparison."""
    metric, comparisons = confirmation.metric, confirmation.comparisons
    return [
        _table(
            f"{metric} at the last epoch: mean gain of the first [95 % interval]; pairs needed for a gain of 1 %",
            comparisons,
            {
                "pairs": lambda c: str(len(c.seeds)),
                "first": lambda c: _number(c.final_means[0]),
                "second": lambda c: _number(c.final_means[1]),
                "gain": lambda c: _gain(c.final),
                "p (Holm)": lambda c: "-" if c.final.p_holm is None else f"{c.final.p_holm:.2g}",
                "first is": lambda c: c.verdict if c.same_as is None else f"= {c.same_as}",
                "needed": lambda c: "-" if c.pairs_needed is None else str(c.pairs_needed),
            },
        ),
        _table(
            "Speed-up: time of the second to a target over the time of the first, geometric mean [95 % interval]",
            comparisons,
            {
                "target": lambda c: "-" if c.target is None else f"{c.target:.4g}",
                "in epochs": lambda c: _speedup(c.speedup),
                "in seconds": lambda c: _speedup(c.speedup_seconds),
                "never reached": lambda c: f"{c.never} / {c.never_second}" if c.never or c.never_second else "-",
                "paper's ratio": lambda c: _speedup(c.speedup_whole),
            },
        ),
        _table(
            f"{metric}: median gain at the last epoch, mean gain at the best epoch, gap to the training set",
            comparisons,
            {
                "median gain": lambda c: "-" if math.isnan(c.final.median) else f"{c.final.median:+.3g}",
                "gain at the best": lambda c: _gain(c.best),
                "gap of the first": lambda c: _number(c.generalization_gaps[0]),
                "gap of the second": lambda c: _number(c.generalization_gaps[1]),
            },
        ),
    ]


def best_table(confirmation: Confirmation) -> StackingTable:
    """Returns the best of n design trials that each search is expected to find, with the middle 90 %."""
    found = confirmation.expected_best
    title = "Expected best of n uniform trials on the validation set [middle 90 %]"
    table = StackingTable(["n", *found], title=title)
    for n in budgets(max(len(each.mean) for each in found.values())):
        cells = [
            f"{each.mean[n - 1]:.4g} [{each.low[n - 1]:.4g}, {each.high[n - 1]:.4g}]" if n <= len(each.mean) else "-"
            for each in found.values()
        ]
        table.add_row(str(n), *cells)
    return table


def _table(
    title: str, comparisons: Sequence[PairedComparison], columns: Mapping[str, Callable[[PairedComparison], str]]
) -> StackingTable:
    table = StackingTable(["trial: first over second", *columns], title=title, left=1)
    for c in comparisons:
        table.add_row(f"{c.number}: {c.first} over {c.second}", *(cell(c) for cell in columns.values()))
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _gain(estimate: Estimate) -> str:
    bounds = "" if estimate.low is None else f" [{estimate.low:+.3g}, {estimate.high:+.3g}]"
    return "-" if math.isnan(estimate.value) else f"{estimate.value:+.3g}{bounds}"


def _speedup(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    value, *bounds = (f"{x:.2f}x" if x else "never" for x in (estimate.value, estimate.low, estimate.high))
    return value if not estimate.high else f"{value} [{', '.join(bounds)}]"  # no interval, or nothing but never
