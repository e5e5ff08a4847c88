"""Tables of a study for a terminal: its trials, its sensitivity, its confirmation, its networks."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ..analysis.confirmation import baseline_origin, pair_verdict
from ..analysis.expected_best import budgets
from ..analysis.formats import format_expected, format_mean_sd, format_objective, format_params, format_value
from ..analysis.sensitivity_text import (
    INDEX_COLUMNS,
    WIDE,
    interpretation,
    notable_pairs,
    reliability,
    remarks,
    unexplained,
)
from ..config.search_space import ALIASES
from ..config.study_config import StudyConfig
from ..study.records import ARMS, LOST_WORKER, OUTCOMES
from .options import complete_commands
from .stacking_table import StackingTable

if TYPE_CHECKING:
    from ..analysis.comparison import FinalistComparison
    from ..analysis.confirmation import Confirmation
    from ..analysis.paired_comparison import PairedComparison
    from ..analysis.paired_tests import Estimate
    from ..analysis.sensitivity import Analysis
    from ..analysis.sobol import Interval
    from ..analysis.weight_profile import WeightProfile
    from ..config.settings import Settings
    from ..service import Summary
    from ..study.finalists import Expected
    from ..study.records import TrialRecord

MOST_PRUNED = 10  # pruned trials whose reason is shown


def best_table(
    config: StudyConfig, rows: Sequence[TrialRecord], expected: Mapping[int, Expected] | None = None
) -> StackingTable:
    """Returns the best trials of a search as a table, with the objective that is expected on a fresh seed."""
    fresh = ["on fresh seeds"] if expected else []
    names = [n for n in dict.fromkeys([*ALIASES, *config.searched]) if any(n in r.hyperparameters for r in rows)]
    title = f"Best of the search, by {config.objective.metric}{' on fresh seeds (their number)' if expected else ''}"
    table = StackingTable(["trial", config.objective.metric, *fresh, *names, "epochs"], title=title)
    for row in rows:
        values = [format_value(row.hyperparameters.get(n, config.constants.get(n))) for n in names]
        again = [format_expected(expected.get(row.number))] if expected else []
        table.add_row(str(row.number), format_objective(row), *again, *values, str(row.epochs))
    return table


def comparison_table(config: StudyConfig, comparison: FinalistComparison) -> StackingTable:
    """Returns the finalists beside their controls, on fresh seeds: mean and standard deviation."""
    n = config.search.finalists.seeds
    metric = config.objective.metric
    seeds = f"{n} fresh seed{'s' if n > 1 else ''}"
    if not config.guided:
        table = StackingTable(["trial", "mean ± sd"], title=f"Finalists: {metric} on {seeds}")
        for f in comparison.finalists:
            table.add_row(str(f.number), format_mean_sd(f.guided.mean, f.guided.spread))
        return table
    title = f"Finalists and controls: {metric} on {seeds}, mean ± sd; gain is positive where guidance is better"
    table = StackingTable(["trial", "guided", "plain control", "gain", "tuned control", "gain over tuned"], title=title)
    for f in comparison.finalists:
        samples = (f.guided, f.plain, f.gain_over_plain, f.tuned, f.gain_over_tuned)
        table.add_row(
            str(f.number), *(format_mean_sd(s.mean, s.spread, signed=i in (2, 4)) for i, s in enumerate(samples))
        )
    return table


def best_line(summary: Summary) -> str:
    """Returns the best trial, its value and its hyperparameters on one line."""
    if not summary.best:
        return "No trial has completed."
    row, metric = summary.best[0], summary.config.objective.metric
    fresh = summary.expected.get(row.number)
    again = f", {fresh.value:.4g} on fresh seeds" if fresh and fresh.seeds else ""
    return f"Best: trial {row.number}, {metric} {format_objective(row)}{again}, {format_params(row.hyperparameters)}"


def print_summary(summary: Summary, console: Console, *, top: int = 5) -> None:
    """Prints the counts, tables and verdicts of a study."""
    config = summary.config
    console.print(Text.assemble((config.name, "bold"), f": {summary.counted}"))
    if summary.best:
        console.print(best_table(config, summary.best[:top], summary.expected))
    if summary.comparison.finalists:
        console.print(comparison_table(config, summary.comparison))
    for sentence in summary.verdicts:
        console.print(sentence)
    for row in [r for r in summary.rows if r.outcome == "failed"][:3]:
        reason = _last_line(row) or "no reason recorded"
        console.print(Text(f"trial {row.number} failed: {reason}", style="red"))


def print_health(
    summary: Summary, console: Console, settings: Settings, *, checks: Sequence[str] | None = None
) -> None:
    """Prints what the results of a study say against its search, and what to do."""
    from ..analysis.health import health

    for found in health(summary, checks=checks):
        sentence = complete_commands(found.sentence, settings, summary.config.name)
        console.print(Text.assemble(("health: ", "yellow"), sentence), soft_wrap=not console.is_terminal)


def status_table(summary: Summary) -> StackingTable:
    """Returns how many trials of a study there are of each state and outcome."""
    states = ("waiting", "running", *OUTCOMES)
    table = StackingTable(["", *states], title=summary.config.name)
    for name, rows in (("search", summary.rows), ("finalists, controls, pairs", summary.controls)):
        found: list[str] = [row.outcome or row.state for row in rows]
        table.add_row(name, *(str(found.count(state)) for state in states))
    return table


def status_lines(summary: Summary, *, tracebacks: bool) -> Iterator[str]:
    """Yields the drivers of unfinished trials with their trials, then trials with a reason for their outcome."""
    study = summary.config.name
    rows = [*((study, row) for row in summary.rows), *((f"{study}.controls", row) for row in summary.controls)]
    drivers: dict[tuple[str | None, bool, bool], list[str]] = {}
    for name, row in rows:
        before = f"; failed before: {_last_line(row)}" if row.error else ""
        if row.state == "running":
            line = f"    {_title(name, row)}: epoch {row.epochs} of {summary.config.training.max_epochs}{before}"
            drivers.setdefault((row.owner, row.orphan, row.kind in ARMS), []).append(line)
    for (owner, orphan, of_pair), trials in drivers.items():
        then = f"the next sweep confirm {study}" if of_pair else "the next run"
        if owner is None:
            yield f"  trials that a driver is claiming, or was claiming when it died; {then} continues them:"
        elif orphan:
            yield f"  driver {owner} is dead or was stopped; {then} adopts its trials, now orphans:"
        else:
            here = owner.startswith(f"{socket.gethostname()} ")
            yield f"  driver {owner} is running{'' if here else ' (as seen from another host)'}:"
        yield from trials
    if waiting := sum(row.state == "waiting" and row.kind in ARMS for row in summary.controls):
        yield f"  {waiting} members of pairs wait for the next sweep confirm {study}"
    for name, row in rows:
        if row.outcome in ("failed", "diverged", "collapsed"):
            error = (row.error or "").strip() if tracebacks else _last_line(row)
            yield f"  {_title(name, row)} {row.outcome}: {error or 'no reason recorded'}"
    if lost := sum(row.outcome == "failed" and row.tags.get("sweep.reason") == LOST_WORKER for _, row in rows):
        yield f"  {lost} of them by no error of their code: sweep retry {study}"
    pruned = [row for row in summary.rows if row.pruned_by is not None]
    if hidden := len(pruned[:-MOST_PRUNED]):
        yield f"  {hidden} earlier pruned trial{'s' * (hidden != 1)}: sweep status {study} --json has the reasons"
    for row in pruned[-MOST_PRUNED:]:
        yield f"  {_title(study, row)} pruned by {row.pruned_by}"


def _title(study: str, row: TrialRecord) -> str:
    of = f" of trial {row.of}, seed {row.seed}" if row.of is not None else ""
    return f"{study}-{row.number:04d} ({row.kind}{of})"


def _last_line(row: TrialRecord) -> str:
    return (row.error or "").strip().rpartition("\n")[2]


def print_analysis(analysis: Analysis, console: Console, settings: Settings, *, brief: bool = False) -> None:
    """Prints the reliability of an analysis, its indices (not with ``brief``) and their meaning."""
    at = "" if analysis.epoch is None else f", epoch {analysis.epoch}"
    console.print(Text(f"Sensitivity of {analysis.objective} in {analysis.study}{at}", style="bold"))
    console.print(Text(reliability(analysis)), soft_wrap=not console.is_terminal)
    for remark in remarks(analysis):
        console.print(Text(complete_commands(remark, settings, analysis.study)), soft_wrap=not console.is_terminal)
    if analysis.trusted and not brief:
        console.print(_indices_table(analysis))
        for (a, b), together in notable_pairs(analysis):
            console.print(Text(f"  {a} x {b}  {_share(together.value, together.ci)}"))
    for name, why in analysis.left_out.items():
        console.print(Text(f"  {name} is left out: {why}"))
    text = complete_commands(interpretation(analysis), settings, analysis.study)
    console.print(Text(text), soft_wrap=not console.is_terminal)
    for second in (analysis.divergence, analysis.collapse):
        if second is not None and not brief:
            console.print()
            print_analysis(second, console, settings)


def _indices_table(analysis: Analysis) -> StackingTable:
    part = f"the part of the search space with {analysis.where}" if analysis.where else "the search space"
    columns = ["hyperparameter", *INDEX_COLUMNS[analysis.dependent]]
    table = StackingTable(columns, title=f"Shares of the variance over {part}", left=1)
    for name, index in sorted(analysis.parameters.items(), key=lambda item: -item[1].total):
        shares = [_share(index.first, index.first_ci), _share(index.total, index.total_ci)]
        table.add_row(name, *shares[: len(columns) - 1])
    for name, value in unexplained(analysis).items():
        table.add_row(name, f"{value:.2f}", *[""] * (len(columns) - 2))
    return table


def _share(value: float, ci: Interval) -> str:
    """Formats an index with its interval; a wide interval stands alone."""
    low, high = ci
    return f"{low:.2f} to {high:.2f}" if (high - low) / 2 > WIDE else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def importances_table(objective: str, importances: Mapping[str, float]) -> StackingTable | Text:
    """Returns Optuna's importances, and what they are."""
    title = (
        f"Optuna's PED-ANOVA importances for {objective}: what separated the best trials of this search from the "
        "others; they depend on where the search looked and what it pruned, and are no shares of the variance"
    )
    table = StackingTable(["hyperparameter", "importance"], title=title, left=1)
    for name, value in importances.items():
        table.add_row(name, f"{value:.2f}")
    return table if importances else Text(f"{title}\nNone: too few completed trials.")


def profile_table(profile: WeightProfile) -> StackingTable:
    """Returns a line for each layer: its entropy, and the spread of its singular values or filters."""
    columns = ["layer", "kind", "shape", "entropy, nats per dimension", "spread"]
    table = StackingTable(columns, title=profile.title, left=len(columns))
    for layer in profile.layers:
        if layer.kind == "dense":
            spread = f"singular values {layer.values[-1]:.3g} to {layer.values[0]:.3g}"
        else:
            spread = f"{len(layer.outliers)} of {len(layer.values)} filters are outliers"
        shape = "x".join(str(side) for side in layer.shape)
        table.add_row(layer.name, layer.kind, shape, f"{layer.entropy:+.3f}", spread)
    return table


def print_confirmation(confirmation: Confirmation, console: Console) -> None:
    """Prints the tables, the verdicts and the origins of the baselines."""
    for table in confirmation_tables(confirmation):
        console.print(table)
    for comparison in confirmation.comparisons:
        if comparison.first == "guided":
            console.print(Text(pair_verdict(comparison, confirmation.metric)))
    if confirmation.expected_best:
        console.print(expected_best_table(confirmation))
    for found in confirmation.baselines:
        console.print(Text(baseline_origin(found)))
    for note in confirmation.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def confirmation_tables(confirmation: Confirmation) -> list[StackingTable]:
    """Returns the tables of gains, speed-ups and generalization gaps, with a line for each comparison."""
    metric = confirmation.metric
    columns_of: dict[str, dict[str, Callable[[PairedComparison], str]]] = {
        f"{metric} at the last epoch: mean gain of the first [95 % interval]; pairs needed for a gain of 1 %": {
            "pairs": lambda c: str(len(c.seeds)),
            "first": lambda c: _number(c.final_means[0]),
            "second": lambda c: _number(c.final_means[1]),
            "gain": lambda c: _gain(c.final),
            "p (Holm)": lambda c: "-" if c.final.p_holm is None else f"{c.final.p_holm:.2g}",
            "first is": lambda c: c.verdict if c.same_as is None else f"= {c.same_as}",
            "needed": lambda c: "-" if c.pairs_needed is None else str(c.pairs_needed),
        },
        "Speed-up: time of the second to a target over the time of the first, geometric mean [95 % interval]": {
            "target": lambda c: "-" if c.target is None else f"{c.target:.4g}",
            "in epochs": lambda c: _speedup(c.speedup),
            "in seconds": lambda c: _speedup(c.speedup_seconds),
            "never reached": lambda c: f"{c.never} / {c.never_second}" if c.never or c.never_second else "-",
            "paper's ratio": lambda c: _speedup(c.speedup_whole),
        },
        f"{metric}: median gain at the last epoch, mean gain at the best epoch, gap to the training set": {
            "median gain": lambda c: "-" if math.isnan(c.final.median) else f"{c.final.median:+.3g}",
            "gain at the best": lambda c: _gain(c.best),
            "gap of the first": lambda c: _number(c.generalization_gaps[0]),
            "gap of the second": lambda c: _number(c.generalization_gaps[1]),
        },
    }
    found = []
    for title, columns in columns_of.items():
        found.append(StackingTable(["trial: first over second", *columns], title=title, left=1))
        for c in confirmation.comparisons:
            found[-1].add_row(f"{c.number}: {c.first_name} over {c.second}", *(cell(c) for cell in columns.values()))
    return found


def expected_best_table(confirmation: Confirmation) -> StackingTable:
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
