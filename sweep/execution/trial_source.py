"""Where an executor gets trials from and takes their results to; it knows neither Ray nor the storage."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..config.study_config import TrialConfig
from ..training.reports import EpochMetrics, Place
from .out_of_memory import Memory

Key = tuple[str, int]


@dataclass(frozen=True)
class Job:
    """One trial for a worker.

    Attributes:
        key: what the source knows it by.
        attempt: how often the trial was taken up.
        alone: it was out of memory: it runs when no other trial does, on a whole GPU if on any.
        judged: the epochs at which the source may stop it; None: any.
    """

    key: Key
    config: TrialConfig
    place: Place
    attempt: int
    alone: bool = False
    judged: Collection[int] | None = None


@dataclass(frozen=True)
class Result:
    """What a worker reports: the epochs that a checkpoint now holds; with an ``outcome``, the last report.

    Attributes:
        where: tags that say on what it ran: host and device.
        notices: what the user should know.
        lack: the memory that was not enough, of a trial that failed for that.
    """

    epochs: list[EpochMetrics]
    checkpoint: str | None
    outcome: str | None
    error: str | None
    where: dict[str, str]
    notices: Sequence[str] = ()
    lack: Memory | None = None


class Source(Protocol):
    """Where trials come from and their results go; called from the driver's loop, except `ask`."""

    def ask(self) -> Job | None:
        """Returns the next trial, or None: nothing now (see `finished`). Called from one thread, ahead of need."""

    def finished(self) -> bool:
        """Whether no further trial will come."""

    def started(self, key: Key) -> None:
        """Called when a trial was handed to a worker."""

    def report(self, key: Key, result: Result) -> bool:
        """Takes a result in; returns whether the trial must stop here."""

    def waiting(self) -> int:
        """How many trials could be asked for now: where a cluster grows, it does for these."""

    def noticed(self, message: str) -> None:
        """Called with what the user should know."""

    def lost(self, key: Key, error: str, lack: Memory | None = None) -> None:
        """Called when a trial was given up after its workers died, for lack of memory if there was any."""
