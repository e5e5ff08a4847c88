"""The progress of a run: a live view on a terminal, a line for each trial in a log, or lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import IO, TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..analysis.formats import format_duration, format_params
from ..config.study_config import StudyConfig
from ..service.callback import RunCallback
from ..study.records import OUTCOMES
from .options import complete_commands

if TYPE_CHECKING:  # Ray starts sooner where a line of text does not wait for what the driver imports
    from ..config.settings import Settings
    from ..study.records import Outcome, TrialRecord
    from ..study.trial import Trial
    from ..training.reports import EpochMetrics

GAP = 2  # cells between columns
COLUMNS = ((0, 1, 2, 3, 4), (0, 1, 2, 3), (0, 2, 3), (0, 2))  # of running trials, as many as fit
STOPPING = "stopping: waiting for the running trials' checkpoints; once more stops at once"


class Progress(RunCallback):
    """Counts what happens in a run, in which rows have ended before, and shows messages alone; its children show more.

    By default ``left``, the rows to train, are what is left of the search, its finalists and controls.
    """

    def __init__(
        self,
        config: StudyConfig,
        console: Console,
        done: Sequence[TrialRecord] = (),
        left: int | None = None,
        *,
        stop: threading.Event | None = None,
        settings: Settings | None = None,
    ):
        self.config, self.console, self.settings = config, console, settings
        setattr(console, "on_broken_pipe", partial(silence, console.file))  # noqa: B010 (Rich's own would end the run)
        self.stop = stop or threading.Event()
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
        beside = max(0, search.afterwards - present)
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

    def on_trial_end(self, trial: Trial, outcome: Outcome, error: str | None) -> None:  # noqa: ARG002 (shown by LogLines)
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
        """Shows a message above whatever is shown; commands in it get the options that find the study."""
        if self.settings is not None:
            message = complete_commands(message, self.settings, self.config.name)
        self.notices.append(message)
        self.console.print(Text(f"note: {message}", style="yellow"))

    def on_run_end(self, end: Mapping[str, Any]) -> None:
        """Called with the end of the run as data; people get tables instead."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""


class LogLines(Progress):
    """One line at the start and one for each finished trial: for pipes and log files."""

    def on_trial_start(self, trial: Trial) -> None:
        """Prints the number of trials to train, with the first trial: a run that is refused before prints nothing."""
        if not self.ended_here and not self.running:
            epochs, ended = self.config.training.max_epochs, sum(self.counts.values())
            left = f"up to {self.to_train} to train, of {epochs} epochs at most"
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

    def __init__(self, *arguments: Any, stream: TextIO, **options: Any):
        super().__init__(*arguments, **options)
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
        self._print("notice", message=self.notices[-1])

    def on_run_end(self, end: Mapping[str, Any]) -> None:
        """Prints the last line."""
        self._print(**end)

    def _print(self, event: str, trial: Trial | None = None, **facts: object) -> None:
        subject = {"study": trial.study, "trial": trial.number, "kind": trial.kind} if trial else {}
        line = {"time": time.time(), "study": self.config.name, "event": event, **subject, **facts}
        try:
            print(json.dumps(line), file=self._stream, flush=True)
        except BrokenPipeError:
            silence(self._stream)


def silence(stream: IO[str]) -> None:
    """Discards what is printed from here on: the reader has gone, and the run goes on without one."""
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
        self._live.__exit__(None, None, None)

    def _render(self) -> RenderableType:
        width = self.console.width
        total, done, lines = self.config.search.trials, sum(self.counts.values()), []
        head = Table.grid(padding=(0, GAP))
        bar = ProgressBar(total=max(1, self.to_train), completed=self.ended_here, width=max(10, min(40, width // 4)))
        elapsed = format_duration(round(time.monotonic() - self._began))
        head.add_row(Text(self.config.name, style="bold"), bar, f"{done}/{total} trials", Text(elapsed))
        counts = ", ".join(f"{n} {outcome}" for outcome, n in self.counts.items() if n or outcome == "completed")
        beside = f", {self._ended_beside} beside the search" if self._ended_beside else ""
        lines.append(f"{counts}, {len(self.running)} running{beside}")
        if self.best is not None:
            lines.append(f"best {self.config.objective.metric} {self.best[0]:.5g} (trial {self.best[1]})")
        state = "estimating" if self.phase is None else f"{self.phase} ..."
        if self.phase is None and self.ended_here:  # the time left at the present rate
            seconds = time.monotonic() - (self._first_epoch or self._began)
            left = max(0, self.to_train - self.ended_here)
            state = f"about {format_duration(round(left * seconds / self.ended_here))} left"
        lines.append(STOPPING if self.stop.is_set() else state)
        joined = "  ".join(lines)
        texts = [joined] if cell_len(joined) <= width else lines
        rows = [self._row(trial, metrics) for trial, metrics in list(self.running.values())]
        return Group(head, *map(Text, texts), running_table(rows, width))

    def _row(self, trial: Trial, metrics: EpochMetrics | None) -> tuple[str, ...]:
        metric = self.config.objective.metric
        # A resumed trial has reported epochs, to the driver before this one.
        epoch = metrics.epoch if metrics else max(trial.epochs, trial.reported)
        return (
            f"{trial.study}-{trial.number:04d}",
            trial.kind,
            f"epoch {epoch}/{trial.config.training.max_epochs}",
            f"{metric} {metrics.values[metric]:.5g}" if metrics else f"{metric} -",
            format_params(trial.hyperparameters),
        )


def running_table(rows: Sequence[tuple[str, ...]], width: int) -> Table:
    """Returns the running trials: name, kind, epoch, value and hyperparameters, the last two or three if they fit."""
    names = [max((cell_len(row[i]) for row in rows), default=0) for i in range(5)]
    shown = next((kept for kept in COLUMNS if sum(names[i] for i in kept) + GAP * len(kept) <= width), COLUMNS[-1])
    table = Table.grid(padding=(0, GAP))
    for column in shown:
        table.add_column(no_wrap=True, style="dim" if column == 4 else None)
    for row in rows:
        table.add_row(*(Text(row[i]) for i in shown))
    return table


def waiting(console: Console, what: str) -> contextlib.AbstractContextManager[object]:
    """Shows on a terminal what a ``with`` block does, and for how long it has."""
    began = time.monotonic()

    def text() -> Text:
        return Text(f"{what} ... {time.monotonic() - began:.0f} s")

    live = Live(get_renderable=text, console=console, refresh_per_second=2, transient=True)
    return live if console.is_terminal else contextlib.nullcontext()
