"""The functions of ``import sweep``: those behind the commands, with settings from the environment by default.

They print nothing. In a notebook a run shows its progress below the cell; elsewhere its events are logged, or go to a
`RunCallback` of the user's own.
"""

import contextlib
import logging
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.summary import finished_rows, summarise
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..training.reports import EpochMetrics
from . import single_trial
from .callback import RunCallback
from .confirm import Listen
from .confirm import confirm as confirm_study
from .notebook import NotebookProgress, in_notebook
from .preflight import load as preflight
from .results import StudyResults
from .run import RunOptions
from .run import run as run_config
from .stopping import stopped_by

if TYPE_CHECKING:
    from ..analysis.confirmation import Confirmation

logger = logging.getLogger(__name__)

StudySource = str | Path | Mapping[str, Any] | StudyConfig
"""A study file's path, the name of a study in the storage or of a built-in one, or a study file's keys as a mapping."""


def load_config(
    study: StudySource,
    *,
    sets: Sequence[str] = (),
    trials: int | None = None,
    design: int = 0,
    settings: Settings | None = None,
) -> StudyConfig:
    """Finds and checks a study, and trains nothing. Warnings are logged.

    Args:
        study: a path, then a study in the storage, then a built-in name; or the keys of a study file as a mapping.
        sets: changes of the study, ``key=value``, as of ``sweep run --set``.
        trials: trials of the search in total.
        design: uniform, unpruned trials to add to the total.

    Example:
        >>> settings = Settings(workspace=Path(tempfile.mkdtemp()))
        >>> load_config("digits", sets=["search.design=4"], trials=12, settings=settings).search.trials
        12

    Raises:
        ConfigError: all problems of the study at once.
        StorageError: the storage is unreachable.
    """
    settings = settings or Settings()
    given = str(study) if isinstance(study, str | Path) else study
    config, warnings = preflight.load_study(given, settings, sets=sets, trials=trials, design=design)
    for warning in warnings:
        logger.warning("%s: %s", config.name, warning)
    return config


def run(
    study: StudySource,
    *,
    sets: Sequence[str] = (),
    trials: int | None = None,
    design: int = 0,
    settings: Settings | None = None,
    callback: RunCallback | None = None,
    options: RunOptions | None = None,
) -> StudyResults:
    """Runs a study, or resumes it, as ``sweep run`` does; for the first arguments see `load_config`.

    An interrupt (the stop button of a notebook, Ctrl-C) lets running trials write checkpoints; the results are then
    those so far, and the same call goes on. A second one raises KeyboardInterrupt at once.

    Raises:
        SweepError: all problems of the study, or the server that is unreachable; before any trial.

    Example:
        >>> study = run("digits", trials=32)  # doctest: +SKIP
        >>> run({"name": "mine", "model": {"name": "mlp"}, "data": {"nam": "digits"}})
        Traceback (most recent call last):
        ...
        sweep.config.errors.ConfigError: study mine: 6 problems
          - data.name: required
          - data.nam: unknown key (did you mean name?); allowed: name, folder, ...
    """
    settings, options = settings or Settings(), options or RunOptions()
    config = load_config(study, sets=sets, trials=trials, design=design, settings=settings)
    listen = _listen(settings, callback, options.stop)
    with _interruptible(options.stop), listen(config, None) as heard:
        return StudyResults(run_config(config, settings, heard, options), settings)


def load(name: str, *, settings: Settings | None = None) -> StudyResults:
    """Reads the results of a study as they are now, be it finished, interrupted or running elsewhere.

    Raises:
        SweepError: no such study; lists those that there are.

    Example:
        >>> load("digits", settings=Settings(workspace=Path(tempfile.mkdtemp())))
        Traceback (most recent call last):
        ...
        sweep.config.errors.SweepError: digits: no such study in the storage ...
    """
    settings = settings or Settings()
    return StudyResults(summarise(name, settings), settings)


def train(
    study: StudySource, *, sets: Sequence[str] = (), trial: int | None = None, settings: Settings | None = None
) -> Iterator[EpochMetrics]:
    """Trains one trial in this process, as ``sweep train`` does, and yields the metrics of each epoch.

    The trial is one of the study's, by its number, or ``sets`` give each searched hyperparameter a value. Raises a
    ConfigError if one has none, and a DivergenceError.

    Example:
        >>> one = ["lambda1=1e-3", "lambda2=0", "epsilon=0.01", "depth=4", "width=16", "training.max_epochs=1"]
        >>> [epoch] = train("digits", sets=one, settings=Settings(workspace=Path(tempfile.mkdtemp())))
        >>> epoch.epoch, 0 < epoch.values["val_loss"] < 1
        (1, True)
    """
    settings = settings or Settings()
    config = single_trial.trial_config(load_config(study, sets=sets, settings=settings), settings, trial)
    with tempfile.TemporaryDirectory(prefix="sweep-train-") as scratch:
        for report in single_trial.train(config, settings, Path(scratch)):
            yield from report.epochs


def confirm(
    name: str,
    *,
    top: int = 1,
    seeds: int = 8,
    against: Sequence[str] = (),
    placebo: bool = False,
    settings: Settings | None = None,
    callback: RunCallback | None = None,
    options: RunOptions | None = None,
) -> "Confirmation | None":
    """Tests whether guidance helped, in pairs on fresh seeds and the test set, as ``sweep confirm`` does.

    Returns None if it was interrupted; the same call then goes on. See `sweep.service.confirm.confirm`.

    Example:
        >>> result = confirm("digits", seeds=8)  # doctest: +SKIP
        >>> result.table[["second", "gain", "p_holm", "first_is"]]  # doctest: +SKIP
    """
    settings, options = settings or Settings(), options or RunOptions()
    listen = _listen(settings, callback, options.stop)
    with _interruptible(options.stop):
        return confirm_study(
            name, settings, listen, top=top, seeds=seeds, against=against, placebo=placebo, options=options
        )


def _listen(settings: Settings, callback: RunCallback | None, stop: threading.Event) -> Listen:
    """Returns what makes the callback of a run: the given one, else that of a notebook, else the log."""

    def listen(config: StudyConfig, left: int | None) -> contextlib.AbstractContextManager[RunCallback]:
        if callback is None and in_notebook():
            return NotebookProgress(config, finished_rows(config, settings), left, stop=stop)
        return contextlib.nullcontext(callback or RunCallback())

    return listen


@contextlib.contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """Lets an interrupt set ``stop`` until the end of the block, since options may be used for other runs.

    Does nothing if the program has a handler of its own, or this is not its main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    with stopped_by([signal.SIGINT], stop) as caught:
        try:
            yield
        finally:
            if caught:
                stop.clear()
