"""Checks of the pruner of a study: it is replayed on the design trials, which nobody has pruned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .formats import format_percent

if TYPE_CHECKING:
    from ..study.records import TrialRecord
    from .summary import Summary

MIN_TRIALS = 16  # of the design to replay, and after it from which nothing saved is worth a word
LITTLE = 0.01  # share of the epochs, below which pruning has saved nothing
ALIKE = 0.8  # rank correlation from which an early epoch tells the last one


def pruning(summary: Summary, _: object) -> Iterator[str]:
    """Says that the pruner would have stopped the best design trial, or that it has saved nothing."""
    config, pruner = summary.config, summary.config.search.pruner
    last, sign = config.training.max_epochs, -1 if config.objective.direction == "maximize" else 1
    trained = [row for row in summary.rows if row.design and row.twin is None]
    whole = [row for row in trained if row.outcome == "completed" and len(row.reported) > 1]
    whole = [
        row for row in whole if row.value is not None and all(map(math.isfinite, [row.value, *row.reported.values()]))
    ]
    if pruner == "none" or len(whole) < MIN_TRIALS:
        return
    from ..study.pruners import replay_pruner

    change = f"sweep run {config.name} --set search.pruner="
    stopped = replay_pruner(config, [row.reported for row in whole])
    loss = [sign * (row.value or 0.0) for row in whole]
    best = min(range(len(loss)), key=loss.__getitem__)
    left = (value for value, epoch in zip(loss, stopped, strict=True) if epoch is None)
    regret = min(left, default=math.inf) - loss[best]
    if (at := stopped[best]) is not None and regret > 0:
        untrained = sum(last - epoch for epoch in stopped if epoch is not None)
        saved = format_percent(untrained / (last * len(whole)))
        alike = _rank_correlation(whole, at)
        yield (
            f"Pruning may lose the best: in a replay on {len(whole)} design trials, {pruner} stops the best of them at "
            f"epoch {at}, whose ranks have a correlation of {alike:.2f} with those at the end. The best that it leaves "
            f"is {regret:.3g} worse, for {saved} of the epochs: {change}none --trials {2 * len(summary.rows)}"
        )
    else:
        yield from _nothing_saved(summary, whole, change)


def _nothing_saved(summary: Summary, whole: Sequence[TrialRecord], change: str) -> Iterator[str]:
    from .report.cost import cost

    later = [row for row in summary.rows if row.state == "finished" and not row.design and row.twin is None]
    later = [row for row in later if row.repeat_of is None]
    spent = cost(summary.config, summary.rows, [])
    if len(later) < MIN_TRIALS or spent.epochs_saved > LITTLE * (spent.epochs + spent.epochs_saved):
        return
    early = min(whole[0].reported)
    alike = _rank_correlation(whole, early)
    other = "none" if alike < ALIKE or summary.config.search.pruner == "successive_halving" else "successive_halving"
    told = "ranks the trials as the last one does" if alike >= ALIKE else "does not tell the last one"
    yield (
        f"Pruning has saved nothing: {spent.epochs_saved} epochs ({spent.saved:.2g} {spent.unit} hours) of the "
        f"{len(later)} trials after the design. Epoch {early} {told} (rank correlation {alike:.2f}): "
        f"{change}{other} --trials {2 * len(summary.rows)}"
    )


def _rank_correlation(rows: Sequence[TrialRecord], epoch: int) -> float:
    """Returns Spearman's rank correlation of the objective at an epoch with the final one; 0 if either is constant."""
    import pandas as pd

    pairs = pd.DataFrame([(row.reported[epoch], row.value) for row in rows if epoch in row.reported]).rank()
    found = float(pairs.corr().iloc[0, 1]) if len(pairs) > 1 else 0.0
    return found if math.isfinite(found) else 0.0
