"""Drivers without Ray: `service.run` with an executor that runs trials one after the other in the driver's own process.

Such a driver starts in a second, so that a test can kill many of them. They are forked from a process that has imported
everything and opened nothing; storage, tracker, driver and trials are those of every run.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (imported before the fork)

from sweep import driver, executor, service, tracking, trial  # noqa: F401
from sweep.config import Resources, StudyConfig
from sweep.executor import Result, Source
from sweep.settings import Settings
from sweep.trial import run_trial

Death = tuple[int, float]  # after so many reports of trials, and so many seconds more
KILLED = -signal.SIGALRM  # the exit code of such a death, which is as sudden as kill -9

WHERE = {"sweep.host": "here", "sweep.device": "cpu"}

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


class Listener:
    """Keeps what the user is told, and nothing else."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def noticed(self, message: str) -> None:
        self.said.append(message)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def execute(source: Source, *, stop: threading.Event, death: Death | None) -> None:
    """Does what `sweep.executor.execute` does, with a report and a checkpoint for every epoch."""
    reported = itertools.count(1)
    while not stop.is_set() and not source.finished():
        job = source.ask()
        if job is None:
            time.sleep(0.02)
            continue
        source.started(job.key)
        for report in run_trial(job.config, job.place, attempt=job.attempt, interval=0.0):
            if death is not None and next(reported) == death[0]:
                signal.setitimer(signal.ITIMER_REAL, death[1])
            path = str(report.checkpoint) if report.checkpoint else None
            if source.report(job.key, Result(report.epochs, path, report.outcome, report.error, WHERE)):
                break


def run_here(
    config: StudyConfig,
    settings: Settings,
    *,
    death: Death | None = None,
    replace: Callable[[object, str, Any], None] = setattr,
) -> list[str]:
    """Runs a study in this process; returns what the user is told.

    Args:
        replace: puts what goes without Ray in its place; a test's ``monkeypatch.setattr`` takes it away again.
    """

    def instead(source: Source, _resources: Resources, *, stop: threading.Event) -> None:
        execute(source, stop=stop, death=death)

    replace(executor, "execute", instead)
    replace(executor, "parallelism", lambda _: 1)
    replace(trial, "CHECKPOINT_SHARE", 1e9)  # a checkpoint after every epoch, whatever it costs
    replace(service, "_ray", lambda *_: contextlib.nullcontext())
    listener = Listener()
    service.run(config, settings, listener)  # type: ignore[arg-type]
    return listener.said


def _run(config: dict[str, Any], places: dict[str, str], death: Death | None) -> None:
    run_here(StudyConfig.model_validate(config), Settings(**places), death=death)  # type: ignore[arg-type]


def start(config: StudyConfig, workspace: Path, storage: str, *, death: Death | None = None) -> BaseProcess:
    """Starts a driver; its exit code is 0 when the study is over. With ``death`` it dies before."""
    places = {"workspace": str(workspace), "storage": storage, "tracking_uri": f"sqlite:///{workspace}/mlflow.db"}
    process = _processes.Process(target=_run, args=(config.model_dump(mode="json"), places, death))
    process.start()
    return process
