"""Deletes the weights of finished trials, except the best ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ...analysis.summary import summarise
from ...config.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Freed:
    """The result of collecting a study's garbage, done or planned.

    Attributes:
        kept: numbers of the search trials that keep their weights.
        trials: number of trials, finalists and controls included, that lose their weights.
        bytes: freed bytes.
    """

    study: str
    kept: list[int]
    trials: int
    bytes: int


def collect_garbage(name: str, settings: Settings, *, keep: int = 3, dry_run: bool = False) -> Freed:
    """Deletes the weights of a study's finished trials, except those of the best ``keep`` of the search.

    Everything that is still needed stays:

    - the checkpoints of trials that wait, run or were interrupted, for a resume;
    - the metric history of every trial, for `sweep export` and for runs that MLflow lacks;
    - the weights of the best trials, for MLflow's model.

    `sweep train --trial` trains again and needs no weights.

    Raises:
        SweepError: no such study.
    """
    from ...training.checkpoint import drop_weights

    summary = summarise(name, settings)
    kept = [row.number for row in summary.best[:keep]]
    finished = [(name, row.number) for row in summary.rows if row.state == "finished" and row.number not in kept]
    finished += [(f"{name}.controls", row.number) for row in summary.controls if row.state == "finished"]
    logger.debug("%s: %d finished trials besides the best: %s", name, len(finished), kept)
    freed = [drop_weights(settings.checkpoints(*trial), dry_run=dry_run) for trial in finished]
    return Freed(name, kept, sum(each > 0 for each in freed), sum(freed))
