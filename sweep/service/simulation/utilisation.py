"""How busy the slots of a run were: sums over what its workers reported, and over what the driver took to answer.

Slot time counts as spent in trials by the nominal seconds of each epoch, so that whatever holds a worker up counts
against it: a late start, the wait for the driver's word, a machine that wakes it late.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Window = tuple[float, float]
"""From when to when, in seconds since the Unix epoch."""


@dataclass
class Samples:
    """What is noted while a run goes on.

    Attributes:
        epochs: of each trial, worker and end of each epoch.
        asks: seconds of each answer to "which trial next?".
        reports: seconds of each answer to a worker's report.
        handed_out: when a worker was given a trial.
        memory: bytes of the driver, at most.
        workers: bytes of each worker, what it shares with others left out.
    """

    epochs: dict[int, list[tuple[str, float]]] = field(default_factory=dict)
    asks: list[float] = field(default_factory=list)
    reports: list[float] = field(default_factory=list)
    handed_out: list[float] = field(default_factory=list)
    memory: float = 0.0
    workers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile and maximum, in milliseconds."""

    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of some measurements in seconds; NaN where there are none."""
        return cls(*(1e3 * np.quantile(seconds or [np.nan], (0.5, 0.95, 1.0))).tolist())


@dataclass(frozen=True)
class Capacity:
    """What a run came to.

    Attributes:
        steady: share of slot time in trials, of each slot from its own first trial on, until the last trial of the
            budget was handed out; None where there was no such time.
        steady_seconds: of slot time that is.
        whole: the same share from the first trial's start to the last one's end, start of workers and tail included.
        whole_seconds: how long that was.
        results: a second, over the whole.
        suggestion: milliseconds that a trial was asked for; workers wait for it only where none was asked ahead.
        report: milliseconds until a worker's report was answered.
        turnover: milliseconds that a slot was without a trial between two.
        driver_mb: of the driver's process, at most.
        worker_mb: of all workers, what they share left out.
    """

    steady: float | None
    steady_seconds: float
    whole: float
    whole_seconds: float
    results: float
    suggestion: Spread
    report: Spread
    turnover: Spread
    driver_mb: float
    worker_mb: float


def capacity(samples: Samples, *, slots: int, epoch_seconds: float) -> Capacity:
    """Sums up a run.

    Args:
        slots: trials that could have run at once.
        epoch_seconds: what an epoch takes.
    """
    ends = np.sort([end for trial in samples.epochs.values() for _, end in trial])
    whole = (float(ends[0]) - epoch_seconds, float(ends[-1])) if len(ends) else (0.0, 0.0)
    by_worker: dict[str, list[Window]] = {}  # the trials of each
    for trial in samples.epochs.values():
        by_worker.setdefault(trial[0][0], []).append((trial[0][1] - epoch_seconds, trial[-1][1]))
    until = max(samples.handed_out, default=0.0)
    there = sum(max(0.0, until - min(trials)[0]) for trials in by_worker.values())
    turnover = [
        later[0] - before[1]
        for trials in map(sorted, by_worker.values())
        for before, later in itertools.pairwise(trials)
    ]
    return Capacity(
        steady=_within(ends, epoch_seconds, until) / there if there else None,
        steady_seconds=there,
        whole=epoch_seconds * len(ends) / max(slots * (whole[1] - whole[0]), 1e-9),
        whole_seconds=whole[1] - whole[0],
        results=len(samples.reports) / max(whole[1] - whole[0], 1e-9),
        suggestion=Spread.of(samples.asks),
        report=Spread.of(samples.reports),
        turnover=Spread.of(turnover),
        driver_mb=samples.memory / 1e6,
        worker_mb=sum(samples.workers.values()) / 1e6,
    )


def _within(ends: np.ndarray, epoch_seconds: float, until: float) -> float:
    """Seconds of epochs, given by their ends, that lie before a moment."""
    return float(np.clip(until - (ends - epoch_seconds), 0.0, epoch_seconds).sum())
