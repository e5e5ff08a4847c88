"""The functions of ``import sweep``: they take a study's name or path, and settings from the environment by default.

They print nothing. A `RunCallback` receives the events of a run; without one they are logged.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.summary import Summary
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..training.reports import EpochMetrics
from . import analyse, single_trial
from .callback import RunCallback
from .preflight import load
from .run import RunOptions
from .run import run as run_config

if TYPE_CHECKING:
    from ..analysis.confirmation import Confirmation
    from ..analysis.report.report import Report

logger = logging.getLogger(__name__)


def load_study(
    study: str | Path,
    *,
    sets: Sequence[str] = (),
    trials: int | None = None,
    design: int = 0,
    settings: Settings | None = None,
) -> StudyConfig:
    """Finds and checks a study: a path, then a study in the storage, then a built-in name. Warnings are logged.

    Args:
        sets: changes of the study file, ``key=value``.
        design: uniform, unpruned trials to add to the total, ``trials``.

    Example:
        >>> settings = Settings(workspace=Path(tempfile.mkdtemp()))
        >>> load_study("digits", sets=["search.design=4"], trials=12, settings=settings).search.trials
        12

    Raises:
        ConfigError: all problems of the study at once.
        StorageError: the storage is unreachable.
    """
    settings = settings or Settings()
    config, warnings = load.load_study(str(study), settings, sets=sets, trials=trials, design=design)
    for warning in warnings:
        logger.warning("%s: %s", config.name, warning)
    return config


def run(
    study: str | Path,
    *,
    sets: Sequence[str] = (),
    trials: int | None = None,
    design: int = 0,
    settings: Settings | None = None,
    callback: RunCallback | None = None,
    options: RunOptions | None = None,
) -> Summary:
    """Runs a study, or resumes it, as ``sweep run`` does; for the first arguments see `load_study`.

    Raises a SweepError with all problems of the study, or the server that is unreachable.
    """
    settings = settings or Settings()
    config = load_study(study, sets=sets, trials=trials, design=design, settings=settings)
    return run_config(config, settings, callback, options)


def train(
    study: str | Path, *, sets: Sequence[str] = (), trial: int | None = None, settings: Settings | None = None
) -> Iterator[EpochMetrics]:
    """Trains one trial in this process, as ``sweep train`` does, and yields the metrics of each epoch.

    The trial is one of the study's, by its number, or ``sets`` give each searched hyperparameter a value. Raises a
    ConfigError if one has none, and a DivergenceError.
    """
    settings = settings or Settings()
    config = single_trial.trial_config(load_study(study, sets=sets, settings=settings), settings, trial)
    with tempfile.TemporaryDirectory(prefix="sweep-train-") as scratch:
        for report in single_trial.train(config, settings, Path(scratch)):
            yield from report.epochs


def report(name: str, *, folder: Path | None = None, settings: Settings | None = None) -> "Report":
    """Writes the report of a study, as ``sweep report`` does; by default to the study's folder in the workspace."""
    return analyse.report(name, settings or Settings(), folder)


def confirm(
    name: str,
    *,
    top: int = 1,
    seeds: int = 8,
    against: Sequence[str] = (),
    settings: Settings | None = None,
    callback: RunCallback | None = None,
) -> "Confirmation | None":
    """Trains and compares pairs, as ``sweep confirm`` does; see `sweep.service.confirm.confirm`."""
    from .confirm import confirm as confirm_study

    heard = contextlib.nullcontext(callback or RunCallback())
    return confirm_study(name, settings or Settings(), lambda *_: heard, top=top, seeds=seeds, against=against)
