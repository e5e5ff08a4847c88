"""Counts the trials of a run, for whatever shows its progress: a terminal, a log or a notebook."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..analysis.formats import format_duration, format_params
from ..config.study_config import StudyConfig
from ..study.records import OUTCOMES
from .callback import RunCallback

if TYPE_CHECKING:  # Ray starts sooner where a line of text does not wait for what the driver imports
    from ..study.records import Outcome, TrialRecord
    from ..study.trial import Trial
    from ..training.reports import EpochMetrics

STOPPING = "stopping: waiting for the running trials' checkpoints; once more stops at once"


class RunProgress(RunCallback):
    """Counts what happens in a run, in which rows have ended before, and keeps its messages.

    By default ``left``, the rows to train, are what is left of the search, its finalists and controls.
    """

    def __init__(
        self,
        config: StudyConfig,
        done: Sequence[TrialRecord] = (),
        left: int | None = None,
        *,
        stop: threading.Event | None = None,
    ):
        self.config, self.stop = config, stop or threading.Event()
        searched = [row for row in done if row.kind == "trial"]
        self.counts: dict[str, int] = {name: sum(row.outcome == name for row in searched) for name in OUTCOMES}
        self.running: dict[tuple[str, int], tuple[Trial, EpochMetrics | None]] = {}
        values = [(row.value, row.number) for row in searched if row.outcome == "completed" and row.value is not None]
        choose = min if config.objective.direction == "minimize" else max
        self.best: tuple[float, int] | None = choose(values, default=None)
        self.notices: list[str] = []
        self.phase: str | None = None
        self._began = time.monotonic()
        self._first_epoch: float | None = None  # when training began
        self.ended_here, self._ended_beside = 0, 0
        search = config.search
        # The present finalists may be overtaken until the search is finished.
        present = len(done) - len(searched) if len(searched) >= search.trials else 0
        beside = max(0, search.afterwards(guided=config.guided) - present)
        self.to_train = max(0, search.trials - len(searched)) + beside if left is None else left

    def on_phase(self, phase: str) -> None:
        """Keeps the phase until the first epoch."""
        self.phase = phase

    def on_trial_start(self, trial: Trial) -> None:
        """Adds a running trial."""
        self.running[trial.key] = trial, None

    def on_epoch_end(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Keeps a trial's last epoch."""
        self.phase = None
        self._first_epoch = self._first_epoch or time.monotonic()
        self.running[trial.key] = trial, metrics

    def on_trial_end(self, trial: Trial, outcome: Outcome, error: str | None) -> None:  # noqa: ARG002 (LogLines shows it)
        """Counts an outcome."""
        self.phase = None
        self.running.pop(trial.key, None)
        self.ended_here += 1
        if trial.kind != "trial":
            self._ended_beside += 1
            return
        self.counts[outcome] += 1
        if outcome == "completed" and trial.best is not None:
            objective = self.config.objective
            if self.best is None or objective.better(trial.best, self.best[0]):
                self.best = trial.best, trial.number

    def on_message(self, message: str) -> None:
        """Keeps a message."""
        self.notices.append(message)

    @property
    def counted(self) -> str:
        """Trials of the search that have ended, of all: ``3/12 trials``."""
        return f"{sum(self.counts.values())}/{self.config.search.trials} trials"

    @property
    def elapsed(self) -> str:
        """Time since the start, as text."""
        return format_duration(round(time.monotonic() - self._began))

    def lines(self) -> list[str]:
        """Returns lines on the outcomes, on the best trial, and on the phase or the time that is left."""
        counts = ", ".join(f"{n} {outcome}" for outcome, n in self.counts.items() if n or outcome == "completed")
        beside = f", {self._ended_beside} beside the search" if self._ended_beside else ""
        lines = [f"{counts}, {len(self.running)} running{beside}"]
        if self.best is not None:
            lines.append(f"best {self.config.objective.metric} {self.best[0]:.5g} (trial {self.best[1]})")
        state = "estimating" if self.phase is None else f"{self.phase} ..."
        if self.phase is None and self.ended_here:  # the time left at the present rate
            seconds = time.monotonic() - (self._first_epoch or self._began)
            left = max(0, self.to_train - self.ended_here)
            state = f"about {format_duration(round(left * seconds / self.ended_here))} left"
        return [*lines, STOPPING if self.stop.is_set() else state]

    def rows(self) -> list[tuple[str, ...]]:
        """Returns the running trials: name, kind, epoch, value of the objective, and hyperparameters, as text."""
        metric, rows = self.config.objective.metric, list[tuple[str, ...]]()
        for trial, metrics in list(self.running.values()):
            # A resumed trial has reported epochs, to the driver before this one.
            epoch = metrics.epoch if metrics else max(trial.epochs, trial.reported)
            value = f"{metric} {metrics.values[metric]:.5g}" if metrics else f"{metric} -"
            epochs = f"epoch {epoch}/{trial.config.training.max_epochs}"
            name = f"{trial.study}-{trial.number:04d}"
            rows.append((name, trial.kind, epochs, value, format_params(trial.hyperparameters)))
        return rows
