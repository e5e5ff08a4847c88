"""Where an executor gets trials from and takes their results to; it knows neither Ray nor the storage."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from ..config.study_config import TrialConfig
from ..training.reports import OomKind, TrialPaths, TrialReport

Key = tuple[str, int]


@dataclass(frozen=True)
class TrialRequest:
    """One trial for a worker.

    Attributes:
        key: what the source knows it by.
        attempt: how often the trial was taken up.
        alone: it was out of memory: it runs when no other trial does, on a whole GPU if on any.
        judged: the epochs at which the source may stop it; None: any.
    """

    key: Key
    config: TrialConfig
    paths: TrialPaths
    attempt: int
    exclusive: bool = False
    pruning_epochs: Collection[int] | None = None


class TrialSource(Protocol):
    """Where trials come from and their results go; called from the driver's loop, except `ask`."""

    def ask(self) -> TrialRequest | None:
        """Returns the next trial, or None: nothing now (see `finished`). Called from one thread, ahead of need."""

    def is_finished(self) -> bool:
        """Whether no further trial will come."""

    def on_trial_start(self, key: Key) -> None:
        """Called when a trial was handed to a worker."""

    def report(self, key: Key, result: TrialReport) -> bool:
        """Takes a result in; returns whether the trial must stop here."""

    def n_waiting(self) -> int:
        """How many trials could be asked for now: where a cluster grows, it does for these."""

    def on_message(self, message: str) -> None:
        """Called with what the user should know."""

    def on_trial_lost(self, key: Key, error: str, oom: OomKind | None = None) -> None:
        """Called when a trial was given up after its workers died, for lack of memory if there was any."""
