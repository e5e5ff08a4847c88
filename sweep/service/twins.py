"""Ends a trial with the numbers of its twin: the checkpoint is copied, and reported as a worker would report it.

The order of writing is that of every trial, see `sweep.service.driver`: a driver may die at any moment in between.
"""

import logging

from ..study.records import TrialRecord
from ..study.trial import Trial
from ..training.reports import TrialReport
from .recorder import Recorder

logger = logging.getLogger(__name__)


class Twins:
    """The trials of a search that a run need not train, by ``search.duplicates``."""

    def __init__(self, recorder: Recorder):
        self._recorder, self._search, self._settings = recorder, recorder.search, recorder.settings
        self._how = recorder.config.search.duplicates

    def find(self, trial: Trial) -> TrialRecord | None:
        """Returns the twin whose numbers a trial takes, or waits for while it runs; None: the trial is trained.

        With ``resample``, it is trained on a seed of its own.
        """
        if trial.kind != "trial":  # the rows of the sister study differ from each other
            return None
        trial.fingerprint = self._recorder.fingerprint(trial)
        if self._how == "reuse":
            return self._search.find_twin(trial)
        if self._how == "resample" and self._is_new(trial):
            self._search.resample(trial)
            trial.fingerprint = self._recorder.fingerprint(trial)
        return None

    def _is_new(self, trial: Trial) -> bool:
        """Returns True if no driver before this one has trained the trial, perhaps on another seed."""
        from ..training import checkpoint

        return trial.attempt == 1 or checkpoint.is_gone(self._settings.checkpoints(trial.study, trial.number))

    def take(self, trial: Trial, twin: TrialRecord) -> TrialReport | None:
        """Gives a trial the checkpoint of its finished twin; returns its report, or None if there is no checkpoint."""
        from ..training import checkpoint

        folders = (self._settings.checkpoints(trial.study, number) for number in (twin.number, trial.number))
        source, target = folders
        try:
            saved = checkpoint.copy_latest(source, target / checkpoint.attempt(trial.attempt))
        except OSError as error:  # a full disk, object storage that does not answer: trials that train tell of it
            logger.info("trial %d cannot have the numbers of trial %d: %r", trial.number, twin.number, error)
            return None
        history = [m for m in saved.history if m.epoch <= twin.epochs] if saved is not None else []
        if saved is None or (history[-1].epoch if history else 0) != twin.epochs:
            return None
        logger.info("trial %d takes the numbers of trial %d", trial.number, twin.number)
        trial.twin = twin
        outcome = None if twin.outcome == "pruned" else twin.outcome
        tags = {**twin.tags, "sweep.twin": str(twin.number)}
        return TrialReport(history, str(saved.path), outcome, twin.error, tags=tags)
