"""What a study has cost, and what pruning has saved of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...config.sections import Resources
from ...config.study_config import StudyConfig

if TYPE_CHECKING:
    from ...study.records import TrialRecord


@dataclass(frozen=True)
class Cost:
    """Hours by what they were spent on, each times the CPUs or GPUs that a trial had.

    Attributes:
        unit: ``GPU`` where any trial had one, and its CPUs are not counted; else ``CPU``.
        search: on trials of the search.
        after: on finalists and controls.
        saved: what the epochs that pruned trials did not train would have taken, at each trial's own pace.
        epochs: trained in the search, those included that were trained ahead of the pruner's word and do not count.
        epochs_saved: not trained in it, because of pruning.
    """

    unit: str
    search: float
    after: float
    saved: float
    epochs: int
    epochs_saved: int


def cost(config: StudyConfig, search: Iterable[TrialRecord], controls: Iterable[TrialRecord]) -> Cost:
    """Adds up the trials that have ended."""
    search, controls = ([r for r in rows if r.state == "finished"] for rows in (search, controls))
    unit = "GPU" if any(_on_gpu(row) for row in [*search, *controls]) else "CPU"
    spent = {row.number: _hours(row, unit, config.resources) for row in search}
    after = sum(_hours(row, unit, config.resources) for row in controls)
    trained = {row.number: row.epochs if row.trained is None else row.trained for row in search}
    pruned = [row.number for row in search if row.outcome == "pruned" and row.epochs]
    left = {number: config.training.max_epochs - trained[number] for number in pruned}
    saved = sum(spent[number] / trained[number] * epochs for number, epochs in left.items())
    return Cost(unit, sum(spent.values()), after, saved, sum(trained.values()), sum(left.values()))


def _on_gpu(row: TrialRecord) -> bool:
    return row.tags.get("sweep.device", "cpu") != "cpu"


def _hours(row: TrialRecord, unit: str, resources: Resources) -> float:
    if unit == "CPU":
        units = resources.cpus
    elif _on_gpu(row):
        units = 1.0 if resources.gpus == "auto" else resources.gpus
    else:
        units = 0.0
    return units * _seconds(row) / 3600


def _seconds(row: TrialRecord) -> float:
    """Of training; else from the trial's start to its end."""
    if row.seconds is not None:
        return row.seconds
    return max(0.0, row.ended - row.started) if row.ended and row.started else 0.0
