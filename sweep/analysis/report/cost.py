"""The cost of a study in CPU or GPU hours, and the hours that pruning saved."""

from collections.abc import Iterable
from typing import NamedTuple

from ...config.resources import Resources
from ...config.study_config import StudyConfig
from ...study.records import TrialRecord


class Cost(NamedTuple):
    """Hours, each multiplied by the CPUs or GPUs of its trial."""

    unit: str  # GPU if any trial had one (CPUs are not counted then), else CPU
    search: float
    after: float  # hours of finalists and controls
    saved: float  # hours that the untrained epochs of pruned trials would have taken, at each trial's own pace
    epochs: int  # trained in the search, including those trained before a pruning decision arrived
    epochs_saved: int


def cost(config: StudyConfig, search: Iterable[TrialRecord], controls: Iterable[TrialRecord]) -> Cost:
    """Adds up the cost of all trials that have ended."""
    search, controls = ([r for r in rows if r.state == "finished"] for rows in (search, controls))
    unit = "GPU" if any(_on_gpu(row) for row in [*search, *controls]) else "CPU"
    spent = {row.number: _hours(row, unit, config.resources) for row in search}
    after = sum(_hours(row, unit, config.resources) for row in controls)
    trained = {row.number: row.epochs if row.trained is None else row.trained for row in search}
    pruned = [row.number for row in search if row.outcome == "pruned" and trained[row.number]]
    left = {number: config.training.max_epochs - trained[number] for number in pruned}
    saved = sum(spent[number] / trained[number] * epochs for number, epochs in left.items())
    return Cost(unit, sum(spent.values()), after, saved, sum(trained.values()), sum(left.values()))


def _on_gpu(row: TrialRecord) -> bool:
    return row.tags.get("sweep.device", "cpu") != "cpu"


def _hours(row: TrialRecord, unit: str, resources: Resources) -> float:
    seconds = row.seconds
    if seconds is None:  # the training's own time was not recorded
        seconds = max(0.0, row.ended - row.started) if row.ended and row.started else 0.0
    gpus = (1.0 if resources.gpus == "auto" else resources.gpus) if _on_gpu(row) else 0.0
    return (resources.total_cpus if unit == "CPU" else gpus) * seconds / 3600
