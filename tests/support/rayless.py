"""Drivers without Ray: `service.run` with an executor that runs trials one after the other in the driver's own process.

Such a driver starts in a second, so that a test can kill many of them. They are forked from a process that has imported
everything and opened nothing; storage, tracker, driver and trials are those of every run.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (imported before the fork, as is all that follows)
import pytest
import scipy.stats  # noqa: F401

from sweep import service
from sweep.config.sections import Resources
from sweep.config.settings import Settings
from sweep.config.study_config import StudyConfig
from sweep.execution import executor, session, slots
from sweep.execution.trial_source import TrialRequest, TrialSource
from sweep.service import driver  # noqa: F401
from sweep.tracking import tracker as tracking
from sweep.training import trial
from sweep.training.reports import TrialReport
from sweep.training.trial import run_trial

Death = tuple[int, float]  # after so many reports of trials, and so many seconds more
Moment = tuple[type, str, int, str]  # a class, its method, the how manieth call of it, "before" or "after"
STOPPED = 75
KILLED = -signal.SIGALRM  # the exit code of such a death, which is as sudden as kill -9

WHERE = {"sweep.host": "here", "sweep.device": "cpu"}

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


def execute(source: TrialSource, *, stop: threading.Event, death: Death | None, every_epoch: bool) -> None:
    """Does what `sweep.execution.executor.execute` does."""
    reported = itertools.count(1)
    while not stop.is_set() and not source.is_finished():
        job = source.ask()
        if job is None:
            time.sleep(0.02)
            continue
        source.on_trial_start(job.key)
        for result in _results(job, every_epoch=every_epoch):
            if death is not None and next(reported) == death[0]:
                signal.setitimer(signal.ITIMER_REAL, death[1])
            if source.report(job.key, result):
                break


def _results(job: TrialRequest, *, every_epoch: bool) -> Iterator[TrialReport]:
    # Every epoch is one that is due, where a report need not wait.
    pace = {"interval": 0.0} if every_epoch else {"interval": 0.5, "pruning_epochs": job.pruning_epochs}
    try:
        for report in run_trial(job.config, job.paths, attempt=job.attempt, **pace):  # type: ignore[arg-type]
            yield replace(report, tags=WHERE)
    except Exception:  # noqa: BLE001 (a trial's own error is a result)
        yield TrialReport([], outcome="failed", error=traceback.format_exc(), tags=WHERE)


def without_ray(
    patch: pytest.MonkeyPatch, *, death: Death | None = None, every_epoch: bool = False, models: bool = False
) -> None:
    """From here on `service.run` and `confirm` train in this process.

    Args:
        death: when the process dies.
        every_epoch: write a checkpoint and report after every epoch, whatever it costs.
        models: log the best one, which takes seconds.
    """

    def instead(source: TrialSource, _resources: Resources, *, stop: threading.Event) -> None:
        execute(source, stop=stop, death=death, every_epoch=every_epoch)

    patch.setattr(executor, "execute", instead)
    patch.setattr(slots, "require_fit", lambda *_, **__: None)
    for module in (session, sys.modules["sweep.service.run"], sys.modules["sweep.service.confirm"]):
        patch.setattr(module, "ray_session", lambda *_: contextlib.nullcontext())
    if not models:
        patch.setattr(tracking.Tracker, "log_model", lambda *_: None)
    if every_epoch:
        patch.setattr(trial, "CHECKPOINT_SHARE", 1e9)


def die_at(moment: Moment) -> None:
    """This process is killed at a call of a method."""
    owner, name, count, when = moment
    method, calls = getattr(owner, name), itertools.count(1)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == count
        if now and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*args, **kwargs)
        if now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def _run(
    config: dict[str, Any], places: dict[str, str], death: Death | None, moment: Moment | None, every_epoch: bool
) -> None:
    without_ray(pytest.MonkeyPatch(), death=death, every_epoch=every_epoch)
    if moment is not None:
        die_at(moment)
    service.run(StudyConfig.model_validate(config), Settings(**places), Listener())  # type: ignore[arg-type]


def _confirm(name: str, places: dict[str, str], trials: int) -> None:
    without_ray(pytest.MonkeyPatch(), every_epoch=True)
    listener = Impatient(trials)
    settings = Settings(**places)  # type: ignore[arg-type]
    options = service.RunOptions(stop=listener.stop)
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
    every_epoch = every_epoch or death is not None or moment is not None
    places = _places(workspace, storage)
    return _started(_run, config.model_dump(mode="json"), places, death, moment, every_epoch)


def start_to_confirm(name: str, workspace: Path, storage: str, *, trials: int) -> BaseProcess:
    """Starts to confirm a study, and stops when so many trials have ended: its exit code is then `STOPPED`."""
    return _started(_confirm, name, _places(workspace, storage), trials)


def _places(workspace: Path, storage: str) -> dict[str, str]:
    return {"workspace": str(workspace), "storage": storage, "tracking_uri": f"sqlite:///{workspace}/mlflow.db"}


def _started(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = _processes.Process(target=target, args=arguments)
    process.start()
    return process
