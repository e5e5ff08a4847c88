"""Utilisation of a run's slots, which every delay lowers as epochs count nominally, and driver response times."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np


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
