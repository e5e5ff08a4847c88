"""The interface between a run and what executes its trials. A new executor is one class and a line in `EXECUTORS`."""

import pkgutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, cast

from ..config.errors import ConfigError, nearest
from ..config.sections import Resources
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from .trial_source import TrialSource

EXECUTORS = {  # imported when chosen: Ray alone takes a second
    "ray": "sweep.execution.ray_executor:RayExecutor",
    "local": "sweep.execution.local:LocalExecutor",
}


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
