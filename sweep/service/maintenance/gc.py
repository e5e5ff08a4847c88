"""Gives back what the checkpoints of finished trials take: their weights, which nothing needs but the best ones."""

from __future__ import annotations

from dataclasses import dataclass

from ...analysis.summary import summarise
from ...config.settings import Settings


@dataclass(frozen=True)
class Freed:
    """What cleaning a study has freed, or would.

    Attributes:
        kept: numbers of the trials of the search that keep their weights.
        trials: how many trials, finalists and controls included, have lost theirs.
        bytes: what that frees.
    """

    study: str
    kept: list[int]
    trials: int
    bytes: int


def collect_garbage(name: str, settings: Settings, *, keep: int = 3, dry_run: bool = False) -> Freed:
    """Drops the weights of a study's finished trials beyond the best ``keep`` of the search.

    What stays is what something may still ask for: the checkpoints of trials that wait, run or were interrupted (a
    resume), the metric history of every trial (MLflow is sent it where it lacks the trial, `sweep export` packs it) and
    the weights of the best (MLflow's model is made of them). `sweep train --trial` trains anew and needs none.

    Raises:
        SweepError: no such study.
    """
    from ...training.checkpoint import drop_weights

    summary = summarise(name, settings)
    kept = [row.number for row in summary.best[:keep]]
    finished = [(name, row.number) for row in summary.rows if row.state == "finished" and row.number not in kept]
    finished += [(f"{name}.controls", row.number) for row in summary.controls if row.state == "finished"]
    freed = [drop_weights(settings.checkpoints(*trial), dry_run=dry_run) for trial in finished]
    return Freed(name, kept, sum(each > 0 for each in freed), sum(freed))
