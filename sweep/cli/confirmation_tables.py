"""Tables and sentences of a confirmation, for a terminal."""

import math
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from ..analysis.confirmation import Confirmation, baseline_origin, pair_verdict
from ..analysis.paired_comparison import PairedComparison
from ..analysis.paired_tests import Estimate
from .stacking_table import StackingTable


def print_confirmation(confirmation: Confirmation, console: Console) -> None:
    """Prints the tables, the verdicts and the origins of the rivals."""
    for table in tables(confirmation):
        console.print(table)
    for comparison in confirmation.comparisons:
        if comparison.first == "guided":
            console.print(Text(pair_verdict(comparison, confirmation.metric)))
    for found in confirmation.baselines:
        console.print(Text(baseline_origin(found)))
    for note in confirmation.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def tables(confirmation: Confirmation) -> list[StackingTable]:
    """Returns the tables of gains, speed-ups and generalization gaps, with a line for each comparison."""
    metric = confirmation.metric
    columns_of: dict[str, dict[str, Callable[[PairedComparison], str]]] = {
        f"{metric} at the last epoch, pairs of fresh seeds: mean gain of the first [95 % interval]": {
            "pairs": lambda c: str(len(c.seeds)),
            "first": lambda c: _number(c.final_means[0]),
            "second": lambda c: _number(c.final_means[1]),
            "gain": lambda c: _gain(c.final),
            "p (Holm)": lambda c: "-" if c.final.p_holm is None else f"{c.final.p_holm:.2g}",
            "first is": lambda c: c.verdict,
            "needed": lambda c: "-" if c.pairs_needed is None else str(c.pairs_needed),
        },
        "Speed-up: time of the second to its own final value over the time of the first, median [95 % interval]": {
            "in epochs": lambda c: _speedup(c.speedup),
            "in seconds": lambda c: _speedup(c.speedup_seconds),
            "never reached": lambda c: str(c.never) if c.never else "-",
            "all epochs of the second": lambda c: _speedup(c.speedup_whole),
        },
        f"{metric} at the best epoch, and its gap to the training set at the last epoch": {
            "gain at the best": lambda c: _gain(c.best),
            "gap of the first": lambda c: _number(c.generalization_gaps[0]),
            "gap of the second": lambda c: _number(c.generalization_gaps[1]),
        },
    }
    found = []
    for title, columns in columns_of.items():
        found.append(StackingTable(["trial: first over second", *columns], title=title, left=1))
        for c in confirmation.comparisons:
            found[-1].add_row(f"{c.number}: {c.first} over {c.second}", *(cell(c) for cell in columns.values()))
    return found


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
