"""Trains one trial in this process: for `sweep train` and notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.summary import summarise
from ..config.errors import ConfigError, DivergenceError, SweepError
from ..config.settings import Settings
from ..config.study_config import StudyConfig, TrialConfig

if TYPE_CHECKING:
    from ..training.reports import EpochMetrics


def trial_config(config: StudyConfig, settings: Settings, number: int | None) -> TrialConfig:
    """Returns the config of trial ``number``, or the constants of a study that searches nothing."""
    if number is None:
        if config.searched:
            raise ConfigError("train", [f"{n}: give it a value, --set {n}=..." for n in config.searched])
        return config.trial({})
    rows = {row.number: row for row in summarise(config.name, settings).rows}
    row = rows.get(number)
    if row is None or not row.hyperparameters:
        raise SweepError(f"trial {number}: {config.name} has no such trial that was started (0 to {len(rows) - 1})")
    return config.trial(row.hyperparameters, seed=row.seed)


def train(trial: TrialConfig, settings: Settings, folder: Path) -> Iterator[EpochMetrics]:
    """Trains one trial in this process, from scratch, and yields its epochs; raises a DivergenceError."""
    from ..training.reports import TrialPaths
    from ..training.trial import run_trial

    place = TrialPaths(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0)
    for report in run_trial(trial, place, interval=0.0):
        yield from report.epochs
        if report.outcome == "diverged":
            raise DivergenceError(f"diverged: {report.error}")


def test(trial: TrialConfig, settings: Settings, folder: Path) -> dict[str, float]:
    """Returns the metrics of a trained trial on the test set."""
    from ..data.loading import load_dataset as load_data
    from ..training.loop import evaluate
    from ..training.reports import TrialPaths
    from ..training.trial import assemble

    run, _ = assemble(trial, TrialPaths(folder=folder, data=settings.data, cache=settings.cache, gpus=1.0))
    dataset = load_data(trial.data, root=settings.data, cache=settings.cache)
    return evaluate(run, dataset.test.to(run.device), "test")
