"""The interface between a run, which is a source of trials, and its executor: a class, named in `EXECUTORS`."""

import pkgutil
import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

from ..config.errors import ConfigError, nearest
from ..config.resources import Resources
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.trial_config import TrialConfig
from ..training.reports import OomKind, TrialPaths, TrialReport
from . import EXECUTORS

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
        """Called when the executor gives a trial up because its workers died; ``oom`` names the exhausted memory."""


class Executor(Protocol):
    """Runs trials; `sweep.service.run` calls the methods in this order, all but `preload` from one thread."""

    def preload(self) -> None:
        """Imports what `execute` needs. Called in a thread, while `connect` waits for other processes."""

    def connect(self, config: StudyConfig, settings: Settings) -> AbstractContextManager[None]:
        """Connects for a ``with`` block, unless in another such block; raises SweepError if nothing answers."""

    def check(
        self, config: StudyConfig, settings: Settings, *, insecure: bool, on_message: Callable[[str], None]
    ) -> None:
        """Raises a ConfigError with all reasons why the study cannot be executed here, before anything is written.

        ``insecure`` accepts a cluster that asks for no token; ``on_message`` receives what the user should know.
        """

    def execute(self, source: TrialSource, resources: Resources, *, stop: threading.Event) -> None:
        """Runs the source's trials until it is finished. Once ``stop`` is set, running trials end at a checkpoint.

        Raises the error that the source raised, or a SweepError if no trial can go on, as on a full disk.
        """


def get_executor(name: str) -> Executor:
    """Returns the executor of a name in `EXECUTORS`; raises ConfigError if there is none of that name.

    Example:
        >>> type(get_executor("local")).__name__
        'LocalExecutor'
    """
    if name not in EXECUTORS:
        known = ", ".join(EXECUTORS)
        raise ConfigError("executor", [f"--executor {name}: must be one of {known}{nearest(name, [*EXECUTORS])}"])
    return cast("Executor", pkgutil.resolve_name(EXECUTORS[name])())
