"""Runs a study whose trials sleep, with the driver and the servers of a real one, to measure their capacity."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import numpy as np
import psutil

from ..config.errors import ConfigError
from ..config.settings import Settings
from ..config.study_config import StudyConfig
from ..config.study_file import parse_study
from ..execution.executor import Key, TrialRequest
from ..execution.ray_executor import RayExecutor
from ..study.distributions import distributions, random_point
from ..study.pruners import pruning_epochs
from ..study.storages.catalog import get_storage
from ..study.study import Study
from ..tracking.tracker import Tracker
from ..training import simulated_trial as simulated
from ..training.reports import TrialPaths, TrialReport
from .callback import RunCallback
from .driver import Driver
from .recorder import Recorder

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


@dataclass
class Samples:
    """Measurements during a run."""

    epochs: dict[int, list[tuple[str, float]]] = field(default_factory=dict)  # trial -> worker, end of each epoch
    asks: list[float] = field(default_factory=list)  # seconds of each request for a trial
    reports: list[float] = field(default_factory=list)  # seconds of each answer to a worker's report
    handed_out: list[float] = field(default_factory=list)  # moments at which a worker got a trial
    memory: float = 0.0  # peak bytes of the driver
    workers: dict[str, float] = field(default_factory=dict)  # bytes of each, without shared memory


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile and maximum, in milliseconds."""

    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Returns the spread of measurements in seconds; NaN without any."""
        return cls(*(1e3 * np.quantile(seconds or [np.nan], (0.5, 0.95, 1.0))).tolist())


@dataclass(frozen=True)
class Capacity:
    """The result of a simulated run.

    ``steady`` is the share of slot time spent in trials, from each slot's first trial until the last trial of the
    budget was handed out, None if there was no such time. ``whole`` is the share from the first trial's start to the
    last one's end.
    """

    steady: float | None
    steady_seconds: float
    whole: float
    whole_seconds: float
    results: float  # reports a second, over the whole
    suggestion: Spread  # to claim a trial; a worker waits for it only if none was claimed ahead
    report: Spread  # to answer a worker's report
    turnover: Spread  # of a slot between two trials
    driver_mb: float  # peak
    worker_mb: float  # all workers, without shared memory


def study_of(load: Load) -> StudyConfig:
    """Returns a study with a name of its own, the five hyperparameters and a learning rate.

    Raises:
        ConfigError: the sampler does not suit that space.
    """
    trials = load.finished + load.trials
    raw = {
        "name": f"simulation-{datetime.now():%Y%m%d-%H%M%S}",
        "model": {"name": simulated.MODEL, "epoch_seconds": load.epoch_seconds},
        "data": {"name": "digits"},  # not read
        "objective": {"metric": "val_loss", "direction": "minimize"},
        "space": SPACE,
        "training": {"max_epochs": load.epochs},
        "search": {"trials": trials, "sampler": load.sampler, "pruner": load.pruner, "finalists": {"top": 0}},
        "resources": {"cpus": 1, "gpus": 0, "max_concurrent": load.slots},
    }
    config, problems = parse_study(raw)
    if config is None:
        raise ConfigError("options", problems)
    return config


def simulate(
    load: Load, config: StudyConfig, settings: Settings, callback: RunCallback, *, stop: threading.Event | None = None
) -> Capacity:
    """Runs a study from `study_of`; its trials write no checkpoints, so it cannot be resumed."""
    stop, executor = stop or threading.Event(), RayExecutor()
    with executor.connect(config, settings, cpus=load.slots):
        storage, workspace = get_storage(settings.storage, create=True), settings.workspace
        search, controls = (Study(config, storage, workspace=workspace, sister=sister) for sister in (False, True))
        tracker = Tracker.of(config.name, settings)
        tracker.open(description="Trials that sleep: `sweep simulate`", params=config.identity(), tags={})
        try:
            search.add_finished(_finished(load, config))
            search.enqueue_budget()
            recorder = Recorder(settings, search, controls, tracker, callback)
            with _Measured(recorder) as driver:
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

    def __init__(self, recorder: Recorder):
        super().__init__(recorder)
        config, settings, self.samples = recorder.config, recorder.settings, Samples()
        trial = config.trial(random_point(distributions(config.searched), seed=0, number=0))
        trial = trial.model_copy(update={"model": {**trial.model, "waits": True}})
        place = TrialPaths(settings.workspace, settings.data, settings.cache)
        self._slots = config.resources.max_concurrent or 1
        self._wait = [TrialRequest((WAITS, i), trial, place, attempt=1) for i in range(self._slots)]
        self._present: dict[Key, float] = {}
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
        began, noted = time.perf_counter(), self.samples
        ended = super().report(key, result)
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


def measure_capacity(samples: Samples, *, slots: int, epoch_seconds: float) -> Capacity:
    """Returns the utilisation and response times of a run whose epochs take ``epoch_seconds`` nominally."""
    ends = np.sort([end for trial in samples.epochs.values() for _, end in trial])
    whole = (float(ends[0]) - epoch_seconds, float(ends[-1])) if len(ends) else (0.0, 0.0)
    by_worker: dict[str, list[tuple[float, float]]] = {}  # worker -> start and end of its trials
    for trial in samples.epochs.values():
        by_worker.setdefault(trial[0][0], []).append((trial[0][1] - epoch_seconds, trial[-1][1]))
    until = max(samples.handed_out, default=0.0)
    there = sum(max(0.0, until - min(trials)[0]) for trials in by_worker.values())
    neighbours = [pair for trials in by_worker.values() for pair in itertools.pairwise(sorted(trials))]
    return Capacity(
        steady=float(np.clip(until - (ends - epoch_seconds), 0.0, epoch_seconds).sum()) / there if there else None,
        steady_seconds=there,
        whole=epoch_seconds * len(ends) / max(slots * (whole[1] - whole[0]), 1e-9),
        whole_seconds=whole[1] - whole[0],
        results=len(samples.reports) / max(whole[1] - whole[0], 1e-9),
        suggestion=Spread.of(samples.asks),
        report=Spread.of(samples.reports),
        turnover=Spread.of([later[0] - before[1] for before, later in neighbours]),
        driver_mb=samples.memory / 1e6,
        worker_mb=sum(samples.workers.values()) / 1e6,
    )
