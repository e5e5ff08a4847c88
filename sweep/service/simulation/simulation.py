"""Runs a study whose trials sleep, with the driver and the servers of a real one, to measure their capacity."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psutil

from ...config.settings import Settings
from ...config.study_config import StudyConfig
from ...execution.ray_executor import RayExecutor
from ...execution.trial_source import Key, TrialRequest
from ...study.distributions import distributions, random_point
from ...study.pruners import pruning_epochs
from ...study.storages.catalog import get_storage
from ...study.study import Study
from ...tracking.tracker import Tracker
from ...training import simulated_trial as simulated
from ...training.reports import TrialPaths, TrialReport
from ..callback import RunCallback
from ..driver import Driver
from ..recorder import Recorder
from .utilisation import Capacity, Samples, measure_capacity

WAITS = "workers that start"  # stands for a study's name
NO_OTHER = 120.0  # seconds without a new worker, after which the study starts with the present ones

SPACE = {
    "lambda1": {"low": 1e-5, "high": 1e-1, "log": True},
    "lambda2": 0.0,
    "epsilon": {"low": 1e-3, "high": 10.0, "log": True},
    "depth": {"low": 1, "high": 8},
    "width": {"choices": [16, 32, 64, 128, 256]},
    "training.lr": {"low": 1e-4, "high": 1e-2, "log": True},
}


@dataclass(frozen=True)
class Load:
    """The simulated load."""

    trials: int
    slots: int  # trials at once
    epochs: int
    epoch_seconds: float
    finished: int = 0  # finished trials that the study begins with
    sampler: str = "tpe"
    pruner: str = "median"


def study_of(load: Load) -> StudyConfig:
    """Returns a study with a name of its own, the five hyperparameters and a learning rate."""
    trials = load.finished + load.trials
    return StudyConfig.model_validate(
        {
            "name": f"simulation-{datetime.now():%Y%m%d-%H%M%S}",
            "model": {"name": simulated.MODEL, "epoch_seconds": load.epoch_seconds},
            "data": {"name": "digits"},  # not read
            "objective": {"metric": "val_loss", "direction": "minimize"},
            "space": SPACE,
            "training": {"max_epochs": load.epochs},
            "search": {"trials": trials, "sampler": load.sampler, "pruner": load.pruner, "finalists": {"top": 0}},
            "resources": {"cpus": 1, "gpus": 0, "max_concurrent": load.slots},
        }
    )


def simulate(
    load: Load, config: StudyConfig, settings: Settings, callback: RunCallback, *, stop: threading.Event | None = None
) -> Capacity:
    """Runs a study from `study_of`; its trials write no checkpoints, so it cannot be resumed."""
    stop, executor = stop or threading.Event(), RayExecutor()
    with executor.connect(config, settings, cpus=load.slots):
        storage, workspace = get_storage(settings.storage), settings.workspace
        search, controls = (Study(config, storage, workspace=workspace, sister=sister) for sister in (False, True))
        tracker = Tracker.of(config.name, settings)
        tracker.open(description="Trials that sleep: `sweep simulate`", params=config.identity(), tags={})
        try:
            search.add_finished(_finished(load, config))
            search.enqueue_budget()
            recorder = Recorder(config, settings, search, controls, tracker, callback.on_message)
            with _Measured(config, settings, search, controls, recorder, callback) as driver:
                recorder.note_code()
                executor.execute(driver, config.resources, stop=stop, run_trial=f"{simulated.__name__}:run_trial")
            over = driver.is_finished()
        except BaseException:
            tracker.close(status="KILLED", timeout=5)
            raise
    if not tracker.close(status="FINISHED" if over else "KILLED", timeout=60):
        callback.on_message(f"tracking: {tracker.error}")
    return measure_capacity(driver.samples, slots=load.slots, epoch_seconds=load.epoch_seconds)


class _Measured(Driver):
    """A driver that measures its response times, once each slot has a worker: a start slows down other trials."""

    def __init__(self, config: StudyConfig, settings: Settings, *parts: Any):
        super().__init__(config, settings, *parts)
        self.samples = Samples()
        trial = config.trial(random_point(distributions(config.searched), seed=0, number=0))
        trial = trial.model_copy(update={"model": {**trial.model, "waits": True}})
        place = TrialPaths(settings.workspace, settings.data, settings.cache)
        slots = config.resources.max_concurrent or 1
        self._wait = [TrialRequest((WAITS, i), trial, place, attempt=1, exclusive=False) for i in range(slots)]
        self._present: dict[Key, float] = {}
        self._slots = slots
        self._began_waiting: float | None = time.monotonic()  # None: no longer

    def ask(self) -> TrialRequest | None:
        if self._wait:
            return self._wait.pop()
        if not self._all_present():
            return None
        began = time.perf_counter()
        job = super().ask()
        if job is not None:
            self.samples.asks.append(time.perf_counter() - began)
        return job

    def _all_present(self) -> bool:
        """Returns True if each slot has a worker or no more workers come, and always from then on."""
        if self._began_waiting is not None:
            last = max(self._present.values(), default=self._began_waiting)
            if len(self._present) == self._slots or time.monotonic() - last > NO_OTHER:
                self._began_waiting = None
                self._wait.clear()
        return self._began_waiting is None

    def on_trial_start(self, key: Key) -> None:
        if key[0] != WAITS:
            super().on_trial_start(key)
            self.samples.handed_out.append(time.time())

    def report(self, key: Key, result: TrialReport) -> bool:
        if key[0] == WAITS:
            self._present.setdefault(key, time.monotonic())
            return self._all_present()
        began = time.perf_counter()
        ended = super().report(key, result)
        noted = self.samples
        noted.reports.append(time.perf_counter() - began)
        for metrics in result.epochs:
            worker = f"{result.tags['sweep.host']} {metrics.values['worker/pid']:.0f}"
            noted.epochs.setdefault(key[1], []).append((worker, metrics.timestamp / 1e3))
            noted.workers[worker] = 1e6 * metrics.values.get("worker/mb", noted.workers.get(worker, 0.0) / 1e6)
        if ended:
            noted.memory = max(noted.memory, psutil.Process().memory_info().rss)
        return ended


def _finished(load: Load, config: StudyConfig) -> Iterator[dict[str, Any]]:
    """Yields random trials, every other one pruned, in the format of `sweep.study.warm_start`."""
    space, epochs = distributions(config.searched), sorted(pruning_epochs(config))
    for number in range(load.finished):
        params = random_point(space, seed=config.training.seed, number=number)
        pruned = number % 2 == 1
        there = epochs[: len(epochs) // 2] if pruned else epochs
        values = {str(e): simulated.metrics(config.trial(params), e)["val_loss"] for e in there}
        outcome, value = ("pruned", None) if pruned else ("completed", values[str(load.epochs)])
        yield {"outcome": outcome, "value": value, "params": params, "intermediate": values}
