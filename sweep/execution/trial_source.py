"""The interface from which an executor gets its trials, and to which it returns their reports."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from ..config.study_config import TrialConfig
from ..training.reports import OomKind, TrialPaths, TrialReport

Key = tuple[str, int]  # study and number


@dataclass(frozen=True)
class TrialRequest:
    """One trial for a worker."""

    key: Key
    config: TrialConfig
    paths: TrialPaths
    attempt: int  # counts the drivers that have claimed the trial, and its retries; from 1
    exclusive: bool = False  # ran out of memory before: runs while no other trial does, with a whole GPU if with any
    pruning_epochs: Collection[int] | None = None  # epochs after which the source may stop it; None: after any


class TrialSource(Protocol):
    """Hands out trials and receives their reports. An executor calls it from its loop; `ask` from one thread."""

    def ask(self) -> TrialRequest | None:
        """Returns the next trial, or None if there is none now (see `is_finished`). Called ahead of need."""

    def is_finished(self) -> bool:
        """Returns True once no further trial will come."""

    def on_trial_start(self, key: Key) -> None:
        """Called when a trial is assigned to a worker, and again when it moves to another one."""

    def report(self, key: Key, result: TrialReport) -> bool:
        """Processes a report; returns True if the trial must stop here."""

    def n_waiting(self) -> int:
        """Returns the number of trials that `ask` could return now: a cluster adds nodes for these."""

    def on_message(self, message: str) -> None:
        """Called with a message for the user."""

    def on_trial_lost(self, key: Key, error: str, oom: OomKind | None = None) -> None:
        """Called when the executor gives a trial up because its workers died; ``oom``: of which exhausted memory."""
