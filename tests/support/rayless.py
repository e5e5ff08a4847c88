"""Drivers that a test can kill: `service.run` with the local executor, each in a process that starts in a second.

They are forked from a process that has imported everything and opened nothing; all they run is what every run does.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (imported before the fork, as is all that follows)
import pytest
import scipy.stats  # noqa: F401

from sweep import service
from sweep.config.resources import Resources
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.config.trial_config import TrialConfig
from sweep.execution import EXECUTORS, TrialSource
from sweep.execution.local import LocalExecutor
from sweep.service.driver import Driver
from sweep.tracking.tracker import Tracker
from sweep.training import trial
from sweep.training.reports import TrialPaths, TrialReport
from sweep.training.trial import run_trial

from .empty_store import with_store

Death = tuple[int, float]  # before so many reports of trials, and so many seconds more
Moment = tuple[type, str, int, str]  # a class, its method, the how manieth call of it, "before" or "after"
STOPPED = 75
KILLED = -signal.SIGALRM  # the exit code of such a death, which is as sudden as kill -9
EVERY_EPOCH = "every-epoch"  # an executor: the local one, but each epoch is checkpointed and reported at once

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


class Listener(service.RunCallback):
    """Keeps what the user is told, and nothing else."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def on_message(self, message: str) -> None:
        self.said.append(message)


class Impatient(Listener):
    """A listener that stops what it listens to when so many trials have ended."""

    def __init__(self, trials: int):
        super().__init__()
        self._left, self.stop = trials, threading.Event()

    def on_trial_end(self, *_: object) -> None:
        self._left -= 1
        if not self._left:
            self.stop.set()


class EveryEpoch(LocalExecutor):
    def execute(self, source: TrialSource, resources: Resources, *, stop: threading.Event, **_: object) -> None:
        super().execute(source, resources, stop=stop, run_trial=f"{__name__}:report_every_epoch")


EXECUTORS[EVERY_EPOCH] = f"{__name__}:{EveryEpoch.__name__}"


def report_every_epoch(config: TrialConfig, paths: TrialPaths, *, attempt: int, **_: object) -> Iterator[TrialReport]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "CHECKPOINT_SHARE", 1e9)
        yield from run_trial(config, paths, attempt=attempt, interval=0.0)


def without_models(patch: pytest.MonkeyPatch) -> None:
    """Does not log the best model, which takes seconds."""
    patch.setattr(Tracker, "log_model", lambda *_: None)


def die_at(moment: Moment, die: Callable[[], object]) -> None:
    """This process is killed at a call of a method."""
    owner, name, count, when = moment
    method, calls = getattr(owner, name), itertools.count(1)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == count
        if now and when == "before":
            die()
        result = method(*args, **kwargs)
        if now and when == "after":
            die()
        return result

    setattr(owner, name, deadly)


def _run(config: dict[str, Any], places: dict[str, str], death: Death | None, moment: Moment | None, how: str) -> None:
    without_models(pytest.MonkeyPatch())
    if death is not None:
        reports, seconds = death
        die_at((Driver, "report", reports, "before"), lambda: signal.setitimer(signal.ITIMER_REAL, seconds))
    if moment is not None:
        die_at(moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
    settings = Settings(**places)  # type: ignore[arg-type]
    service.run(StudyConfig.model_validate(config), settings, Listener(), service.RunOptions(executor=how))


def _confirm(name: str, places: dict[str, str], trials: int) -> None:
    without_models(pytest.MonkeyPatch())
    listener = Impatient(trials)
    settings = Settings(**places)  # type: ignore[arg-type]
    options = service.RunOptions(stop=listener.stop, executor=EVERY_EPOCH)
    done = service.confirm(name, settings, lambda *_: contextlib.nullcontext(listener), options=options)
    sys.exit(0 if done else STOPPED)


def start(
    config: StudyConfig,
    workspace: Path,
    storage: str,
    *,
    death: Death | None = None,
    moment: Moment | None = None,
    every_epoch: bool = False,
) -> BaseProcess:
    """Starts a driver; its exit code is 0 when the study is over. With ``death`` or ``moment`` it dies before."""
    how = EVERY_EPOCH if every_epoch or death is not None or moment is not None else "local"
    return _started(_run, config.model_dump(mode="json"), _places(workspace, storage), death, moment, how)


def start_to_confirm(name: str, workspace: Path, storage: str, *, trials: int) -> BaseProcess:
    """Starts to confirm a study, and stops when so many trials have ended: its exit code is then `STOPPED`."""
    return _started(_confirm, name, _places(workspace, storage), trials)


def _places(workspace: Path, storage: str) -> dict[str, str]:
    return {
        "workspace": str(with_store(workspace)),
        "storage": storage,
        "tracking_uri": f"sqlite:///{workspace}/mlflow.db",
    }


def _started(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = _processes.Process(target=target, args=arguments)
    process.start()
    return process
