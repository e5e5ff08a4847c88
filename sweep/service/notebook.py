"""The progress of a run in a notebook: one display below the cell, which is redrawn."""

from __future__ import annotations

import html
import sys
import time
from typing import TYPE_CHECKING, Any

from .progress import RunProgress

if TYPE_CHECKING:
    from ..study.records import Outcome
    from ..study.trial import Trial
    from ..training.reports import EpochMetrics

REDRAW_EVERY = 0.5  # seconds


def in_notebook() -> bool:
    """Returns True in a kernel of Jupyter, VS Code or Colab; False in Python's and IPython's own shells."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


class NotebookProgress(RunProgress):
    """Shows a bar, the counts, the best trial, the running trials and the messages of a run, within a ``with`` block.

    Redrawn at most twice a second.
    """

    def __enter__(self) -> NotebookProgress:
        from IPython.display import display

        self._ended, self._drawn = False, time.monotonic()
        self._display: Any = display(self, display_id=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        self._display.update(self)

    def on_phase(self, phase: str) -> None:
        """Shows the phase."""
        super().on_phase(phase)
        self._redraw(now=True)

    def on_trial_start(self, trial: Trial) -> None:
        """Shows the trial among the running ones."""
        super().on_trial_start(trial)
        self._redraw()

    def on_epoch_end(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Shows the epoch."""
        super().on_epoch_end(trial, metrics)
        self._redraw()

    def on_trial_end(self, trial: Trial, outcome: Outcome, error: str | None) -> None:
        """Shows the counts."""
        super().on_trial_end(trial, outcome, error)
        self._redraw()

    def on_message(self, message: str) -> None:
        """Shows the message below the trials."""
        super().on_message(message)
        self._redraw(now=True)

    def _redraw(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._drawn >= REDRAW_EVERY:
            self._drawn = time.monotonic()
            self._display.update(self)

    def _repr_html_(self) -> str:
        head = f"<b>{html.escape(self.config.name)}</b> {self.counted}, {self.elapsed}"
        bar = f'<progress max="{max(1, self.to_train)}" value="{self.ended_here}"></progress>'
        lines = self.lines()
        if self._ended:
            lines[-1:] = ["interrupted; the same call goes on"] if self.stop.is_set() else []
        cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows()]
        table = f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>" if cells else ""
        notes = "".join(f"<div>note: {html.escape(note)}</div>" for note in self.notices)
        return f"<div>{head} {bar}</div>{''.join(f'<div>{html.escape(line)}</div>' for line in lines)}{table}{notes}"
