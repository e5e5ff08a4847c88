"""The part that runs of the user's own code share, be it a function or a script: what its reports must be."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch

from ..config.errors import FunctionError
from ..config.sections import METRIC
from ..config.trial_config import TrialConfig
from .checkpoint import Checkpoint
from .loop import Diverged, finished_epoch
from .reports import EpochMetrics


class OwnRun(ABC):
    """A run of the user's own code between two epochs; see `sweep.training.trial.TrialRun`."""

    report_hint = ""  # the way to report

    def __init__(self, config: TrialConfig, saved: Checkpoint | None, warn: Callable[[str], object]):
        self.config, self.name = config, config.subject
        self.history = saved.history[:] if saved else []
        self.constants: dict[str, float] = {}  # nobody knows any
        self.ended = bool(saved and saved.state.get("ended"))
        self._warn = warn
        self._reported: int | None = None  # the last epoch that this process has reported

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return self.history[-1].epoch if self.history else 0

    def diverged(self, epoch: int) -> Diverged:
        """Returns the error of a run whose objective is not finite in an epoch."""
        return Diverged(epoch, self.config.objective.metric)

    def fit(self) -> Generator[EpochMetrics]:
        """Runs the code, and yields each epoch that it has reported, but for those that it has repeated.

        The last epoch is yielded when the code has ended, or goes on to report another one.

        Raises:
            Diverged: The objective of an epoch is not finite.
            FunctionError: The code reports what is not allowed.
        """
        while not self.ended and (metrics := self._next_epoch()) is not None:
            if metrics.epoch == self.config.training.max_epochs:
                self._finish()
                self.ended = True
            if metrics.epoch > self.epoch:
                self.history.append(metrics)
                yield metrics
            else:
                self._compare(metrics)
        self.ended = True
        if not self.history:
            told = " and ".join(self.config.required)
            raise FunctionError(f"{self.name} ended without a report: it never told {told}{self.report_hint}")

    @abstractmethod
    def _next_epoch(self) -> EpochMetrics | None:
        """Runs the code to its next report; returns None if it ends before."""

    @abstractmethod
    def _finish(self) -> None:
        """Runs the code to its end after the last epoch; a further report stops it."""

    def _finished(self, epoch: int, values: dict[str, float], seconds: float) -> EpochMetrics:
        if not math.isfinite(values[self.config.objective.metric]):
            raise self.diverged(epoch)
        return finished_epoch(self.config.objective, self.history, epoch, {**values, "seconds": seconds})

    def _warn_going_on(self) -> None:
        last = self.config.training.max_epochs
        self._warn(f"{self.name} goes on after training.max_epochs, {last}: it is stopped there")

    def _numbers(self, reported: Mapping[Any, Any], where: str) -> dict[str, float]:
        """Returns what was reported as numbers; raises FunctionError with all problems."""
        values, problems = dict[str, float](), list[str]()
        for key, value in reported.items():
            if not isinstance(key, str) or not METRIC.fullmatch(key):
                problems.append(f"{key!r} is no name of letters, digits, '_', '-', '.', '/' and blanks")
            elif key in self.config.hyperparameters:
                problems.append(f"{key} is the name of a hyperparameter")
            else:
                try:
                    values[key] = _number(value)
                except (TypeError, ValueError, OverflowError, RuntimeError):
                    problems.append(f"{key} is a {type(value).__name__}, not a number")
        missing = [each for each in self.config.required if each not in values and each not in reported]
        if missing:
            problems.append(
                f"{' and '.join(missing)} is missing; it reported {', '.join(map(str, reported)) or 'nothing'}"
            )
        if problems:
            raise FunctionError(f"{where}{self.name} reported what is no result: {'; '.join(problems)}")
        return values

    def _compare(self, again: EpochMetrics) -> None:
        """Warns if an epoch that was repeated has another objective than before; what was reported stays."""
        metric = self.config.objective.metric
        before = next((m.values[metric] for m in self.history if m.epoch == again.epoch), math.nan)
        if before != again.values[metric]:
            self._warn(
                f"{self.name} is not repeatable: {metric} of epoch {again.epoch} was {before:.6g}, and is "
                f"{again.values[metric]:.6g} when it is trained again; a replay gives other numbers than the trial had"
            )


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError
    return float(value.detach() if isinstance(value, torch.Tensor) else value)
