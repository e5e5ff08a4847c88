"""A study whose trials sleep, run by everything that runs a real one: what the driver and its servers can carry."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psutil

from ...config.settings import Settings
from ...config.study_config import StudyConfig
from ...execution.session import ray_session
from ...execution.trial_source import Key, TrialRequest
from ...study.distributions import distributions, random_point
from ...study.pruners import pruning_epochs
from ...study.storages.catalog import get_storage
from ...study.study import Study
from ...tracking.tracker import Tracker
from ...training import simulated_trial as simulated
from ...training.reports import TrialPaths, TrialReport
from ..driver import Driver
from ..recorder import Recorder
from .utilisation import Capacity, Samples, capacity

if TYPE_CHECKING:
    from ..driver import RunCallback

WAITS = "workers that start"  # in place of a study's name
NO_OTHER = 120.0  # seconds since the last worker began, after which the study does with those that are there

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
    """What is simulated.

    Attributes:
        slots: trials at once.
        finished: trials that the study has before it begins.
    """

    trials: int
    slots: int
    epochs: int
    epoch_seconds: float
    finished: int = 0
    sampler: str = "tpe"
    pruner: str = "median"


def study_of(load: Load) -> StudyConfig:
    """A study of its own name, with the five hyperparameters and a learning rate."""
    return StudyConfig.model_validate(
        {
            "name": f"simulation-{datetime.now():%Y%m%d-%H%M%S}",
            "model": {"name": simulated.MODEL, "epoch_seconds": load.epoch_seconds},
            "data": {"name": "digits"},  # not read
            "objective": {"metric": "val_loss", "direction": "minimize"},
            "space": SPACE,
            "training": {"max_epochs": load.epochs},
            "search": {
                "trials": load.finished + load.trials,
                "sampler": load.sampler,
                "pruner": load.pruner,
                "finalists": {"top": 0},
            },
            "resources": {"cpus": 1, "gpus": 0, "max_concurrent": load.slots},
        }
    )


def simulate(
    load: Load, config: StudyConfig, settings: Settings, listener: RunCallback, *, stop: threading.Event | None = None
) -> Capacity:
    """Runs the study; its trials write no checkpoints, so that nothing can go on with it.

    Args:
        config: from `study_of`.
        stop: when set, the run ends early.

    Raises:
        SweepError: storage, tracking server or cluster out of reach.
    """
    from ...execution.executor import execute

    stop = stop or threading.Event()
    with ray_session(settings.address, config, cpus=load.slots):
        storage, workspace = get_storage(settings.storage), settings.workspace
        search, controls = (Study(config, storage, workspace=workspace, sister=sister) for sister in (False, True))
        tracker = Tracker.of(config.name, settings)
        tracker.open(description="Trials that sleep: `sweep simulate`", params=config.identity(), tags={})
        try:
            search.add_finished(_finished(load, config))
            search.enqueue_budget()
            recording = Recorder(config, settings, search, controls, tracker, listener.on_message)
            with _Measured(config, settings, search, controls, recording, listener) as driver:
                recording.note_code()
                execute(driver, config.resources, stop=stop, run_trial=f"{simulated.__name__}:run_trial")
            over = driver.is_finished()
        except BaseException:
            tracker.close(status="KILLED", timeout=5)
            raise
    if not tracker.close(status="FINISHED" if over else "KILLED", timeout=60):
        listener.on_message(f"tracking: {tracker.problem}")
    return capacity(driver.samples, slots=load.slots, epoch_seconds=load.epoch_seconds)


class _Measured(Driver):
    """The driver, which lets all workers start before the first trial; then it notes how long it takes.

    Until each slot has a worker they are given trials of no study, which wait: on one machine, the start of some would
    slow the trials of the others down, which are on machines of their own in what is simulated.
    """

    def __init__(self, config: StudyConfig, settings: Settings, *parts: Any):
        super().__init__(config, settings, *parts)
        self.samples = Samples()
        self._process = psutil.Process()
        trial = config.trial(random_point(distributions(config.searched), seed=0, number=0))
        trial = trial.model_copy(update={"model": {**trial.model, "waits": True}})
        place = TrialPaths(settings.workspace, settings.data, settings.cache)
        slots = config.resources.max_concurrent or 1
        self._wait = [
            TrialRequest((WAITS, number), trial, place, attempt=1, exclusive=False) for number in range(slots)
        ]
        self._there: dict[Key, float] = {}
        self._slots = slots
        self._began_waiting: float | None = time.monotonic()  # None: no longer

    def ask(self) -> TrialRequest | None:
        if self._wait:
            return self._wait.pop()
        if not self._all_there():
            return None
        began = time.perf_counter()
        job = super().ask()
        if job is not None:
            self.samples.asks.append(time.perf_counter() - began)
        return job

    def _all_there(self) -> bool:
        """Whether each slot has a worker, or no other comes; from then on always."""
        if self._began_waiting is not None:
            last = max(self._there.values(), default=self._began_waiting)
            if len(self._there) == self._slots or time.monotonic() - last > NO_OTHER:
                self._began_waiting = None
                self._wait.clear()
        return self._began_waiting is None

    def on_trial_start(self, key: Key) -> None:
        if key[0] != WAITS:
            super().on_trial_start(key)
            self.samples.handed_out.append(time.time())

    def report(self, key: Key, result: TrialReport) -> bool:
        if key[0] == WAITS:
            self._there.setdefault(key, time.monotonic())
            return self._all_there()
        began = time.perf_counter()
        ended = super().report(key, result)
        noted = self.samples
        noted.reports.append(time.perf_counter() - began)
        for metrics in result.epochs:
            worker = f"{result.tags['sweep.host']} {metrics.values['worker/pid']:.0f}"
            noted.epochs.setdefault(key[1], []).append((worker, metrics.timestamp / 1e3))
            noted.workers[worker] = 1e6 * metrics.values.get("worker/mb", noted.workers.get(worker, 0.0) / 1e6)
        if ended:
            noted.memory = max(noted.memory, self._process.memory_info().rss)
        return ended


def _finished(load: Load, config: StudyConfig) -> Iterator[dict[str, Any]]:
    """Trials at random, every other one pruned, as `sweep.study.warm_start` has them."""
    space, epochs = distributions(config.searched), sorted(pruning_epochs(config))
    for number in range(load.finished):
        params = random_point(space, seed=config.training.seed, number=number)
        pruned = number % 2 == 1
        there = epochs[: len(epochs) // 2] if pruned else epochs
        values = {str(e): simulated.metrics(config.trial(params), e)["val_loss"] for e in there}
        outcome, value = ("pruned", None) if pruned else ("completed", values[str(load.epochs)])
        yield {"outcome": outcome, "value": value, "params": params, "intermediate": values}
