"""Deletes the weights of finished trials, except the best ones."""

from dataclasses import dataclass

from ...analysis.summary import summarise
from ...config.settings import Settings
from ...training.checkpoint import drop_weights


@dataclass(frozen=True)
class Freed:
    """The result of collecting a study's garbage, done or planned."""

    study: str
    kept: list[int]  # search trials that keep their weights
    trials: int  # finalists and controls included, that lose their weights
    bytes: int


def collect_garbage(name: str, settings: Settings, *, keep: int = 3, dry_run: bool = False) -> Freed:
    """Deletes the weights of a study's finished trials, except those of the best ``keep`` of the search.

    The checkpoints of unfinished trials stay, for a resume, and every metric history, for runs that MLflow lacks.
    """
    summary = summarise(name, settings)
    kept = [row.number for row in summary.best[:keep]]
    finished = [(name, row.number) for row in summary.rows if row.state == "finished" and row.number not in kept]
    finished += [(f"{name}.controls", row.number) for row in summary.controls if row.state == "finished"]
    freed = [drop_weights(settings.checkpoints(*trial), dry_run=dry_run) for trial in finished]
    return Freed(name, kept, sum(each > 0 for each in freed), sum(freed))
