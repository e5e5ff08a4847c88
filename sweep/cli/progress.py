"""The progress of a run: a live view on a terminal, a line for each trial in a log, or lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..analysis.formats import finite_json, format_params
from ..config.study_config import StudyConfig
from ..service.progress import RunProgress
from .options import complete_commands

if TYPE_CHECKING:  # Ray starts sooner where a line of text does not wait for what the driver imports
    from ..config.settings import Settings
    from ..study.records import Outcome, TrialRecord
    from ..study.trial import Trial
    from ..training.reports import EpochMetrics

GAP = 2  # cells between columns
COLUMNS = ((0, 1, 2, 3, 4), (0, 1, 2, 3), (0, 2, 3), (0, 2))  # of running trials, as many as fit


class Progress(RunProgress):
    """Shows the messages of a run alone; its children show more."""

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
        super().__init__(config, done, left, stop=stop)
        self.console, self.settings = console, settings
        setattr(console, "on_broken_pipe", partial(silence, console.file))  # noqa: B010 (Rich's own would end the run)

    def on_message(self, message: str) -> None:
        """Shows a message above whatever is shown; commands in it get the options that find the study."""
        if self.settings is not None:
            message = complete_commands(message, self.settings, self.config.name)
        super().on_message(message)
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
        note = "" if trial.twin is None else f" (the numbers of trial {trial.twin.number})"
        if trial.repeat_of is not None:
            note += f" (trial {trial.repeat_of} on seed {trial.config.training.seed})"
        line = f"{name} {trial.kind} {outcome} {value} epochs={trial.epochs} {params}{note}{reason}"
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
        self._print("progress", trial, epoch=metrics.epoch, metrics=metrics.values)

    def on_trial_end(self, trial: Trial, outcome: Outcome, error: str | None) -> None:
        """Prints the line."""
        super().on_trial_end(trial, outcome, error)
        self._print("ended", trial, outcome=outcome, value=trial.best, epochs=trial.epochs, error=error)

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
            print(json.dumps(finite_json(line), allow_nan=False), file=self._stream, flush=True)
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
        width, lines = self.console.width, self.lines()
        head = Table.grid(padding=(0, GAP))
        bar = ProgressBar(total=max(1, self.to_train), completed=self.ended_here, width=max(10, min(40, width // 4)))
        head.add_row(Text(self.config.name, style="bold"), bar, self.counted, Text(self.elapsed))
        joined = "  ".join(lines)
        texts = [joined] if cell_len(joined) <= width else lines
        return Group(head, *map(Text, texts), running_table(self.rows(), width))


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
