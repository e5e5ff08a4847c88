"""Callbacks of a run: the interface through which a terminal, a log or a notebook follows it."""

import logging
from typing import TYPE_CHECKING

from ..study.records import Outcome
from ..training.reports import EpochMetrics

if TYPE_CHECKING:
    from ..study.trial import Trial

logger = logging.getLogger(__name__)


class RunCallback:
    """Receives the events of a run; each method may be overridden, and logs its event by default."""

    def on_phase(self, phase: str) -> None:
        """Called when the run enters a phase before its first trial, such as "starting Ray"."""
        logger.info("%s", phase)

    def on_trial_start(self, trial: "Trial") -> None:
        """Called when a trial is assigned to a worker."""
        logger.info("trial %d of %s started: %s", trial.number, trial.study, trial.hyperparameters)

    def on_epoch_end(self, trial: "Trial", metrics: EpochMetrics) -> None:
        """Called when a trial has reported epochs, with the metrics of the last one."""
        logger.debug("trial %d of %s: epoch %d", trial.number, trial.study, metrics.epoch)

    def on_trial_end(self, trial: "Trial", outcome: Outcome, error: str | None) -> None:
        """Called when a trial has ended; ``error`` is the traceback of a failed one."""
        logger.info("trial %d of %s %s%s", trial.number, trial.study, outcome, f": {error}" if error else "")

    def on_message(self, message: str) -> None:
        """Called with a message for the user; each message comes once."""
        logger.warning("%s", message)
