"""A run's progress as it is shown: a live view of a terminal, a line per trial in a log, or lines of JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import IO, TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..analysis.wording import format_duration, format_params
from ..config.study_config import StudyConfig
from ..service.callback import RunCallback

if TYPE_CHECKING:  # Ray starts sooner where a line of text does not wait for what the driver imports
    from ..study.records import Outcome, TrialRecord
    from ..study.trial import Trial
    from ..training.reports import EpochMetrics


class Progress(RunCallback):
    """The driver's listener: counts what happens; its children show it.

    Args:
        done: rows that have ended before.
        left: how many rows are to be trained; by default what is left of the search, its finalists and controls.
    """

    def __init__(
        self, config: StudyConfig, console: Console, done: Sequence[TrialRecord] = (), left: int | None = None
    ):
        self.config, self.console = config, console
        setattr(console, "on_broken_pipe", partial(silence, console.file))  # noqa: B010 (Rich's own would end the run)
        self.counts = dict.fromkeys(("completed", "pruned", "diverged", "failed"), 0)
        searched = [row for row in done if row.kind == "trial"]
        for row in searched:
            if row.outcome is not None:
                self.counts[row.outcome] += 1
        self.running: dict[tuple[str, int], tuple[Trial, EpochMetrics | None]] = {}
        completed = [
            (row.value, row.number) for row in searched if row.outcome == "completed" and row.value is not None
        ]
        choose = min if config.objective.direction == "minimize" else max
        self.best: tuple[float, int] | None = choose(completed, default=None)
        self.notices: list[str] = []
        self._began, self._ended_here, self._after = time.monotonic(), 0, 0
        search = config.search
        # Finalists that are there may be overtaken until the search is through.
        there = len(done) - len(searched) if len(searched) >= search.trials else 0
        beside = max(0, search.afterwards - there)
        self._left = max(0, search.trials - len(searched)) + beside if left is None else left

    def on_trial_start(self, trial: Trial) -> None:
        """Adds a running trial."""
        self.running[trial.key] = trial, None

    def on_epoch_end(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Remembers a trial's last epoch."""
        self.running[trial.key] = trial, metrics

    def on_trial_end(self, trial: Trial, outcome: Outcome, error: str | None) -> None:  # noqa: ARG002 (shown by LogLines)
        """Counts an outcome."""
        self.running.pop(trial.key, None)
        self._ended_here += 1
        if trial.kind != "trial":
            self._after += 1
            return
        self.counts[outcome] += 1
        value = trial.best
        if outcome == "completed" and value is not None:
            objective = self.config.objective
            if self.best is None or objective.better(value, self.best[0]):
                self.best = value, trial.number

    def on_message(self, message: str) -> None:
        """Shows a notice above whatever is shown."""
        self.notices.append(message)
        self.console.print(Text(f"note: {message}", style="yellow"))

    def told(self, end: Mapping[str, Any]) -> None:
        """How the run has ended; for people there are tables."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""

    def remaining(self) -> str:
        """Time left at the present rate, in words."""
        if not self._ended_here:
            return "estimating"
        left = self._left - self._ended_here
        return f"about {format_duration(max(0, left) * (time.monotonic() - self._began) / self._ended_here)} left"


class LogLines(Progress):
    """One line at the start and one per finished trial: for pipes and log files."""

    def on_trial_start(self, trial: Trial) -> None:
        """Prints, with the first one, what is to come: a run that is refused before prints nothing."""
        if not self._ended_here and not self.running:
            epochs, ended = self.config.training.max_epochs, sum(self.counts.values())
            left = f"up to {self._left} to train, of {epochs} epochs at most"
            self.console.print(f"{self.config.name}: {left}; {ended or 'none'} ended before", soft_wrap=True)
        super().on_trial_start(trial)

    def on_trial_end(self, trial: Trial, outcome: Outcome, error: str | None) -> None:
        """Prints the line."""
        super().on_trial_end(trial, outcome, error)
        value = "" if trial.best is None else f"{self.config.objective.metric}={trial.best:.5g}"
        name = f"{trial.study}-{trial.number:04d}"
        reason = f": {error.strip().splitlines()[-1]}" if error else ""
        params = format_params(trial.hyperparameters)
        line = f"{name} {trial.kind} {outcome} {value} epochs={trial.epochs} {params}{reason}"
        self.console.print(Text(line), soft_wrap=True)


class JsonLines(Progress):
    """One line of JSON per event, for programs that watch a run."""

    def __init__(
        self,
        config: StudyConfig,
        console: Console,
        done: Sequence[TrialRecord] = (),
        left: int | None = None,
        *,
        stream: TextIO,
    ):
        super().__init__(config, console, done, left)
        self._stream = stream

    def on_trial_start(self, trial: Trial) -> None:
        """Prints the line."""
        super().on_trial_start(trial)
        self._print("started", trial, hyperparameters=trial.hyperparameters)

    def on_epoch_end(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Prints the line."""
        super().on_epoch_end(trial, metrics)
        values = {name: value if isfinite(value) else None for name, value in metrics.values.items()}
        self._print("progress", trial, epoch=metrics.epoch, metrics=values)

    def on_trial_end(self, trial: Trial, outcome: Outcome, error: str | None) -> None:
        """Prints the line."""
        super().on_trial_end(trial, outcome, error)
        value = trial.best if trial.best is not None and isfinite(trial.best) else None
        self._print("ended", trial, outcome=outcome, value=value, epochs=trial.epochs, error=error)

    def on_message(self, message: str) -> None:
        """Prints the line."""
        super().on_message(message)
        self._print("notice", message=message)

    def told(self, end: Mapping[str, Any]) -> None:
        """Prints the last line."""
        self._print(**end)

    def _print(self, event: str, trial: Trial | None = None, **facts: object) -> None:
        of = {"study": trial.study, "trial": trial.number, "kind": trial.kind} if trial else {}
        line = {"time": time.time(), "study": self.config.name, "event": event, **of, **facts}
        try:
            print(json.dumps(line), file=self._stream, flush=True)
        except BrokenPipeError:
            silence(self._stream)


def silence(stream: IO[str]) -> None:
    """Sends what is printed from here on to nobody: the reader has gone, and a run needs none."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class LiveView(Progress):
    """Redraws the state of a run in place, twice a second."""

    def __enter__(self) -> LiveView:
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Removes the live view."""
        self._live.__exit__(None, None, None)

    def _render(self) -> RenderableType:
        total, done = self.config.search.trials, sum(self.counts.values())
        head = Text.assemble((self.config.name, "bold"), f"  {done}/{total} trials  ")
        head.append(", ".join(f"{n} {outcome}" for outcome, n in self.counts.items() if n or outcome == "completed"))
        head.append(f", {len(self.running)} running")
        if self._after:
            head.append(f", {self._after} beside the search")
        if self.best is not None:
            head.append(f"  best {self.config.objective.metric} {self.best[0]:.5g} (trial {self.best[1]})")
        head.append(f"  {self.remaining()}", style="dim")
        table = Table.grid(padding=(0, 2))
        for trial, metrics in list(self.running.values()):
            epoch = metrics.epoch if metrics else 0
            value = f"{metrics.values[self.config.objective.metric]:.5g}" if metrics else "-"
            table.add_row(
                f"  {trial.study}-{trial.number:04d}",
                trial.kind,
                f"epoch {epoch}/{trial.config.training.max_epochs}",
                f"{self.config.objective.metric} {value}",
                Text(format_params(trial.hyperparameters), style="dim"),
            )
        return Group(head, table)
