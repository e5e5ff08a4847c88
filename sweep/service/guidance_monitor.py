"""Finds trials whose guidance changes nothing or outweighs the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..execution.trial_source import Key
from ..losses.options import DOMINANT, INERT

if TYPE_CHECKING:
    from ..study.trial import Trial
    from ..training.reports import EpochMetrics

HINTS = {
    "inert": "it changes nothing (see measure and scale under guidance in the README)",
    "dominant": "it would outweigh the task without max_ratio; lower lambdas, or a larger epsilon, avoid it",
}


class GuidanceMonitor:
    """The state of guidance in the trials of one run: inert, dominant, or neither."""

    def __init__(self) -> None:
        self._states: dict[Key, str] = {}

    def check(self, trial: Trial, metrics: EpochMetrics) -> str | None:
        """Tags a trial whose guidance is inert or dominant; returns a message for the first trial of each state."""
        ratio = metrics.values.get("guidance/ratio")
        if ratio is None or trial.key in self._states or not (ratio < INERT or ratio > DOMINANT):
            return None
        state = "inert" if ratio < INERT else "dominant"
        first = state not in self._states.values()
        self._states[trial.key] = state
        if not first:
            return None
        return (
            f"trial {trial.number}: guidance is {state}, its gradient {ratio:.2g} times the task's over epoch "
            f"{metrics.epoch}: {HINTS[state]}. All such trials have the MLflow tag sweep.guidance = {state}."
        )

    def tags(self, key: Key) -> dict[str, str]:
        """Returns the MLflow tags of a trial."""
        return {"sweep.guidance": self._states[key]} if key in self._states else {}
