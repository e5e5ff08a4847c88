"""What a trial reports, epoch by epoch: the units that travel from a worker to the study and the tracker."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

REPORT_EVERY = 0.5  # seconds between two reports of a trial, at least
REPORT_WITHIN = 2.0  # seconds after which it reports epochs that nobody judges, to be seen, and safe on disk


def is_due(
    pending: Iterable[int], seconds: float, judged: Collection[int] | None, *, every: float = REPORT_EVERY
) -> bool:
    """Whether a trial reports its pending epochs: each report costs the driver time, and the trial until it answers.

    Args:
        pending: epochs that it has trained since its last report.
        seconds: since then.
        judged: the epochs at which it may be stopped; None: any.
        every: seconds between two reports, at least.
    """
    return seconds >= (
        every if judged is None or any(epoch in judged for epoch in pending) else max(every, REPORT_WITHIN)
    )


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """The metrics of one finished epoch.

    Attributes:
        epoch: counted from 1.
        values: metric name -> value; names as in the README (``val_loss``, ``entropy/<layer>``, ...).
        timestamp: milliseconds since the Unix epoch, taken once when the epoch ended and kept in the checkpoint, so
            that an epoch sent twice to the tracking server is stored once.
    """

    epoch: int
    values: dict[str, float]
    timestamp: int


@dataclass(frozen=True)
class Report:
    """Epochs that the checkpoint at ``checkpoint`` holds, in order; with an ``outcome`` it is the trial's last.

    Attributes:
        notices: what the user should know, said once.
    """

    epochs: list[EpochMetrics]
    checkpoint: Path | None
    outcome: Literal["completed", "diverged"] | None = None
    error: str | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a trial reads and writes.

    Attributes:
        folder: the trial's checkpoints, one folder per attempt below it.
        data: root of the data sets.
        cache: their memory-mapped arrays.
        gpus: how many GPUs the trial was given, or what share of one.
    """

    folder: Path
    data: Path
    cache: Path
    gpus: float = 0.0
